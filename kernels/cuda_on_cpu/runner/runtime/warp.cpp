#include "warp.h"

#include <cstring>

#include "checker.h"
#include "shared_memory.h"

namespace cuda_on_cpu {
namespace {

constexpr uint32_t POISON = 0xffffffffu; // what a lane gets from one that takes no part

bool same_request(const WarpRequest &a, const WarpRequest &b)
{
    return a.operation == b.operation && a.mask == b.mask && a.where.line == b.where.line &&
           a.where.file == b.where.file;
}

bool takes_part(unsigned mask, unsigned lane) { return mask >> lane & 1; }

// Whether all the lanes that a request names, of those that the warp has, have made it.
bool complete(const Thread *lanes, unsigned count, const Thread &asking)
{
    for (unsigned lane = 0; lane < count; lane++) {
        if (!takes_part(asking.request.mask, lane)) {
            continue;
        }
        const Thread &other = lanes[lane];
        if (other.state == State::Done) {
            fail_at(0, 0, "%s: %s names, with mask 0x%08x, lane %u, which has ended",
                    describe(asking.where).text, describe(asking.number).text, asking.request.mask,
                    lane);
            return false;
        }
        if (other.state != State::InWarp || !same_request(other.request, asking.request)) {
            return false;
        }
    }
    return true;
}

// The lane whose value a shuffle gives to `lane`, by the rules of PTX's shfl.
unsigned shuffle_source(const WarpRequest &request, unsigned lane)
{
    const unsigned first = lane & ~unsigned(request.width - 1);
    const unsigned last = first + request.width - 1;
    const unsigned argument = unsigned(request.argument);
    unsigned source = lane;
    switch (request.operation) {
        case WarpOperation::Shuffle: return first + (argument & (request.width - 1));
        case WarpOperation::ShuffleXor: source = lane ^ argument; break;
        case WarpOperation::ShuffleDown: source = lane + argument; break;
        default: return lane >= first + argument ? lane - argument : lane;
    }
    return source <= last ? source : lane;
}

void shuffle(Thread *lanes, unsigned count, unsigned mask)
{
    for (unsigned lane = 0; lane < count; lane++) {
        if (!takes_part(mask, lane)) {
            continue;
        }
        const unsigned source = shuffle_source(lanes[lane].request, lane);
        const bool known = source < count && takes_part(mask, source);
        for (size_t i = 0; i < WARP_OUTPUT; i++) {
            lanes[lane].output[i] = known ? lanes[source].input[i] : POISON;
        }
    }
}

void vote(Thread *lanes, unsigned count, const WarpRequest &request)
{
    unsigned asked = 0;
    unsigned ballot = 0;
    for (unsigned lane = 0; lane < count; lane++) {
        if (takes_part(request.mask, lane)) {
            asked |= 1u << lane;
            ballot |= unsigned(lanes[lane].input[0] != 0) << lane;
        }
    }
    uint32_t result = ballot;
    if (request.operation != WarpOperation::Ballot) {
        result = request.operation == WarpOperation::Any ? ballot != 0 : ballot == asked;
    }
    for (unsigned lane = 0; lane < count; lane++) {
        lanes[lane].output[0] = result;
    }
}

void answer(Thread *lanes, unsigned count, const WarpRequest &request)
{
    switch (request.operation) {
        case WarpOperation::Synchronize: check_warp_barrier(lanes, count, request.mask); break;
        case WarpOperation::Ballot:
        case WarpOperation::Any:
        case WarpOperation::All: vote(lanes, count, request); break;
        case WarpOperation::MultiplyBf16:
        case WarpOperation::MultiplyTf32: multiply_matrices(lanes, request.operation); break;
        case WarpOperation::LoadMatrix:
        case WarpOperation::LoadMatrixTransposed:
            distribute_matrices(lanes, request.operation, unsigned(request.argument));
            break;
        default: shuffle(lanes, count, request.mask);
    }
}

bool is_matrix_operation(WarpOperation operation)
{
    return operation >= WarpOperation::MultiplyBf16;
}

} // namespace

bool answer_warp(Thread *lanes, unsigned count)
{
    bool any = false;
    for (unsigned lane = 0; lane < count; lane++) {
        if (lanes[lane].state != State::InWarp || !complete(lanes, count, lanes[lane])) {
            if (failed()) {
                return false;
            }
            continue;
        }
        const WarpRequest request = lanes[lane].request;
        if (is_matrix_operation(request.operation) && count < WARP_SIZE) {
            fail_at(0, 0,
                    "%s: a matrix operation needs a whole warp; the last warp of the block has %u "
                    "threads",
                    describe(request.where).text, count);
            return false;
        }
        answer(lanes, count, request);
        for (unsigned other = 0; other < count; other++) {
            if (takes_part(request.mask, other)) {
                lanes[other].state = State::Ready;
            }
        }
        any = true;
    }
    return any;
}

void wait_for_warp(const WarpRequest &request, const uint32_t *input, size_t inputs,
                   uint32_t *output, size_t outputs)
{
    if (!takes_part(request.mask, current->lane)) {
        fail_at(0, 0, "%s: %s is lane %u, which its own mask 0x%08x does not name",
                describe(request.where).text, describe(current->number).text, current->lane,
                request.mask);
    }
    if (request.width < 1 || request.width > 32 || (request.width & (request.width - 1)) != 0) {
        fail_at(0, 0, "%s: the width of a shuffle is %d; it must be a power of two up to 32",
                describe(request.where).text, request.width);
    }
    current->request = request;
    current->where = request.where;
    memcpy(current->input, input, inputs * sizeof *input);
    wait_in(State::InWarp);
    memcpy(output, current->output, outputs * sizeof *output);
}

void load_matrix(WarpOperation operation, uint32_t *output, size_t matrices, const void *row,
                 Location where)
{
    constexpr size_t ROW_BYTES = 16;
    uint32_t input[ROW_BYTES / sizeof(uint32_t)] = {};
    if (current->lane < 8 * matrices) {
        if (!in_shared_memory(row, ROW_BYTES)) {
            fail_at(0, 0, "%s: %s loads a matrix row that is not in shared memory",
                    describe(where).text, describe(current->number).text);
        }
        if (reinterpret_cast<uintptr_t>(row) % ROW_BYTES != 0) {
            fail_at(0, 0,
                    "%s: misaligned matrix row: the address that %s gives is no multiple of 16",
                    describe(where).text, describe(current->number).text);
        }
        check_access(row, ROW_BYTES, Access::Read, CUDA_ON_CPU_CALL_SITE);
        memcpy(input, row, ROW_BYTES);
    }
    const WarpRequest request{operation, 0xffffffffu, where, int(matrices)};
    wait_for_warp(request, input, ROW_BYTES / sizeof(uint32_t), output, matrices);
}

} // namespace cuda_on_cpu
