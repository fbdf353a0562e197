/* A row that a kernel goes over more than once. A thread's part are N elements at `first`, at first
 * + STEP, and so on. Of these KEPT are read at once and stay in registers: with 32 the whole of
 * rows of up to 1,024 elements does, or 8,192 where a block shares a row. What is beyond is read
 * each time, from the cache if it is there. */
#pragma once
#include "pack.cuh"

/* VECTOR elements are moved at a time; WARPS warps, 1 or all 8, share a row; a block has ROWS. */
constexpr int BLOCK_WARPS = 8, ROWS = BLOCK_WARPS / WARPS;
constexpr int N = VECTOR, STEP = N * WARPS * WARP;

/* The first row that this thread works on, and its first element there. */
__device__ __forceinline__ long long own_row()
{
    return (long long)blockIdx.x * ROWS + threadIdx.x / (WARPS * WARP);
}

__device__ __forceinline__ int own_column() { return N * (threadIdx.x % (WARPS * WARP)); }

template <typename T, int N, int STEP, int KEPT = 32> class Row {
  public:
    __device__ __forceinline__ Row(const T *source, int first, int columns)
        : source(source), first(first), columns(columns)
    {
#pragma unroll
        for (int k = 0; k < PACKS; k++)
            if (first + k * STEP < columns)
                kept[k] = fetch<N>(source + first + k * STEP);
    }

    /* Calls use(c, values) for each N elements, of which c is the place of the first. */
    template <typename Use> __device__ __forceinline__ void each(Use use) const
    {
        places([&](int k, int c) {
            float values[N];
            get(values, k, c);
            use(c, values);
        });
    }

    /* The same for this row and another: use(c, values, others). */
    template <typename Use>
    __device__ __forceinline__ void each_with(const Row &other, Use use) const
    {
        places([&](int k, int c) {
            float values[N], others[N];
            get(values, k, c);
            other.get(others, k, c);
            use(c, values, others);
        });
    }

  private:
    static constexpr int PACKS = KEPT / N;

    const T *source;
    int first, columns;
    Pack<T, N> kept[PACKS];

    template <typename Visit> __device__ __forceinline__ void places(Visit visit) const
    {
#pragma unroll
        for (int k = 0; k < PACKS; k++)
            if (first + k * STEP < columns)
                visit(k, first + k * STEP);
        for (int c = first + PACKS * STEP; c < columns; c += STEP)
            visit(PACKS, c);
    }

    __device__ __forceinline__ void get(float (&values)[N], int k, int c) const
    {
        if (k < PACKS)
            unpack<N>(values, kept[k]);
        else
            load<N>(values, source + c);
    }
};
