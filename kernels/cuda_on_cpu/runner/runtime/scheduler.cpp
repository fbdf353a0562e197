// Runs a launch: one block after the other; within a block, a fiber per thread, each until it waits
// for others or ends.

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <vector>

#include "checker.h"
#include "image.h"
#include "launch.h"
#include "shared_memory.h"
#include "stacks.h"
#include "thread.h"
#include "warp.h"

extern "C" {
uint3 threadIdx, blockIdx, blockDim, gridDim;
}

namespace cuda_on_cpu {

Thread *current = nullptr;

namespace {

const Launch *launch;
bool launch_failed;
Fiber scheduler;
std::vector<Thread> threads;
int barrier_result;

// The order in which the blocks of a grid, the warps of a block or the lanes of a warp are run.
class Sequence {
  public:
    void restart(Order order, uint64_t seed)
    {
        order_ = order;
        state_ = seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
        numbers_.clear();
    }

    const std::vector<unsigned> &over(size_t count)
    {
        if (numbers_.size() != count) {
            numbers_.resize(count);
            for (size_t i = 0; i < count; i++) {
                numbers_[i] = unsigned(order_ == Order::Reverse ? count - 1 - i : i);
            }
        }
        if (order_ == Order::Random) {
            for (size_t i = count; i > 1; i--) {
                std::swap(numbers_[i - 1], numbers_[next() % i]);
            }
        }
        return numbers_;
    }

  private:
    // xorshift64 (Marsaglia 2003): any order will do.
    uint64_t next()
    {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_;
    }

    Order order_ = Order::Forward;
    uint64_t state_ = 1;
    std::vector<unsigned> numbers_;
};

Sequence blocks, warps, lanes;

void thread_main()
{
    launch->kernel(launch->arguments);
    current->state = State::Done;
    Fiber::switch_to(current->fiber, scheduler);
    __builtin_unreachable();
}

void resume(Thread &thread)
{
    current = &thread;
    threadIdx = thread.index;
    if (thread.state == State::New) {
        thread.stack = take_stack();
        thread.state = State::Ready;
        thread.fiber.prepare(thread.stack, STACK_BYTES, thread_main);
    }
    Fiber::switch_to(scheduler, thread.fiber);
    current = nullptr;
    if (thread.state == State::Done) {
        give_back_stack(thread.stack);
    }
}

void begin_block(unsigned number)
{
    blockIdx.x = number % gridDim.x;
    blockIdx.y = number / gridDim.x % gridDim.y;
    blockIdx.z = number / gridDim.x / gridDim.y;
    poison_shared_memory();
    check_new_block();
    for (Thread &thread : threads) {
        thread.state = State::New;
        thread.copies.clear();
        thread.copy_group = 0;
    }
    check_barrier(threads.data(), threads.size());
}

void run_warp(unsigned warp)
{
    Thread *first = &threads[warp * WARP_SIZE];
    const unsigned count = std::min<unsigned>(WARP_SIZE, threads.size() - warp * WARP_SIZE);
    do {
        for (unsigned lane : lanes.over(count)) {
            if (first[lane].state <= State::Ready) {
                resume(first[lane]);
                if (failed()) {
                    return;
                }
            }
        }
    } while (answer_warp(first, count));
}

// Lets the threads pass the barrier that all wait at. Returns false where none waits any more, or
// where they will never all arrive.
bool pass_barrier()
{
    const Thread *first = nullptr;
    const Thread *done = nullptr;
    int votes = 0;
    for (const Thread &thread : threads) {
        if (thread.state == State::InWarp) {
            fail_at(
                0, 0,
                "%s: deadlock: %s waits in a warp operation with mask 0x%08x for lanes that never "
                "reach it",
                describe(thread.where).text, describe(thread.number).text, thread.request.mask);
            return false;
        }
        (thread.state == State::Done ? done : first) = &thread;
        votes += thread.state == State::AtBarrier && thread.predicate;
    }
    if (first == nullptr) {
        return false;
    }
    if (done != nullptr) {
        fail_at(0, 0, "%s: divergent barrier: %s waits, but %s has ended",
                describe(first->where).text, describe(first->number).text,
                describe(done->number).text);
        return false;
    }
    for (Thread &thread : threads) {
        if (thread.where.line != first->where.line || thread.where.file != first->where.file) {
            fail_at(0, 0, "%s: divergent barrier: %s waits, but %s waits at %s",
                    describe(first->where).text, describe(first->number).text,
                    describe(thread.number).text, describe(thread.where).text);
            return false;
        }
        thread.state = State::Ready;
    }
    const int count = int(threads.size());
    switch (first->barrier) {
        case Barrier::Any: barrier_result = votes > 0; break;
        case Barrier::All: barrier_result = votes == count; break;
        default: barrier_result = votes;
    }
    check_barrier(threads.data(), threads.size());
    return true;
}

void run_block(unsigned number)
{
    begin_block(number);
    const size_t count = (threads.size() + WARP_SIZE - 1) / WARP_SIZE;
    do {
        for (unsigned warp : warps.over(count)) {
            run_warp(warp);
            if (failed()) {
                return;
            }
        }
    } while (pass_barrier());
}

void make_threads()
{
    threads.resize(size_t(blockDim.x) * blockDim.y * blockDim.z);
    for (unsigned i = 0; i < threads.size(); i++) {
        Thread &thread = threads[i];
        thread.number = i;
        thread.lane = i % WARP_SIZE;
        thread.warp = i / WARP_SIZE;
        thread.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    }
}

} // namespace

void wait_in(State state)
{
    current->state = state;
    Fiber::switch_to(current->fiber, scheduler);
}

int wait_at_barrier(Barrier kind, bool predicate, Location where)
{
    current->barrier = kind;
    current->predicate = predicate;
    current->where = where;
    wait_in(State::AtBarrier);
    return barrier_result;
}

void trap(Location where)
{
    fail_at(0, 0, "%s: __trap by %s", describe(where).text, describe(current->number).text);
    __builtin_unreachable();
}

uint32_t site_of(const void *return_address)
{
    return uint32_t(reinterpret_cast<uint64_t>(return_address) - image().begin);
}

void fail_at(uint32_t site, uint32_t other_site, const char *format, ...)
{
    if (!launch_failed) {
        launch_failed = true;
        Fault &fault = *launch->fault;
        fault.sites[0] = site;
        fault.sites[1] = other_site;
        va_list values;
        va_start(values, format);
        vsnprintf(fault.message, sizeof fault.message, format, values);
        va_end(values);
    }
    if (current != nullptr) {
        wait_in(State::AtBarrier);
    }
}

bool failed() { return launch_failed; }

Text describe(unsigned thread_number)
{
    const uint3 index = threads[thread_number].index;
    Text result;
    snprintf(result.text, sizeof result.text, "thread (%u,%u,%u) of block (%u,%u,%u)", index.x,
             index.y, index.z, blockIdx.x, blockIdx.y, blockIdx.z);
    return result;
}

Text describe(Location where)
{
    const char *slash = strrchr(where.file, '/');
    Text result;
    snprintf(result.text, sizeof result.text, "%s:%d", slash ? slash + 1 : where.file, where.line);
    return result;
}

} // namespace cuda_on_cpu

// Runs a launch; returns whether it failed, as `fault` then says.
extern "C" __attribute__((visibility("default"))) int
cuda_on_cpu_run(const cuda_on_cpu::Launch *given)
{
    using namespace cuda_on_cpu;
    launch = given;
    launch_failed = false;
    gridDim = {given->grid[0], given->grid[1], given->grid[2]};
    blockDim = {given->block[0], given->block[1], given->block[2]};
    make_threads();
    use_stacks(given->stacks);
    prepare_shared_memory(*given);
    blocks.restart(given->order, given->seed);
    warps.restart(given->order, given->seed);
    lanes.restart(given->order, given->seed);
    check_new_launch(*given);
    for (unsigned number : blocks.over(size_t(gridDim.x) * gridDim.y * gridDim.z)) {
        run_block(number);
        if (failed()) {
            break;
        }
    }
    check_end();
    return failed();
}
