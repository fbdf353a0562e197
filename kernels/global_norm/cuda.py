"""The norm of all gradients in CUDA C, of float32 or bfloat16."""

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.cuda.operation import SCALARS, Operation, serves

THREADS = 256
MOST_PARTS = 1024


class GlobalNorm(Operation):
    def forward(self, grad: Array) -> Array:
        if not serves(grad):
            return NotImplemented
        xp = namespace(grad)
        scalar = SCALARS[grad.dtype.name]
        parts = min(-(-grad.size // (THREADS * 16)), MOST_PARTS)
        partial, norm = xp.empty(parts, np.float64), xp.empty((), np.float64)
        size, count = np.int64(grad.size), np.int32(parts)
        self.launch("sum_of_squares", (parts,), THREADS, grad, size, partial, SCALAR=scalar)
        self.launch("global_norm", (1,), THREADS, partial, count, norm, SCALAR=scalar)
        return norm
