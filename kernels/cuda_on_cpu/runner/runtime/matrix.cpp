#include <cstring>

#include "warp.h"

namespace cuda_on_cpu {
namespace {

constexpr unsigned M = 16, N = 8, LARGEST_K = 16;

float as_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint32_t as_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

// One of the two bfloat16 of a register.
float half_of(uint32_t bits, unsigned half)
{
    return as_float(half ? bits & 0xffff0000u : bits << 16);
}

// Tensor cores read the 19 bits of a register that TF32 has.
float tf32_of(uint32_t bits) { return as_float(bits & 0xffffe000u); }

struct Operands {
    float a[M][LARGEST_K];
    float b[LARGEST_K][N];
};

// A: registers 0 to 3 are rows g, g + 8, g, g + 8; the last two are 8 columns further. B: the
// second register is 8 rows further. Each register holds two neighbours along K.
void gather_bf16(const Thread *lanes, Operands &operands)
{
    for (unsigned lane = 0; lane < WARP_SIZE; lane++) {
        const uint32_t *registers = lanes[lane].input;
        const unsigned group = lane / 4;
        const unsigned k = 2 * (lane % 4);
        for (unsigned half = 0; half < 2; half++) {
            for (unsigned i = 0; i < 4; i++) {
                operands.a[group + 8 * (i % 2)][k + half + 8 * (i / 2)] =
                    half_of(registers[i], half);
            }
            for (unsigned i = 0; i < 2; i++) {
                operands.b[k + half + 8 * i][group] = half_of(registers[4 + i], half);
            }
        }
    }
}

// As above, with one element per register and steps of 4 along K.
void gather_tf32(const Thread *lanes, Operands &operands)
{
    for (unsigned lane = 0; lane < WARP_SIZE; lane++) {
        const uint32_t *registers = lanes[lane].input;
        const unsigned group = lane / 4;
        const unsigned k = lane % 4;
        for (unsigned i = 0; i < 4; i++) {
            operands.a[group + 8 * (i % 2)][k + 4 * (i / 2)] = tf32_of(registers[i]);
        }
        for (unsigned i = 0; i < 2; i++) {
            operands.b[k + 4 * i][group] = tf32_of(registers[4 + i]);
        }
    }
}

} // namespace

void multiply_matrices(Thread *lanes, WarpOperation operation)
{
    Operands operands;
    const bool bf16 = operation == WarpOperation::MultiplyBf16;
    (bf16 ? gather_bf16 : gather_tf32)(lanes, operands);
    const unsigned depth = bf16 ? 16 : 8;
    for (unsigned lane = 0; lane < WARP_SIZE; lane++) {
        for (unsigned i = 0; i < 4; i++) {
            const unsigned row = lane / 4 + 8 * (i / 2);
            const unsigned column = 2 * (lane % 4) + i % 2;
            float sum = as_float(lanes[lane].input[6 + i]);
            for (unsigned k = 0; k < depth; k++) {
                sum += operands.a[row][k] * operands.b[k][column];
            }
            lanes[lane].output[i] = as_bits(sum);
        }
    }
}

void distribute_matrices(Thread *lanes, WarpOperation operation, unsigned matrices)
{
    const bool transposed = operation == WarpOperation::LoadMatrixTransposed;
    for (unsigned matrix = 0; matrix < matrices; matrix++) {
        uint16_t elements[8][8];
        for (unsigned row = 0; row < 8; row++) {
            memcpy(elements[row], lanes[8 * matrix + row].input, sizeof elements[row]);
        }
        for (unsigned lane = 0; lane < WARP_SIZE; lane++) {
            const unsigned row = lane / 4;
            const unsigned column = 2 * (lane % 4);
            const uint32_t low = transposed ? elements[column][row] : elements[row][column];
            const uint32_t high =
                transposed ? elements[column + 1][row] : elements[row][column + 1];
            lanes[lane].output[matrix] = low | high << 16;
        }
    }
}

} // namespace cuda_on_cpu
