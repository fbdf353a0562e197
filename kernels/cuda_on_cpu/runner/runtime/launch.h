// What Python gives to the runtime, and what it gets back. Mirrored in library.py.
#pragma once

#include <cstdint>

namespace cuda_on_cpu {

enum class Order : uint32_t { Forward, Reverse, Random };

// An array that the kernel may touch. Of a static shared array, `begin` is its offset in the
// library's segment of thread-local memory.
struct Array {
    uint64_t begin;
    uint64_t bytes;
    const char *name;
};

// What went wrong. `%1` and `%2` in the message stand for the code addresses `sites[0]` and
// `sites[1]`, relative to the library, which Python turns into file and line.
struct Fault {
    uint64_t sites[2];
    char message[1024];
};

struct Launch {
    void (*kernel)(void **arguments);
    void **arguments;
    uint32_t grid[3];
    uint32_t block[3];
    uint32_t shared_bytes;
    Order order;
    uint64_t seed;
    const Array *arrays;
    const Array *static_shared;
    uint32_t array_count;
    uint32_t static_shared_count;
    char *stacks;
    Fault *fault;
};

} // namespace cuda_on_cpu
