"""Causal convolution by CUDA kernels. Weights and their gradients are float32."""

from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.cuda.operation import (
    ROW_BLOCK,
    Operation,
    access_macros,
    contiguous,
    serves_with,
)

STRETCH = 32
"""Positions that a warp walks over, with the last few in registers."""
TAPS = (2, 3, 4)
"""For which kernels are compiled: rows of so many positions stay in registers."""
MOST_PARTS = 256
"""Blocks whose sums of weights' gradients are added up afterwards: not the device's."""


class CausalConvolution(Operation):
    """Serves two to four taps."""

    def forward(self, x: Array, weight: Array) -> Array:
        if not self._serves(weight, x):
            return NotImplemented
        x = contiguous(x)
        y = namespace(x).empty(x.shape, x.dtype)
        self._launch("causal_convolution_forward", None, x, weight, x, weight, y)
        return y

    def backward(
        self, grad: Array, x: Array, weight: Array, needs: tuple[bool, bool]
    ) -> tuple[Array | None, Array | None]:
        if not self._serves(weight, grad, x):
            return NotImplemented
        xp = namespace(x)
        grad, x = contiguous(grad), contiguous(x)
        grad_x = xp.empty(x.shape, x.dtype) if needs[0] else None
        if not needs[1]:
            arrays = (grad, x, weight, grad_x, None)
            self._launch("causal_convolution_backward", None, x, weight, *arrays)
            return grad_x, None
        parts = max(1, min(MOST_PARTS, -(-_stretches(x) // (ROW_BLOCK // 32))))
        partial = xp.empty((parts, *weight.shape), np.float32)
        arrays = (grad, x, weight, grad_x, partial)
        self._launch("causal_convolution_backward", parts, x, weight, *arrays)
        return grad_x, self.sum_rows(partial, weight.shape, weight.dtype)

    def _serves(self, weight: Array, *arrays: Array) -> bool:
        return len(weight) in TAPS and serves_with(weight, *arrays)

    def _launch(
        self, function: str, parts: int | None, x: Array, weight: Array, *arrays: Any
    ) -> None:
        _, length, channels = x.shape
        macros = access_macros(channels, x, *arrays)
        stretches = _stretches(x)
        self.launch(
            function,
            (parts or -(-stretches // (ROW_BLOCK // 32)), -(-channels // (32 * macros["VECTOR"]))),
            ROW_BLOCK,
            *arrays,
            *(np.int64(stretches), np.int64(length), np.int32(channels)),
            **macros,
            TAPS=len(weight),
        )


def _stretches(x: Array) -> int:
    return x.shape[0] * -(-x.shape[1] // STRETCH)
