#include "shared_memory.h"

#include <link.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "image.h"
#include "interface.h"

namespace cuda_on_cpu {
namespace {

constexpr size_t PAGE_BYTES = 64 * 1024; // a multiple of the page size, whatever that is
constexpr size_t ALIGNMENT = 16;

char *arena = nullptr;
size_t arena_bytes = 0;
char *dynamic_begin = nullptr;
std::vector<Array> arrays;

void reserve(size_t bytes)
{
    if (arena != nullptr && bytes <= arena_bytes) {
        return;
    }
    if (arena != nullptr) {
        munmap(arena, arena_bytes + PAGE_BYTES);
    }
    arena_bytes = (bytes + PAGE_BYTES) / PAGE_BYTES * PAGE_BYTES;
    void *memory = mmap(nullptr, arena_bytes + PAGE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("cuda on cpu: no memory for the shared memory of a block");
        abort();
    }
    arena = static_cast<char *>(memory);
    mprotect(arena + arena_bytes, PAGE_BYTES, PROT_NONE);
}

} // namespace

void prepare_shared_memory(const Launch &launch)
{
    const size_t bytes = (launch.shared_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    reserve(bytes);
    dynamic_begin = arena + arena_bytes - bytes;
    arrays.clear();
    char *segment = thread_local_segment();
    for (uint32_t i = 0; i < launch.static_shared_count; i++) {
        Array array = launch.static_shared[i];
        array.begin += reinterpret_cast<uint64_t>(segment);
        arrays.push_back(array);
    }
    arrays.push_back({reinterpret_cast<uint64_t>(dynamic_begin), launch.shared_bytes,
                      "the dynamic shared memory"});
}

void poison_shared_memory()
{
    for (const Array &array : arrays) {
        memset(reinterpret_cast<void *>(array.begin), 0xff, array.bytes);
    }
}

const std::vector<Array> &shared_arrays() { return arrays; }

bool in_shared_memory(const void *address, size_t bytes)
{
    const auto begin = reinterpret_cast<uint64_t>(address);
    for (const Array &array : arrays) {
        if (begin >= array.begin && begin + bytes <= array.begin + array.bytes) {
            return true;
        }
    }
    return false;
}

void *dynamic_shared_memory() { return dynamic_begin; }

} // namespace cuda_on_cpu
