// One CUDA thread of the block that runs, and how it waits and fails.
#pragma once

#include <cstdint>
#include <vector>

#include "fiber.h"
#include "interface.h"
#include "vector_types.h"

namespace cuda_on_cpu {

constexpr unsigned WARP_SIZE = 32;

enum class State : uint8_t { New, Ready, AtBarrier, InWarp, Done };

struct AsyncCopy {
    char *destination;
    const char *source;
    size_t bytes, source_bytes;
    int group;
    uint32_t site;
};

struct Thread {
    Fiber fiber;
    char *stack;
    State state;
    unsigned number, lane, warp;
    uint3 index;

    Location where; // the barrier or warp operation that it waits at
    Barrier barrier;
    bool predicate;
    WarpRequest request;
    uint32_t input[WARP_INPUT], output[WARP_OUTPUT];

    std::vector<AsyncCopy> copies;
    int copy_group;

    // For each lane of this warp: its accesses with a smaller clock happened before this thread's
    // next one. A clock counts its lane's warp synchronisations since the last block barrier.
    uint32_t clocks[WARP_SIZE];
};

extern Thread *current;

// Lets the scheduler resume others, until it resumes this thread.
void wait_in(State state);

// The address that a function called from a kernel returns to, relative to the library.
uint32_t site_of(const void *return_address);
#define CUDA_ON_CPU_CALL_SITE cuda_on_cpu::site_of(__builtin_return_address(0))

// Ends the launch with a message, unless it has failed before. `{1}` and `{2}` in the message stand
// for the two sites. Does not return when a thread runs.
void fail_at(uint32_t site, uint32_t other_site, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool failed();

// "thread (x,y,z) of block (x,y,z)" for a thread of the block that runs, and "file:line".
struct Text {
    char text[96];
};
Text describe(unsigned thread_number);
Text describe(Location where);

} // namespace cuda_on_cpu
