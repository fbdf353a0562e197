// Stacks for fibers: one for each thread of the largest block. All kernel files that a system
// thread runs share them.
#pragma once

#include <cstddef>

namespace cuda_on_cpu {

constexpr size_t STACK_BYTES = 256 * 1024;

// Makes every stack of a set, as cuda_on_cpu_make_stacks returned it, free.
void use_stacks(char *stacks);

// The stack that was given back last comes first: it is in the processor's cache.
char *take_stack();
void give_back_stack(char *stack);

} // namespace cuda_on_cpu
