// The shared memory of the block that runs.
#pragma once

#include <cstddef>
#include <vector>

#include "launch.h"

namespace cuda_on_cpu {

// Finds the static shared arrays and makes room for the dynamic shared memory, which ends at a page
// that faults.
void prepare_shared_memory(const Launch &launch);

// Fills it with ones, which are not-a-number as floats, as a new block begins.
void poison_shared_memory();

// The static arrays and the dynamic shared memory, by address.
const std::vector<Array> &shared_arrays();

bool in_shared_memory(const void *address, size_t bytes);

} // namespace cuda_on_cpu
