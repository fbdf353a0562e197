"""Rotary positions by CUDA kernels. Angles are float32."""

from types import NotImplementedType
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
from tinygrad_char.kernels.rotary import Options

LANES = 4
"""Threads that turn one head of one position."""


class Rotary(Operation):
    def forward(self, qkv: Array, options: Options) -> Array:
        batch, length, width = qkv.shape
        heads, angles, normalize = options
        if not serves_with(angles, qkv) or len(angles) < length:
            return NotImplemented
        qkv = contiguous(qkv)
        y = namespace(qkv).empty((batch, length, 2, heads, width // (3 * heads)), qkv.dtype)
        self._launch("rotary_forward", qkv, heads, (qkv, angles, y), np.int32(normalize))
        return y

    def backward(self, grad: Array, qkv: Array, options: Options) -> NotImplementedType | None:
        heads, angles, normalize = options
        if not (serves_with(angles, grad, qkv) and grad.flags.c_contiguous):
            return NotImplemented
        arrays = (grad, contiguous(qkv) if normalize else None, angles)
        self._launch("rotary_backward", grad, heads, arrays)
        return None

    def _launch(
        self, function: str, qkv: Array, heads: int, arrays: tuple[Any, ...], *rest: Any
    ) -> None:
        batch, length, width = qkv.shape
        size = width // (3 * heads)
        turned = batch * length * 2 * heads
        self.launch(
            function,
            (-(-turned * LANES // ROW_BLOCK),),
            ROW_BLOCK,
            *arrays,
            np.int64(turned),
            *map(np.int32, (length, heads, size)),
            *rest,
            **access_macros(size // 2, qkv, *arrays),
        )
