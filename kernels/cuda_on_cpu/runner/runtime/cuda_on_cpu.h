// What CUDA C has beyond C++, for a .cu file that the system's C++ compiler compiles for the CPU.
// The runner includes this before the file's first line.
#pragma once

#define CUDA_ON_CPU 1

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "interface.h"
#include "vector_types.h"

#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__
#define __builtin_assume(condition) ((void)0)

// thread_local, since the compiler then lists the arrays of a file, those of template functions
// too, as symbols of one segment.
#define CUDA_ON_CPU_SHARED static thread_local

#ifdef CUDA_ON_CPU_CHECK

// Everything that a kernel calls becomes part of it: the compiler reports no access where a
// function returns a struct straight into memory.
#define __global__ __attribute__((noinline, flatten))

// Unused memory before each array, so that what is past the end of one is not in another.
#define CUDA_ON_CPU_JOIN(a, b) a##b
#define CUDA_ON_CPU_GAP(number) \
    CUDA_ON_CPU_SHARED __attribute__((used)) char CUDA_ON_CPU_JOIN(cuda_on_cpu_gap, number)[256]
#define __shared__                \
    CUDA_ON_CPU_GAP(__COUNTER__); \
    CUDA_ON_CPU_SHARED

#else

#define __global__ __attribute__((noinline))
#define __shared__ CUDA_ON_CPU_SHARED

#endif

// `extern __shared__ T name[];` becomes CUDA_ON_CPU_DYNAMIC_SHARED(T, name); before compilation.
#define CUDA_ON_CPU_DYNAMIC_SHARED(type, name) \
    type *const name = static_cast<type *>(cuda_on_cpu::dynamic_shared_memory())

#pragma GCC visibility push(hidden)
extern "C" {
// Constant while a thread runs: the runtime sets them whenever it switches to a thread.
extern const uint3 threadIdx, blockIdx, blockDim, gridDim;
}
#pragma GCC visibility pop

constexpr int warpSize = 32;

#include "atomics.h"
#include "collectives.h"
#include "intrinsics.h"
