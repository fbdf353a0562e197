/* Rotary positions: see reference.py for the equations. qkv (B, length, 3, heads, size) of SCALAR;
 * `angles` (positions, size), the cosines of a position and then its sines, are float32. VECTOR
 * elements, which divide size / 2, are moved at a time.
 *
 * LANES threads turn one head of one position. What is normalised is read twice, the second time
 * from the cache.
 *
 * Variants: SCALAR=float VECTOR=1|4
 * Variants: SCALAR=__nv_bfloat16 VECTOR=1|8 */
#include "pack.cuh"
#include "reduce.cuh"

constexpr int BLOCK = 256, LANES = 4;
constexpr float EPS = 1e-6f;

/* A head of a position, queries before keys, and where it is. */
struct Place {
    long long row, head; /* of which a row has 2 * heads */
    int half, lane;
    const float *angles;

    __device__ __forceinline__ Place(const float *angles, int length, int heads, int size)
    {
        const long long number = ((long long)blockIdx.x * BLOCK + threadIdx.x) / LANES;
        row = number / (2 * heads);
        head = number % (2 * heads);
        half = size / 2;
        lane = threadIdx.x % LANES;
        this->angles = angles + row % length * size;
    }

    __device__ __forceinline__ long long packed(int heads) const
    {
        return (row * 3 * heads + head) * 2 * half;
    }

    /* Calls use(c) for each VECTOR pairs of this thread, of which c is the first. */
    template <typename Use> __device__ __forceinline__ void each(Use use) const
    {
        for (int c = lane * VECTOR; c < half; c += LANES * VECTOR)
            use(c);
    }
};

/* Pairs of a head, and how they are turned. */
struct Pairs {
    float first[VECTOR], second[VECTOR];

    template <typename T> __device__ __forceinline__ Pairs(const T *source, int half)
    {
        load<VECTOR>(first, source);
        load<VECTOR>(second, source + half);
    }

    __device__ __forceinline__ void turn(const float *angles, int half, float sign)
    {
        const Pairs by(angles, half);
#pragma unroll
        for (int j = 0; j < VECTOR; j++) {
            const float cosine = by.first[j], sine = sign * by.second[j], x = first[j];
            first[j] = x * cosine - second[j] * sine;
            second[j] = x * sine + second[j] * cosine;
        }
    }

    __device__ __forceinline__ float dot(const Pairs &other) const
    {
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < VECTOR; j++)
            sum += first[j] * other.first[j] + second[j] * other.second[j];
        return sum;
    }

    template <typename T> __device__ __forceinline__ void write(T *target, int half) const
    {
        store<VECTOR>(target, first);
        store<VECTOR>(target + half, second);
    }
};

/* The sum over the lanes of a head, for each of them; all lanes of the warp take part. */
__device__ __forceinline__ float sum_lanes(float value)
{
#pragma unroll
    for (int distance = LANES / 2; distance; distance /= 2)
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

extern "C" __global__ void __launch_bounds__(BLOCK)
rotary_forward(const SCALAR *__restrict__ qkv, const float *__restrict__ angles,
               SCALAR *__restrict__ y, long long turned, int length, int heads, int size,
               int normalize)
{
    const Place at(angles, length, heads, size);
    const bool inside = at.row * 2 * heads + at.head < turned;
    const SCALAR *const x = qkv + at.packed(heads);
    float scale = 1.0f;
    if (normalize) {
        float sum = 0.0f;
        if (inside)
            at.each([&](int c) {
                const Pairs pairs(x + c, at.half);
                sum += pairs.dot(pairs);
            });
        scale = 1.0f / sqrtf(sum_lanes(sum) / size + EPS);
    }
    if (!inside)
        return;
    SCALAR *const result = y + (at.row * 2 * heads + at.head) * size;
    at.each([&](int c) {
        Pairs pairs(x + c, at.half);
#pragma unroll
        for (int j = 0; j < VECTOR; j++) {
            pairs.first[j] *= scale;
            pairs.second[j] *= scale;
        }
        pairs.turn(at.angles + c, at.half, 1.0f);
        pairs.write(result + c, at.half);
    });
}

/* Changes grad in its place. qkv may be NULL, where nothing was normalised. */
extern "C" __global__ void __launch_bounds__(BLOCK)
rotary_backward(SCALAR *grad, const SCALAR *__restrict__ qkv, const float *__restrict__ angles,
                long long turned, int length, int heads, int size)
{
    const Place at(angles, length, heads, size);
    const bool inside = at.row * 2 * heads + at.head < turned;
    SCALAR *const d = grad + at.packed(heads);
    const SCALAR *const x = qkv + (qkv ? at.packed(heads) : 0);
    float scale = 1.0f, mean = 0.0f;
    if (qkv) {
        float square = 0.0f, product = 0.0f;
        if (inside)
            at.each([&](int c) {
                const Pairs pairs(x + c, at.half);
                Pairs back(d + c, at.half);
                back.turn(at.angles + c, at.half, -1.0f);
                square += pairs.dot(pairs);
                product += back.dot(pairs);
            });
        scale = 1.0f / sqrtf(sum_lanes(square) / size + EPS);
        mean = scale * scale * (sum_lanes(product) / size);
    }
    if (!inside)
        return;
    at.each([&](int c) {
        Pairs back(d + c, at.half);
        back.turn(at.angles + c, at.half, -1.0f);
        if (qkv) {
            const Pairs pairs(x + c, at.half);
#pragma unroll
            for (int j = 0; j < VECTOR; j++) {
                back.first[j] = scale * (back.first[j] - mean * pairs.first[j]);
                back.second[j] = scale * (back.second[j] - mean * pairs.second[j]);
            }
        }
        back.write(d + c, at.half);
    });
}
