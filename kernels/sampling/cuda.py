"""Sampling by a CUDA kernel."""

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.cuda.operation import SCALARS, Operation, contiguous, serves
from tinygrad_char.kernels.sampling.reference import PLAIN, Options

THREADS = 256


class Sampling(Operation):
    def forward(self, logits: Array, uniform: Array, options: Options = PLAIN) -> Array:
        temperature, top_k, top_p = options
        # sums are float32. The reference serves top-p
        if not serves(logits) or (top_p is not None and top_p < 1):
            return NotImplemented
        rows, classes = logits.shape
        tokens = namespace(logits).empty(rows, np.int64)
        self.launch(
            "sampling",
            (rows,),
            THREADS,
            contiguous(logits),
            contiguous(uniform).astype(np.float32, copy=False),
            tokens,
            np.int32(classes),
            np.float32(temperature),
            np.int32(classes if top_k is None else min(top_k, classes)),
            SCALAR=SCALARS[logits.dtype.name],
        )
        return tokens
