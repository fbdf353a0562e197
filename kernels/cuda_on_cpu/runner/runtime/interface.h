// What the code of a kernel calls in the runtime. Everything here runs on the fiber of one CUDA
// thread; the functions that wait give the processor to the other threads of the block.
#pragma once

#include <cstddef>
#include <cstdint>

#pragma GCC visibility push(hidden)

namespace cuda_on_cpu {

// A place in the .cu file: as a default argument, `Location::here()` is the place of the call.
struct Location {
    const char *file;
    int line;

    static constexpr Location here(const char *file = __builtin_FILE(), int line = __builtin_LINE())
    {
        return {file, line};
    }
};

enum class Barrier { Plain, Any, All, Count };

// Waits until every thread of the block is here; returns the joint result of the predicates.
int wait_at_barrier(Barrier kind, bool predicate, Location where);

enum class WarpOperation {
    Synchronize,
    Shuffle,
    ShuffleXor,
    ShuffleUp,
    ShuffleDown,
    Ballot,
    Any,
    All,
    MultiplyBf16,
    MultiplyTf32,
    LoadMatrix,
    LoadMatrixTransposed,
};

struct WarpRequest {
    WarpOperation operation;
    unsigned mask;
    Location where;
    int argument = 0; // of a shuffle: the lane or distance; of LoadMatrix: how many matrices
    int width = 32;   // of a shuffle
};

constexpr size_t WARP_INPUT = 10; // the most 32-bit words that a lane gives: 4 of A, 2 of B, 4 of C
constexpr size_t WARP_OUTPUT = 4;

// Waits until the lanes in the mask have made the same request; exchanges 32-bit words with them.
void wait_for_warp(const WarpRequest &request, const uint32_t *input = nullptr, size_t inputs = 0,
                   uint32_t *output = nullptr, size_t outputs = 0);

// Reads the 16 bytes that this lane addresses, then takes part in a LoadMatrix request.
void load_matrix(WarpOperation operation, uint32_t *output, size_t matrices, const void *row,
                 Location where);

void *dynamic_shared_memory();

// The two halves of an atomic operation; nothing else runs between them.
void atomic_read(void *value, const void *address, size_t bytes);
void atomic_write(void *address, const void *value, size_t bytes);

// Copies that are only sure to have happened after a wait: they happen there. Of the destination's
// bytes, those beyond `source_bytes` become zero.
void start_async_copy(void *destination, const void *source, size_t bytes, size_t source_bytes);
void commit_async_copies();
void wait_for_async_copies(int groups_in_flight);

[[noreturn]] void trap(Location where);

} // namespace cuda_on_cpu

#pragma GCC visibility pop
