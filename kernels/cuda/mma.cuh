// Tensor-core products of a warp and the loads of their operands, for sm_80 and later: PTX on a
// GPU, the runner's emulation on the CPU. Fragment layouts: PTX manual, mma.m16n8k16, mma.m16n8k8
// and ldmatrix. With lane = 4 g + t:
//
//   A, bf16 (16 x 16, row-major): a[0] = (g, 2t..2t+1), a[1] = (g + 8, 2t..), a[2] = (g, 2t + 8..),
//                                 a[3] = (g + 8, 2t + 8..)
//   B, bf16 (16 x 8):             b[0] = (2t..2t+1, g), b[1] = (2t + 8.., g)
//   A, TF32 (16 x 8, row-major):  a[0] = (g, t), a[1] = (g + 8, t), a[2] = (g, t + 4),
//                                 a[3] = (g + 8, t + 4)
//   B, TF32 (8 x 8):              b[0] = (t, g), b[1] = (t + 4, g)
//   C (16 x 8):                   c[0..1] = (g, 2t..2t+1), c[2..3] = (g + 8, 2t..2t+1)
//
// A pair of bf16 in one register has the element with the smaller index in the low half.
#pragma once

#ifdef CUDA_ON_CPU

#define MMA_LOCATION , cuda_on_cpu::Location where = cuda_on_cpu::Location::here()

namespace cuda_on_cpu {

inline void multiply(WarpOperation operation, float *c, const unsigned *a, const unsigned *b,
                     Location where)
{
    uint32_t input[WARP_INPUT];
    memcpy(input, a, 16);
    memcpy(input + 4, b, 8);
    memcpy(input + 6, c, 16);
    uint32_t output[WARP_OUTPUT];
    wait_for_warp({operation, 0xffffffffu, where}, input, WARP_INPUT, output, WARP_OUTPUT);
    memcpy(c, output, 16);
}

} // namespace cuda_on_cpu

#else
#define MMA_LOCATION
#endif

// c += a b, with bf16 operands and float32 sums.
__device__ __forceinline__ void mma_m16n8k16_bf16(float *c, const unsigned *a,
                                                  const unsigned *b MMA_LOCATION)
{
#ifdef CUDA_ON_CPU
    cuda_on_cpu::multiply(cuda_on_cpu::WarpOperation::MultiplyBf16, c, a, b, where);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// c += a b, with TF32 operands and float32 sums.
__device__ __forceinline__ void mma_m16n8k8_tf32(float *c, const unsigned *a,
                                                 const unsigned *b MMA_LOCATION)
{
#ifdef CUDA_ON_CPU
    cuda_on_cpu::multiply(cuda_on_cpu::WarpOperation::MultiplyTf32, c, a, b, where);
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// The float32 rounded to TF32: to nearest, ties away from zero.
__device__ __forceinline__ unsigned to_tf32(float value)
{
#ifdef CUDA_ON_CPU
    return isnan(value) ? 0x7fffffffu : (__float_as_uint(value) + 0x1000u) & 0xffffe000u;
#else
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
#endif
}

// Loads 8x8 matrices of 16-bit elements from shared memory: lane 8 m + i gives the address of row i
// of matrix m, a multiple of 16 bytes. Of matrix m, this lane gets in r[m] the elements 2t and
// 2t + 1 of row g; with _trans, of column g.
__device__ __forceinline__ void ldmatrix_x2(unsigned *r, const void *row MMA_LOCATION)
{
#ifdef CUDA_ON_CPU
    cuda_on_cpu::load_matrix(cuda_on_cpu::WarpOperation::LoadMatrix, r, 2, row, where);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x2_trans(unsigned *r, const void *row MMA_LOCATION)
{
#ifdef CUDA_ON_CPU
    cuda_on_cpu::load_matrix(cuda_on_cpu::WarpOperation::LoadMatrixTransposed, r, 2, row, where);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x4(unsigned *r, const void *row MMA_LOCATION)
{
#ifdef CUDA_ON_CPU
    cuda_on_cpu::load_matrix(cuda_on_cpu::WarpOperation::LoadMatrix, r, 4, row, where);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x4_trans(unsigned *r, const void *row MMA_LOCATION)
{
#ifdef CUDA_ON_CPU
    cuda_on_cpu::load_matrix(cuda_on_cpu::WarpOperation::LoadMatrixTransposed, r, 4, row, where);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
#endif
}

#undef MMA_LOCATION
