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

#define MMA(name, emulated, instruction)                                                 \
    inline void name(float *c, const unsigned *a, const unsigned *b,                     \
                     cuda_on_cpu::Location where = cuda_on_cpu::Location::here())        \
    {                                                                                    \
        cuda_on_cpu::multiply(cuda_on_cpu::WarpOperation::emulated, c, a, b, where);     \
    }
#define LDMATRIX(name, emulated, count, instruction, operands, ...)                      \
    inline void name(unsigned *r, const void *row,                                       \
                     cuda_on_cpu::Location where = cuda_on_cpu::Location::here())        \
    {                                                                                    \
        cuda_on_cpu::load_matrix(cuda_on_cpu::WarpOperation::emulated, r, count, row, where); \
    }

#else

#define MMA(name, emulated, instruction)                                                 \
    __device__ __forceinline__ void name(float *c, const unsigned *a, const unsigned *b) \
    {                                                                                    \
        asm volatile("mma.sync.aligned." instruction                                     \
                     " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n" \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                    \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); \
    }
#define LDMATRIX(name, emulated, count, instruction, operands, ...)                      \
    __device__ __forceinline__ void name(unsigned *r, const void *row)                   \
    {                                                                                    \
        asm volatile("ldmatrix.sync.aligned.m8n8." instruction " " operands ";\n"        \
                     : __VA_ARGS__                                                       \
                     : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))         \
                     : "memory");                                                        \
    }

#endif

// c += a b, with operands of bf16 or TF32 and float32 sums.
MMA(mma_m16n8k16_bf16, MultiplyBf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
MMA(mma_m16n8k8_tf32, MultiplyTf32, "m16n8k8.row.col.f32.tf32.tf32.f32")

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
LDMATRIX(ldmatrix_x2, LoadMatrix, 2, "x2.shared.b16", "{%0, %1}, [%2]", "=r"(r[0]), "=r"(r[1]))
LDMATRIX(ldmatrix_x2_trans, LoadMatrixTransposed, 2, "x2.trans.shared.b16", "{%0, %1}, [%2]",
         "=r"(r[0]), "=r"(r[1]))
LDMATRIX(ldmatrix_x4, LoadMatrix, 4, "x4.shared.b16", "{%0, %1, %2, %3}, [%4]", "=r"(r[0]),
         "=r"(r[1]), "=r"(r[2]), "=r"(r[3]))
LDMATRIX(ldmatrix_x4_trans, LoadMatrixTransposed, 4, "x4.trans.shared.b16",
         "{%0, %1, %2, %3}, [%4]", "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]))

#undef MMA
#undef LDMATRIX
