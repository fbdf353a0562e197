/* Dropout: see dropout.py for the equations, philox.h for the mask. Forward is also backward. */
#include "philox.h"

MULTIVERSION void dropout_masked(const float *x, float *y, int64_t size, uint64_t seed,
                                 uint64_t call, int64_t threshold, float scale)
{
    const DropoutMask mask = dropout_mask(seed, call, threshold, scale);
    dropout_apply(&mask, 0, size, x, y);
}
