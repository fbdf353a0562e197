// One fault in each kernel, in the line marked with the name of the kernel, as in `// = name`. The
// line above a kernel has `always` where every mode finds the fault, `checked` where check mode is
// sure to; its arguments; and what the message says, as a regular expression.
#include <cuda_bf16.h>

#include "async_copy.cuh"
#include "mma.cuh"

constexpr int THREADS = 64;
constexpr unsigned ALL = 0xffffffffu;

// Races within a block.

// checked (out): uninitialised read of the shared array `tile`
extern "C" __global__ void missing_barrier(float *out)
{
    __shared__ float tile[THREADS];
    tile[threadIdx.x] = float(threadIdx.x);
    out[threadIdx.x] = tile[(threadIdx.x + THREADS - 1) % THREADS]; // = missing_barrier
}

// checked (out): race: write of .*`tile`.*after the read at faulty.cu:\d+
extern "C" __global__ void overwritten_too_early(float *out)
{
    __shared__ float tile[THREADS];
    tile[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = tile[(threadIdx.x + 1) % THREADS];
    tile[threadIdx.x] = 2.0f; // = overwritten_too_early
}

// checked (out): race: write of .*`total`.*no barrier after the write
extern "C" __global__ void written_by_all(float *out)
{
    __shared__ float total;
    total = float(threadIdx.x); // = written_by_all
    __syncthreads();
    out[threadIdx.x] = total;
}

// checked (out): uninitialised read of the shared array `tile`
extern "C" __global__ void missing_warp_barrier(float *out)
{
    __shared__ float tile[THREADS];
    tile[threadIdx.x] = 1.0f;
    out[threadIdx.x] = tile[threadIdx.x ^ 1]; // = missing_warp_barrier
}

// checked (out): race: read of .*`tile`.*no barrier after the write
extern "C" __global__ void shuffle_is_no_barrier(float *out)
{
    __shared__ float tile[THREADS];
    tile[threadIdx.x] = 1.0f;
    const float other = __shfl_xor_sync(ALL, 1.0f, 1);
    out[threadIdx.x] = other + tile[threadIdx.x ^ 1]; // = shuffle_is_no_barrier
}

// checked (out): uninitialised read of the shared array `tile`
extern "C" __global__ void warp_barrier_between_warps(float *out)
{
    __shared__ float tile[THREADS];
    tile[threadIdx.x] = 1.0f;
    __syncwarp();
    out[threadIdx.x] = tile[threadIdx.x ^ 32]; // = warp_barrier_between_warps
}

// checked (out): race|uninitialised
extern "C" __global__ void warp_barrier_of_others(float *out)
{
    __shared__ float tile[THREADS];
    tile[threadIdx.x] = 1.0f;
    __syncwarp(threadIdx.x % 2 ? 0xaaaaaaaau : 0x55555555u);
    out[threadIdx.x] = tile[threadIdx.x ^ 1]; // = warp_barrier_of_others
}

// checked (out): race: .* of the shared array `value`
extern "C" __global__ void read_by_another_warp(float *out)
{
    __shared__ float value;
    if (threadIdx.x == 0)
        value = 1.0f;
    __syncthreads();
    out[threadIdx.x] = value;
    __syncwarp();
    if (threadIdx.x == 0)
        value = 2.0f; // = read_by_another_warp
}

// checked (int): race: .*atomic operation.*
extern "C" __global__ void atomic_and_plain(int *out)
{
    __shared__ int count;
    if (threadIdx.x == 0)
        count = 0;
    __syncthreads();
    atomicAdd(&count, 1);
    out[threadIdx.x] = count; // = atomic_and_plain
}

// checked (out): race: .*the array `out`
extern "C" __global__ void global_race_in_a_block(float *out)
{
    out[threadIdx.x] = 1.0f;
    out[threadIdx.x] += out[(threadIdx.x + 1) % THREADS]; // = global_race_in_a_block
}

// Races between blocks.

// checked (out): race: .*the array `out`.*by another block
extern "C" __global__ void sum_without_atomic(float *out)
{
    if (threadIdx.x == 0)
        out[0] += 1.0f; // = sum_without_atomic
}

// checked (out): race: read of the array `out`.*by another block
extern "C" __global__ void read_of_another_block(float *out)
{
    if (threadIdx.x == 0) {
        out[1 + blockIdx.x] = 1.0f;
        if (blockIdx.x > 0)
            out[THREADS + blockIdx.x] = out[blockIdx.x]; // = read_of_another_block
    }
}

// Accesses out of bounds.

// checked (small n): out of bounds: write of 4 bytes.* 4 bytes past the end of .*`out`
extern "C" __global__ void past_the_end(float *out, int n)
{
    if (threadIdx.x <= n)
        out[threadIdx.x] = 1.0f; // = past_the_end
}

// checked (in out): out of bounds: read .* 4 bytes before the start of .*`in`
extern "C" __global__ void before_the_start(const float *in, float *out)
{
    out[threadIdx.x] = in[int(threadIdx.x) - 1]; // = before_the_start
}

// checked (ragged out last): out of bounds: read of .* bytes past .*`in`
extern "C" __global__ void half_past_the_end(const float *in, float *out, int n)
{
    const float4 four = *reinterpret_cast<const float4 *>(in + n); // = half_past_the_end
    out[threadIdx.x] = four.x + four.y + four.z + four.w;
}

// checked (out): out of bounds: write .* past the end of the shared array `four`
extern "C" __global__ void past_static_shared(float *out)
{
    __shared__ float four[4];
    if (threadIdx.x % 16 == 0)
        four[1 + threadIdx.x / 16] = 1.0f; // = past_static_shared
    __syncthreads();
    out[threadIdx.x] = four[1];
}

// checked (out): out of bounds: write .* past the end of the dynamic shared
extern "C" __global__ void past_dynamic_shared(float *out)
{
    extern __shared__ float tile[];
    tile[threadIdx.x] = 1.0f; // = past_dynamic_shared
    out[threadIdx.x] = tile[threadIdx.x];
}

// checked (null out): out of bounds: read .*: a null pointer
extern "C" __global__ void null_pointer(const float *in, float *out)
{
    out[threadIdx.x] = in[threadIdx.x]; // = null_pointer
}

// checked (int): out of bounds: atomic operation .* past the end of .*`out`
extern "C" __global__ void atomic_past_the_end(int *out)
{
    atomicAdd(out + THREADS, 1); // = atomic_past_the_end
}

// checked (out): out of bounds: read
extern "C" __global__ void local_of_another_thread(float *out)
{
    __shared__ float *pointer;
    float local[2] = {1.0f, out[threadIdx.x]};
    if (threadIdx.x == 0)
        pointer = local;
    __syncthreads();
    out[threadIdx.x] = pointer[threadIdx.x % 2]; // = local_of_another_thread
    __syncthreads();
}

// Reads of shared memory that was not written.

// checked (out): uninitialised read of the shared array `tile`
extern "C" __global__ void uninitialised_static(float *out)
{
    __shared__ float tile[THREADS + 1];
    tile[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x + 1]; // = uninitialised_static
}

// checked (out): uninitialised read of the dynamic .*block \(1,0,0\)
extern "C" __global__ void uninitialised_dynamic(float *out)
{
    extern __shared__ float tile[];
    if (blockIdx.x == 0)
        tile[threadIdx.x] = 1.0f;
    out[threadIdx.x + blockIdx.x * THREADS] = tile[threadIdx.x]; // = uninitialised_dynamic
}

// Misaligned accesses.

// checked (in out): misaligned read of 16 bytes
extern "C" __global__ void misaligned_read(const float *in, float *out)
{
    const float4 four = *reinterpret_cast<const float4 *>(in + threadIdx.x); // = misaligned_read
    out[threadIdx.x] = four.x + four.y + four.z + four.w;
}

// checked (out): misaligned write of 8 bytes
extern "C" __global__ void misaligned_write(float *out)
{
    reinterpret_cast<float2 *>(out + 1)[threadIdx.x] = make_float2(1, 2); // = misaligned_write
}

// Barriers and warp operations that some threads miss.

// always (out): divergent barrier: thread \(\d+,0,0\) .* has ended
extern "C" __global__ void ended_before_barrier(float *out)
{
    if (threadIdx.x >= 32)
        return;
    out[threadIdx.x] = 1.0f;
    __syncthreads(); // = ended_before_barrier
}

// always (out): divergent barrier: .* waits at faulty.cu:\d+
extern "C" __global__ void barriers_in_branches(float *out)
{
    if (threadIdx.x < 32) {
        out[threadIdx.x] = 1.0f;
        __syncthreads(); // = barriers_in_branches
    } else {
        out[threadIdx.x] = 2.0f;
        __syncthreads();
    }
}

// always (out): deadlock: thread \(1,0,0\) .* mask 0xffffffff
extern "C" __global__ void shuffle_in_a_branch(float *out)
{
    float value = 1.0f;
    if (threadIdx.x % 2)
        value = __shfl_xor_sync(ALL, value, 2); // = shuffle_in_a_branch
    __syncthreads();
    out[threadIdx.x] = value;
}

// always (out): names, with mask 0xffffffff, lane 5, which has ended
extern "C" __global__ void shuffle_after_return(float *out)
{
    if (threadIdx.x == 5)
        return;
    out[threadIdx.x] = __shfl_xor_sync(ALL, 1.0f, 1); // = shuffle_after_return
}

// always (out): is lane \d+, which its own mask 0x0000ffff does not name
extern "C" __global__ void not_in_its_mask(float *out)
{
    out[threadIdx.x] = __ballot_sync(0x0000ffffu, 1); // = not_in_its_mask
}

// always (out): the width of a shuffle is 3; it must be a power of two
extern "C" __global__ void shuffle_of_width_three(float *out)
{
    out[threadIdx.x] = __shfl_sync(ALL, 1.0f, 0, 3); // = shuffle_of_width_three
}

extern "C" __global__ void matrix_of_half_a_warp(float *out)
{
    const unsigned a[4] = {}, b[2] = {};
    float c[4] = {};
    mma_m16n8k8_tf32(c, a, b); // = matrix_of_half_a_warp
    out[threadIdx.x] = c[0];
}

// always (out): __trap by thread \(\d+,0,0\) of block \(0,0,0\)
extern "C" __global__ void trapped(float *out)
{
    if (out[threadIdx.x] == 0.0f)
        __trap(); // = trapped
}

// Asynchronous copies and matrix loads.

__device__ void begin_copy(float *tile, const float *in)
{
    cp_async16(tile + 4 * threadIdx.x, in + 4 * threadIdx.x);
    cp_async_commit();
}

// checked (in out): missing wait: read of .*`tile`
extern "C" __global__ void missing_wait(const float *in, float *out)
{
    __shared__ __align__(16) float tile[4 * THREADS];
    begin_copy(tile, in);
    out[threadIdx.x] = tile[4 * threadIdx.x]; // = missing_wait
}

// checked (in out): missing wait: read of .*`tile`
extern "C" __global__ void wait_for_too_few(const float *in, float *out)
{
    __shared__ __align__(16) float tile[4 * THREADS];
    begin_copy(tile, in);
    cp_async_wait<1>();
    out[threadIdx.x] = tile[4 * threadIdx.x]; // = wait_for_too_few
}

// checked (in out): missing wait: read of .*`tile`
extern "C" __global__ void missing_commit(const float *in, float *out)
{
    __shared__ __align__(16) float tile[4 * THREADS];
    cp_async16(tile + 4 * threadIdx.x, in + 4 * threadIdx.x);
    cp_async_wait<0>();
    out[threadIdx.x] = tile[4 * threadIdx.x]; // = missing_commit
}

// checked (in out): race|missing wait|uninitialised
extern "C" __global__ void wait_without_barrier(const float *in, float *out)
{
    __shared__ __align__(16) float tile[4 * THREADS];
    begin_copy(tile, in);
    cp_async_wait<0>();
    __syncwarp();
    out[threadIdx.x] = tile[4 * (threadIdx.x ^ 32)]; // = wait_without_barrier
}

// checked (in out): race: .*`tile`.*no barrier after the
extern "C" __global__ void copy_over_what_is_read(const float *in, float *out)
{
    __shared__ __align__(16) float tile[4 * THREADS];
    for (int i = 0; i < 4; i++)
        tile[4 * threadIdx.x + i] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = tile[4 * (threadIdx.x ^ 32)];
    cp_async16(tile + 4 * threadIdx.x, in + 4 * threadIdx.x); // = copy_over_what_is_read
    cp_async_commit();
    cp_async_wait<0>();
}

// checked (in out): out of bounds: read of 16 bytes .* past the end of .*`in`
extern "C" __global__ void copy_past_the_end(const float *in, float *out)
{
    __shared__ __align__(16) float tile[4 * THREADS];
    cp_async16(tile + 4 * threadIdx.x, in + 4 * threadIdx.x + 4); // = copy_past_the_end
    cp_async_commit();
    cp_async_wait<0>();
    out[threadIdx.x] = tile[4 * threadIdx.x];
}

// always (in out): misaligned asynchronous copy of 16 bytes
extern "C" __global__ void misaligned_copy(const float *in, float *out)
{
    __shared__ __align__(16) float tile[4 * THREADS];
    cp_async16(tile + 4 * threadIdx.x, in + 1); // = misaligned_copy
    out[threadIdx.x] = 1.0f;
}

// always (in out): outside the shared memory
extern "C" __global__ void copy_to_global(const float *in, float *out)
{
    cp_async16(out, in); // = copy_to_global
    out[threadIdx.x] = 1.0f;
}

// always (in out): not in shared memory
extern "C" __global__ void matrix_of_global(const float *in, float *out)
{
    unsigned r[2];
    ldmatrix_x2(r, in); // = matrix_of_global
    out[threadIdx.x] = __uint_as_float(r[0]);
}

// always (out): misaligned matrix row
extern "C" __global__ void misaligned_matrix(float *out)
{
    __shared__ __align__(16) float tile[2 * THREADS];
    tile[threadIdx.x] = tile[THREADS + threadIdx.x] = 1.0f;
    __syncthreads();
    unsigned r[4];
    ldmatrix_x4(r, tile + threadIdx.x % 32); // = misaligned_matrix
    out[threadIdx.x] = __uint_as_float(r[0]);
}

// checked (out): uninitialised read of the shared array `tile`
extern "C" __global__ void uninitialised_matrix(float *out)
{
    __shared__ __align__(16) float tile[4 * 32];
    if (threadIdx.x < 32)
        tile[threadIdx.x] = 1.0f;
    __syncthreads();
    unsigned r[4];
    ldmatrix_x4_trans(r, tile + 4 * (threadIdx.x % 32)); // = uninitialised_matrix
    out[threadIdx.x] = __uint_as_float(r[0]);
}
