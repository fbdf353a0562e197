// Operations that the lanes of a warp carry out together.
#pragma once

#include "thread.h"

namespace cuda_on_cpu {

// Answers each request that all the lanes it names have made. Returns whether lanes can go on.
bool answer_warp(Thread *lanes, unsigned count);

// C += A B for a whole warp, by the fragment layouts of the PTX manual (mma.m16n8k16, mma.m16n8k8).
void multiply_matrices(Thread *lanes, WarpOperation operation);

// Distributes the 8x8 matrices of 16-bit elements whose rows the lanes have read (ldmatrix).
void distribute_matrices(Thread *lanes, WarpOperation operation, unsigned matrices);

} // namespace cuda_on_cpu
