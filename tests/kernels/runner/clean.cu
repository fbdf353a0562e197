// Kernels without faults, each of which does something that a careless checker would call one.
#include <cuda_bf16.h>

#include "async_copy.cuh"
#include "mma.cuh"

constexpr int THREADS = 64;
constexpr unsigned ALL = 0xffffffffu;

__device__ float square(float x) { return x * x; }

// The sum of a block's values: tree in shared memory, then shuffles.
template <int COUNT>
__device__ float block_sum(float value)
{
    __shared__ float partial[COUNT / 32];
    for (int distance = 16; distance; distance /= 2) {
        value += __shfl_down_sync(ALL, value, distance);
    }
    if (threadIdx.x % 32 == 0)
        partial[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.0f;
    for (int i = 0; i < COUNT / 32; i++)
        sum += partial[i];
    __syncthreads();
    return sum;
}

extern "C" __global__ void __launch_bounds__(2 * THREADS / 2)
    sum_of_squares(const float *__restrict__ in, float *__restrict__ out, int n)
{
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        sum += square(__ldg(in + blockIdx.x * n + i));
    sum = block_sum<THREADS>(sum);
    sum = block_sum<THREADS>(sum) / THREADS;
    if (threadIdx.x == 0)
        out[blockIdx.x] = sum;
}

extern "C" __global__ void transpose(const float *in, float *out, int n)
{
    extern __shared__ float tile[];
    const int x = threadIdx.x, y = threadIdx.y, size = blockDim.x;
    const int row = blockIdx.y * size + y, column = blockIdx.x * size + x;
    if (row < n && column < n)
        tile[y * (size + 1) + x] = in[row * n + column];
    __syncthreads();
    const int to_row = blockIdx.x * size + y, to_column = blockIdx.y * size + x;
    if (to_row < n && to_column < n)
        out[to_row * n + to_column] = tile[x * (size + 1) + y];
}

// Neighbouring bytes and halves are written by different threads, then read as words.
extern "C" __global__ void narrow_writes(unsigned char *bytes, __nv_bfloat16 *halves, int *words)
{
    __shared__ __align__(16) unsigned char tile[4 * THREADS];
    for (int i = 0; i < 4; i++)
        tile[i * THREADS + threadIdx.x] = (unsigned char)(threadIdx.x);
    bytes[threadIdx.x] = (unsigned char)(threadIdx.x);
    halves[threadIdx.x] = __float2bfloat16(float(threadIdx.x));
    __syncthreads();
    words[threadIdx.x] = reinterpret_cast<int *>(tile)[threadIdx.x];
}

extern "C" __global__ void histogram(const int *in, int *out, int n, int bins)
{
    extern __shared__ int counts[];
    for (int i = threadIdx.x; i < bins; i += blockDim.x)
        counts[i] = 0;
    __syncthreads();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        atomicAdd(&counts[in[i]], 1);
    __syncthreads();
    for (int i = threadIdx.x; i < bins; i += blockDim.x)
        atomicAdd(out + i, counts[i]);
}

// Each lane hands its value around the warp through shared memory.
extern "C" __global__ void around_the_warp(float *values)
{
    __shared__ float ring[THREADS];
    const int lane = threadIdx.x % 32, first = threadIdx.x - lane;
    float value = values[threadIdx.x];
    for (int i = 0; i < 32; i++) {
        ring[threadIdx.x] = value;
        __syncwarp();
        value = ring[first + (lane + 1) % 32];
        __syncwarp();
    }
    values[threadIdx.x] = value;
}

// The even and the odd lanes of a warp each keep to themselves.
extern "C" __global__ void halves_of_a_warp(float *values)
{
    __shared__ float tile[THREADS];
    const unsigned mask = threadIdx.x % 2 ? 0xaaaaaaaau : 0x55555555u;
    tile[threadIdx.x] = values[threadIdx.x];
    __syncwarp(mask);
    values[threadIdx.x] = tile[threadIdx.x ^ 2];
}

extern "C" __global__ void early_return(const float *in, float *out, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    out[i] = in[i] + out[i];
}

extern "C" __global__ void warp_functions(unsigned *out)
{
    const int lane = threadIdx.x % 32;
    unsigned *mine = out + 10 * threadIdx.x;
    mine[0] = __shfl_sync(ALL, lane, 3);
    mine[1] = __shfl_up_sync(ALL, lane, 2);
    mine[2] = __shfl_down_sync(ALL, lane, 2);
    mine[3] = __shfl_xor_sync(ALL, lane, 4);
    mine[4] = __shfl_up_sync(ALL, lane, 1, 8);
    mine[5] = __shfl_down_sync(ALL, lane, 1, 8);
    mine[6] = __shfl_sync(ALL, lane, 9, 8);
    mine[7] = __ballot_sync(ALL, lane % 3 == 0);
    mine[8] = __any_sync(ALL, lane == 7) + 2 * __all_sync(ALL, lane < 31) + 4 * __all_sync(ALL, 1);
    mine[9] = __shfl_xor_sync(ALL, 1ull << lane, 1) >> (lane ^ 1);
}

extern "C" __global__ void block_votes(int *out)
{
    const int even = threadIdx.x % 2 == 0;
    out[4 * threadIdx.x] = __syncthreads_count(even);
    out[4 * threadIdx.x + 1] = __syncthreads_or(threadIdx.x == 9);
    out[4 * threadIdx.x + 2] = __syncthreads_and(even);
    out[4 * threadIdx.x + 3] = __syncthreads_and(1);
}

extern "C" __global__ void indices(unsigned *out)
{
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = 1000 * block + thread;
}

// Copies ahead of use, in two buffers; the last copy is ragged.
extern "C" __global__ void double_buffer(const float *in, float *out, int n)
{
    __shared__ __align__(16) float tiles[2][4 * THREADS];
    const int size = 4 * THREADS, count = (n + size - 1) / size;
    float sum = 0.0f;
    auto start = [&](int tile) {
        const int first = tile * size + 4 * threadIdx.x, left = n - first;
        const int bytes = left <= 0 ? 0 : left >= 4 ? 16 : 4 * left;
        cp_async16_zero_fill(&tiles[tile % 2][4 * threadIdx.x], in + (bytes ? first : 0), bytes);
        cp_async_commit();
    };
    start(0);
    for (int tile = 0; tile < count; tile++) {
        if (tile + 1 < count) {
            start(tile + 1);
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        for (int i = threadIdx.x; i < size; i += THREADS)
            sum += tiles[tile % 2][i];
        __syncthreads();
    }
    out[threadIdx.x] = sum;
}

__device__ unsigned pack(__nv_bfloat16 low, __nv_bfloat16 high)
{
    return __bfloat16_as_ushort(low) | unsigned(__bfloat16_as_ushort(high)) << 16;
}

// C (16, 8) = A (16, 16) B (16, 8), element by element as the PTX manual says who holds which.
extern "C" __global__ void product_bf16(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c)
{
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    unsigned x[4], y[2];
    for (int i = 0; i < 4; i++) {
        const __nv_bfloat16 *pair = a + (g + 8 * (i % 2)) * 16 + 2 * t + 8 * (i / 2);
        x[i] = pack(pair[0], pair[1]);
    }
    for (int i = 0; i < 2; i++) {
        const __nv_bfloat16 *pair = b + (2 * t + 8 * i) * 8 + g;
        y[i] = pack(pair[0], pair[8]);
    }
    float z[4] = {};
    mma_m16n8k16_bf16(z, x, y);
    for (int i = 0; i < 4; i++)
        c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = z[i];
}

// The operands in shared memory, and what a thread holds of C there.
__device__ void stage(__nv_bfloat16 *left, __nv_bfloat16 *right, const __nv_bfloat16 *a,
                      const __nv_bfloat16 *b)
{
    for (int i = threadIdx.x; i < 16 * 16; i += 32)
        left[i] = a[i];
    for (int i = threadIdx.x; i < 16 * 8; i += 32)
        right[i] = b[i];
    __syncthreads();
}

__device__ float &held(float *c, int i)
{
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    return c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
}

// The same, with operands from shared memory by ldmatrix, and added to C.
extern "C" __global__ void product_ldmatrix(const __nv_bfloat16 *a, const __nv_bfloat16 *b,
                                            float *c)
{
    __shared__ __align__(16) __nv_bfloat16 left[16 * 16], right[16 * 8];
    stage(left, right, a, b);
    const int lane = threadIdx.x;
    unsigned x[4], y[2], y_again[4];
    ldmatrix_x4(x, left + (lane % 16) * 16 + 8 * (lane / 16));
    ldmatrix_x2_trans(y, right + (lane % 16) * 8);
    ldmatrix_x4_trans(y_again, right + (lane % 16) * 8);
    float z[4];
    for (int i = 0; i < 4; i++)
        z[i] = held(c, i);
    mma_m16n8k16_bf16(z, x, y);
    mma_m16n8k16_bf16(z, x, y_again + 2);
    for (int i = 0; i < 4; i++)
        held(c, i) = z[i];
}

// B given as (8, 16): what a product with a transposed matrix loads without _trans.
extern "C" __global__ void product_transposed(const __nv_bfloat16 *a, const __nv_bfloat16 *b,
                                              float *c)
{
    __shared__ __align__(16) __nv_bfloat16 left[16 * 16], right[8 * 16];
    stage(left, right, a, b);
    const int lane = threadIdx.x;
    unsigned x[4], y[2];
    ldmatrix_x4(x, left + (lane % 16) * 16 + 8 * (lane / 16));
    ldmatrix_x2(y, right + (lane % 8) * 16 + 8 * (lane / 8 % 2));
    float z[4] = {};
    mma_m16n8k16_bf16(z, x, y);
    for (int i = 0; i < 4; i++)
        held(c, i) = z[i];
}

extern "C" __global__ void product_tf32(const float *a, const float *b, float *c)
{
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    unsigned x[4], y[2];
    for (int i = 0; i < 4; i++)
        x[i] = to_tf32(a[(g + 8 * (i % 2)) * 8 + t + 4 * (i / 2)]);
    for (int i = 0; i < 2; i++)
        y[i] = to_tf32(b[(t + 4 * i) * 8 + g]);
    float z[4] = {};
    mma_m16n8k8_tf32(z, x, y);
    for (int i = 0; i < 4; i++)
        held(c, i) = z[i];
}

extern "C" __global__ void round_to_bf16(const float *in, __nv_bfloat16 *out, float *back, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    out[i] = __float2bfloat16(in[i]);
    back[i] = __bfloat162float(out[i]);
}

extern "C" __global__ void atomics(unsigned *out)
{
    atomicAdd(out, 2);
    atomicMax(out + 1, threadIdx.x);
    atomicMin(out + 2, threadIdx.x);
    atomicOr(out + 3, 1u << threadIdx.x % 32);
    atomicExch(out + 4, 5);
    atomicCAS(out + 5, 0, threadIdx.x + 1);
    atomicXor(out + 6, threadIdx.x);
    atomicSub(out + 7, 1);
    atomicInc(out + 8, 9);
}

extern "C" __global__ void vectors(const double *in, double *out)
{
    const double2 two = reinterpret_cast<const double2 *>(in)[threadIdx.x];
    reinterpret_cast<double2 *>(out)[threadIdx.x] = make_double2(two.y, two.x);
}
