// Stacks for fibers.
#pragma once

#include <cstddef>

namespace cuda_on_cpu {

constexpr size_t STACK_BYTES = 256 * 1024;

// Makes every stack free, and `count` of them exist.
void reset_stacks(size_t count);

// The stack that was given back last comes first: it is in the processor's cache.
char* take_stack();
void give_back_stack(char* stack);

}  // namespace cuda_on_cpu
