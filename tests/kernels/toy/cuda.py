"""The square in CUDA C."""

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.cuda.operation import Operation, contiguous, is_single

THREADS = 256


class Toy(Operation):
    """See reference.py and toy.cu."""

    def forward(self, x: Array) -> Array:
        if not is_single(x):
            return NotImplemented
        return self._map("toy_forward", x)

    def backward(self, grad: Array, x: Array) -> Array:
        if not is_single(x, grad := contiguous(grad)):
            return NotImplemented
        return self._map("toy_backward", grad, x)

    def _map(self, function: str, *arrays: Array) -> Array:
        result = namespace(arrays[0]).empty_like(arrays[0])
        blocks = -(-result.size // THREADS)
        self.launch(function, (blocks,), THREADS, *arrays, result, np.int64(result.size))
        return result
