// Atomic operations on global and shared memory. The threads of a block take turns, so that plain
// arithmetic between a read and a write is atomic; the runtime's check mode knows them as such.
#pragma once

#include <type_traits>

#include "interface.h"

namespace cuda_on_cpu {

template <class T, class Update>
__forceinline__ T atomic_update(T *address, Update update)
{
    T old;
    atomic_read(&old, address, sizeof old);
    const T value = update(old);
    atomic_write(address, &value, sizeof value);
    return old;
}

// The type of the other operands, so that only the pointer decides what T is.
template <class T>
using Operand = std::common_type_t<T>;

} // namespace cuda_on_cpu

#define CUDA_ON_CPU_ATOMIC(name, result)                                                \
    template <class T>                                                                  \
    __forceinline__ T name(T *address, cuda_on_cpu::Operand<T> value)                   \
    {                                                                                   \
        return cuda_on_cpu::atomic_update(address, [&](T old) -> T { return result; }); \
    }

CUDA_ON_CPU_ATOMIC(atomicAdd, old + value)
CUDA_ON_CPU_ATOMIC(atomicSub, old - value)
CUDA_ON_CPU_ATOMIC(atomicMin, value < old ? value : old)
CUDA_ON_CPU_ATOMIC(atomicMax, value > old ? value : old)
CUDA_ON_CPU_ATOMIC(atomicAnd, old &value)
CUDA_ON_CPU_ATOMIC(atomicOr, old | value)
CUDA_ON_CPU_ATOMIC(atomicXor, old ^ value)
CUDA_ON_CPU_ATOMIC(atomicExch, value)
CUDA_ON_CPU_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
CUDA_ON_CPU_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)

#undef CUDA_ON_CPU_ATOMIC

template <class T>
__forceinline__ T atomicCAS(T *address, cuda_on_cpu::Operand<T> expected,
                            cuda_on_cpu::Operand<T> value)
{
    return cuda_on_cpu::atomic_update(address,
                                      [&](T old) -> T { return old == expected ? value : old; });
}
