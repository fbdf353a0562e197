// Copies from global to shared memory that go on while the thread computes (cp.async, sm_80 and
// later): PTX on a GPU; on the CPU the copy happens in the wait, so that a missing one shows.
//
// A thread waits for its own copies only: to use those of others, wait, then __syncthreads().
#pragma once

// Starts to copy 16 bytes; both addresses are multiples of 16.
__device__ __forceinline__ void cp_async16(void *shared, const void *global)
{
#ifdef CUDA_ON_CPU
    cuda_on_cpu::start_async_copy(shared, global, 16, 16);
#else
    const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n"
                 :
                 : "r"(target), "l"(global)
                 : "memory");
#endif
}

// The same with the last 16 - `bytes` of the 16 set to zero; of `global`, only `bytes` are read.
__device__ __forceinline__ void cp_async16_zero_fill(void *shared, const void *global,
                                                     unsigned bytes)
{
#ifdef CUDA_ON_CPU
    cuda_on_cpu::start_async_copy(shared, global, 16, bytes);
#else
    const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n"
                 :
                 : "r"(target), "l"(global), "r"(bytes)
                 : "memory");
#endif
}

// Makes one group of the copies that were started since the last commit.
__device__ __forceinline__ void cp_async_commit()
{
#ifdef CUDA_ON_CPU
    cuda_on_cpu::commit_async_copies();
#else
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits until at most `groups` groups, the latest ones, are still being copied.
template <int groups>
__device__ __forceinline__ void cp_async_wait()
{
#ifdef CUDA_ON_CPU
    cuda_on_cpu::wait_for_async_copies(groups);
#else
    asm volatile("cp.async.wait_group %0;\n" ::"n"(groups) : "memory");
#endif
}
