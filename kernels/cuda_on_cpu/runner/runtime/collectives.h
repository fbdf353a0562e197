// Block barriers, warp synchronisation, shuffles and votes.
#pragma once

#include <type_traits>

#include "interface.h"

inline void __syncthreads(cuda_on_cpu::Location where = cuda_on_cpu::Location::here())
{
    cuda_on_cpu::wait_at_barrier(cuda_on_cpu::Barrier::Plain, false, where);
}

inline int __syncthreads_or(int predicate,
                            cuda_on_cpu::Location where = cuda_on_cpu::Location::here())
{
    return cuda_on_cpu::wait_at_barrier(cuda_on_cpu::Barrier::Any, predicate, where);
}

inline int __syncthreads_and(int predicate,
                             cuda_on_cpu::Location where = cuda_on_cpu::Location::here())
{
    return cuda_on_cpu::wait_at_barrier(cuda_on_cpu::Barrier::All, predicate, where);
}

inline int __syncthreads_count(int predicate,
                               cuda_on_cpu::Location where = cuda_on_cpu::Location::here())
{
    return cuda_on_cpu::wait_at_barrier(cuda_on_cpu::Barrier::Count, predicate, where);
}

inline void __syncwarp(unsigned mask = 0xffffffffu,
                       cuda_on_cpu::Location where = cuda_on_cpu::Location::here())
{
    cuda_on_cpu::wait_for_warp({cuda_on_cpu::WarpOperation::Synchronize, mask, where});
}

namespace cuda_on_cpu {

template <class T>
T shuffle(const WarpRequest &request, T value)
{
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8,
                  "a shuffle moves at most 8 bytes");
    constexpr size_t words = (sizeof(T) + 3) / 4;
    uint32_t input[words] = {};
    uint32_t output[words];
    memcpy(input, &value, sizeof value);
    wait_for_warp(request, input, words, output, words);
    memcpy(&value, output, sizeof value);
    return value;
}

inline unsigned vote(const WarpRequest &request, int predicate)
{
    const uint32_t input = predicate != 0;
    uint32_t output;
    wait_for_warp(request, &input, 1, &output, 1);
    return output;
}

} // namespace cuda_on_cpu

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
              cuda_on_cpu::Location where = cuda_on_cpu::Location::here())
{
    return cuda_on_cpu::shuffle({cuda_on_cpu::WarpOperation::Shuffle, mask, where, lane, width},
                                value);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  cuda_on_cpu::Location where = cuda_on_cpu::Location::here())
{
    return cuda_on_cpu::shuffle(
        {cuda_on_cpu::WarpOperation::ShuffleXor, mask, where, lane_mask, width}, value);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 cuda_on_cpu::Location where = cuda_on_cpu::Location::here())
{
    return cuda_on_cpu::shuffle(
        {cuda_on_cpu::WarpOperation::ShuffleUp, mask, where, int(delta), width}, value);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   cuda_on_cpu::Location where = cuda_on_cpu::Location::here())
{
    return cuda_on_cpu::shuffle(
        {cuda_on_cpu::WarpOperation::ShuffleDown, mask, where, int(delta), width}, value);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              cuda_on_cpu::Location where = cuda_on_cpu::Location::here())
{
    return cuda_on_cpu::vote({cuda_on_cpu::WarpOperation::Ballot, mask, where}, predicate);
}

inline int __any_sync(unsigned mask, int predicate,
                      cuda_on_cpu::Location where = cuda_on_cpu::Location::here())
{
    return int(cuda_on_cpu::vote({cuda_on_cpu::WarpOperation::Any, mask, where}, predicate));
}

inline int __all_sync(unsigned mask, int predicate,
                      cuda_on_cpu::Location where = cuda_on_cpu::Location::here())
{
    return int(cuda_on_cpu::vote({cuda_on_cpu::WarpOperation::All, mask, where}, predicate));
}
