/* Elements in memory and in registers: float32 or bfloat16 in memory, always float32 in registers.
 *
 * Kernels move N elements at a time: WIDTH<T> where everything is aligned, which is sixteen bytes,
 * the most that one instruction moves; one number otherwise. */
#pragma once
#include <cuda_bf16.h>

template <typename T> constexpr int WIDTH = 16 / sizeof(T);

template <typename T, int N> struct alignas(N * sizeof(T)) Pack {
    T at[N];
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void from_float(float x, float &result) { result = x; }
__device__ __forceinline__ void from_float(float x, __nv_bfloat16 &result)
{
    result = __float2bfloat16_rn(x);
}

/* How many of N elements one access moves. */
template <typename T, int N> constexpr int ACCESS = N < WIDTH<T> ? N : WIDTH<T>;

/* Reads up to WIDTH<T> elements as they are in memory, from a multiple of their size. */
template <int N, typename T> __device__ __forceinline__ Pack<T, N> fetch(const T *source)
{
    return *reinterpret_cast<const Pack<T, N> *>(source);
}

template <int N, typename T>
__device__ __forceinline__ void unpack(float (&values)[N], const Pack<T, N> &pack)
{
#pragma unroll
    for (int j = 0; j < N; j++)
        values[j] = to_float(pack.at[j]);
}

/* Reads N elements from an address that is a multiple of the size of an access. */
template <int N, typename T>
__device__ __forceinline__ void load(float (&values)[N], const T *source)
{
    constexpr int M = ACCESS<T, N>;
#pragma unroll
    for (int start = 0; start < N; start += M) {
        const Pack<T, M> pack = fetch<M>(source + start);
#pragma unroll
        for (int j = 0; j < M; j++)
            values[start + j] = to_float(pack.at[j]);
    }
}

/* Has memory read into the cache, for a load that follows. */
__device__ __forceinline__ void prefetch(const void *address)
{
#ifndef CUDA_ON_CPU
    asm volatile("prefetch.global.L1 [%0];\n" ::"l"(__cvta_generic_to_global(address)));
#endif
}

/* Two bfloat16 in a word, the first in its low half. */
__device__ __forceinline__ unsigned pack_bf16(float low, float high)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const unsigned *>(&pair);
}

/* Writes words to global memory by one instruction, which compilers make of several where a branch
 * or an unrolled loop is near. They are not told that memory changes, so that they can read ahead:
 * a kernel does not read what it has written. */
template <int N>
__device__ __forceinline__ void write_words(void *target, const unsigned (&words)[N])
{
#ifdef CUDA_ON_CPU
    Pack<unsigned, N> pack;
    for (int i = 0; i < N; i++)
        pack.at[i] = words[i];
    *static_cast<Pack<unsigned, N> *>(target) = pack;
#else
    const size_t address = __cvta_generic_to_global(target);
    if constexpr (N == 4)
        asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"l"(address), "r"(words[0]),
                     "r"(words[1]), "r"(words[2]), "r"(words[3]));
    else if constexpr (N == 2)
        asm volatile("st.global.v2.b32 [%0], {%1, %2};\n" ::"l"(address), "r"(words[0]),
                     "r"(words[1]));
    else
        asm volatile("st.global.b32 [%0], %1;\n" ::"l"(address), "r"(words[0]));
#endif
}

/* Writes N elements to global memory, at a multiple of the size of an access. */
template <int N, typename T>
__device__ __forceinline__ void store(T *target, const float (&values)[N])
{
    constexpr int M = ACCESS<T, N>, WORDS = M * sizeof(T) / 4;
#pragma unroll
    for (int start = 0; start < N; start += M) {
        if constexpr (WORDS == 0) {
            from_float(values[start], target[start]);
        } else {
            unsigned words[WORDS];
#pragma unroll
            for (int j = 0; j < WORDS; j++)
                if constexpr (sizeof(T) == 4)
                    words[j] = __float_as_uint(values[start + j]);
                else
                    words[j] = pack_bf16(values[start + 2 * j], values[start + 2 * j + 1]);
            write_words(target + start, words);
        }
    }
}

/* The same in shared memory. */
template <int N, typename T>
__device__ __forceinline__ void store_shared(T *target, const float (&values)[N])
{
    constexpr int M = ACCESS<T, N>;
#pragma unroll
    for (int start = 0; start < N; start += M) {
        Pack<T, M> pack;
#pragma unroll
        for (int j = 0; j < M; j++)
            from_float(values[start + j], pack.at[j]);
        *reinterpret_cast<Pack<T, M> *>(target + start) = pack;
    }
}

/* Whether an access to N elements is aligned at each address. */
template <int N, typename T, typename... Rest>
__device__ __forceinline__ bool aligned(const T *address, const Rest *...rest)
{
    const bool fits =
        reinterpret_cast<unsigned long long>(address) % (ACCESS<T, N> * sizeof(T)) == 0;
    if constexpr (sizeof...(rest) > 0)
        return fits && aligned<N>(rest...);
    else
        return fits;
}

/* Reads the first `left` of N elements, zeros for the others; at once where `whole`. */
template <int N, typename T>
__device__ __forceinline__ void load_some(float (&values)[N], const T *source, long long left,
                                          bool whole)
{
    if (whole) {
        load<N>(values, source);
        return;
    }
#pragma unroll
    for (int j = 0; j < N; j++)
        values[j] = j < left ? to_float(source[j]) : 0.0f;
}

template <int N, typename T>
__device__ __forceinline__ void store_some(T *target, const float (&values)[N], long long left,
                                           bool whole)
{
    if (whole) {
        store<N>(target, values);
        return;
    }
#pragma unroll
    for (int j = 0; j < N; j++)
        if (j < left)
            from_float(values[j], target[j]);
}
