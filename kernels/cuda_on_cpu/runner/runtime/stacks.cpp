#include "stacks.h"

#include <sys/mman.h>

#include <vector>

namespace cuda_on_cpu {
namespace {

constexpr size_t COUNT = 1024;
constexpr size_t GUARD_BYTES = 64 * 1024; // at least one page, whatever the page size
constexpr size_t STEP = GUARD_BYTES + STACK_BYTES;

std::vector<char *> unused;

} // namespace

void use_stacks(char *stacks)
{
    unused.clear();
    for (size_t i = 0; i < COUNT; i++) {
        unused.push_back(stacks + i * STEP + GUARD_BYTES);
    }
}

char *take_stack()
{
    char *stack = unused.back();
    unused.pop_back();
    return stack;
}

void give_back_stack(char *stack) { unused.push_back(stack); }

} // namespace cuda_on_cpu

// Returns a set of stacks, or null where there is no memory. What is below a stack faults.
extern "C" __attribute__((visibility("default"))) char *cuda_on_cpu_make_stacks()
{
    using namespace cuda_on_cpu;
    void *memory = mmap(nullptr, COUNT * STEP, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return nullptr;
    }
    char *stacks = static_cast<char *>(memory);
    for (size_t i = 0; i < COUNT; i++) {
        mprotect(stacks + i * STEP, GUARD_BYTES, PROT_NONE);
    }
    return stacks;
}

extern "C" __attribute__((visibility("default"))) void cuda_on_cpu_free_stacks(char *stacks)
{
    using namespace cuda_on_cpu;
    munmap(stacks, COUNT * STEP);
}
