#include "stacks.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace cuda_on_cpu {
namespace {

constexpr size_t GUARD_BYTES = 64 * 1024;  // at least one page, whatever the page size

std::vector<char*> all, unused;

char* make_stack() {
    void* memory = mmap(
        nullptr,
        GUARD_BYTES + STACK_BYTES,
        PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
        -1,
        0
    );
    if (memory == MAP_FAILED) {
        perror("cuda on cpu: no memory for the stack of a CUDA thread");
        abort();
    }
    mprotect(memory, GUARD_BYTES, PROT_NONE);
    return static_cast<char*>(memory) + GUARD_BYTES;
}

}  // namespace

void reset_stacks(size_t count) {
    while (all.size() < count) {
        all.push_back(make_stack());
    }
    unused = all;
}

char* take_stack() {
    char* stack = unused.back();
    unused.pop_back();
    return stack;
}

void give_back_stack(char* stack) {
    unused.push_back(stack);
}

}  // namespace cuda_on_cpu
