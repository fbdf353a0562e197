// Check mode: every access of a kernel to memory, and every barrier, is reported here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "launch.h"
#include "thread.h"

namespace cuda_on_cpu {

enum class Access { Read, Write, Atomic, AsyncWrite };

#ifdef CUDA_ON_CPU_CHECK

void check_new_launch(const Launch &launch);
void check_new_block();
void check_end();

// The threads of the block have waited for each other.
void check_barrier(Thread *threads, size_t count);

// The lanes in the mask have waited for each other.
void check_warp_barrier(Thread *lanes, unsigned count, unsigned mask);

// The running thread accesses memory. Fails the launch unless the bytes belong to one array, are
// initialised (if shared memory is read), and every other thread's access to them that this one
// conflicts with is ordered before it.
void check_access(const void *address, size_t bytes, Access access, uint32_t site);

// The same, and the address must be a multiple of the size: what a device asks of plain accesses.
void check_aligned_access(const void *address, size_t bytes, Access access, uint32_t site);

// The running thread has waited for an asynchronous copy to these bytes.
void check_async_arrival(const void *address, size_t bytes, uint32_t site);

#else

inline void check_new_launch(const Launch &) {}
inline void check_new_block() {}
inline void check_end() {}
inline void check_barrier(Thread *, size_t) {}
inline void check_warp_barrier(Thread *, unsigned, unsigned) {}
inline void check_access(const void *, size_t, Access, uint32_t) {}
inline void check_async_arrival(const void *, size_t, uint32_t) {}

#endif

} // namespace cuda_on_cpu
