/* Dropout: see reference.py for the equations, philox.h for the mask. Forward is also backward. */
#include "kernel.h"
#include "philox.h"

KERNEL(void, dropout_masked, IN(x, size), OUT(y, size), COUNT(size), SEED(seed), CALL(call),
       COUNT(threshold), REAL(scale))
{
    const DropoutMask mask = dropout_mask(seed, call, threshold, scale);
    dropout_apply(&mask, 0, size, x, y);
}
