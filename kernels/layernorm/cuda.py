"""LayerNorm and RMSNorm in CUDA C, row by row. Parameters and statistics are float32."""

from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.cuda.operation import (
    Operation,
    by_rows,
    contiguous,
    is_single,
    row_plan,
    serves,
)
from tinygrad_char.kernels.layernorm.reference import Gradients, Needs, Saved

MOST_PARTS = 384
"""Blocks of the first stage of a sum over rows: not the device's, so that no result depends on
the device's size. Almost three for each multiprocessor of an H200."""
MOST_CHANNELS = 24 * 1024
"""Channels that LayerNorm's backward has shared memory for."""


class LayerNorm(Operation):
    def forward(
        self, x: Array, weight: Array | None, bias: Array | None, eps: float = 1e-5
    ) -> tuple[Array, Array, Array]:
        return self._forward("layernorm_forward", x, weight, bias, eps, statistics=2)

    def rms_forward(
        self, x: Array, weight: Array | None, bias: Array | None, eps: float = 1e-5
    ) -> tuple[Array, Array]:
        return self._forward("rmsnorm_forward", x, weight, bias, eps, statistics=1)

    def _forward(
        self,
        kernel: str,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        eps: float,
        *,
        statistics: int,
    ) -> Any:
        if not (serves(x) and is_single(weight, bias)):
            return NotImplemented
        xp = namespace(x)
        x = contiguous(x)
        rows, columns = by_rows(x)
        y = xp.empty(x.shape, x.dtype)
        results = (y, *(xp.empty((*x.shape[:-1], 1), np.float32) for _ in range(statistics)))
        self.launch_rows(
            kernel,
            x,
            (x, weight, bias, *results),
            *(np.int64(rows), np.int32(columns), np.float32(eps)),
            beside=(y, weight, bias),
        )
        return results

    def backward(
        self, grad: Array, saved: Saved, needs: Needs, addend: Array | None = None
    ) -> Gradients:
        x, weight, mean, rstd = saved
        rows, columns = by_rows(x)
        if columns > MOST_CHANNELS:
            return NotImplemented
        if not (serves(grad, x, addend) and is_single(weight, mean, rstd)):
            return NotImplemented
        xp = namespace(x)
        grad, x = contiguous(grad), contiguous(x)
        addend = None if addend is None else contiguous(addend)
        warps, blocks = row_plan(rows, columns)
        blocks = min(blocks, MOST_PARTS)
        grad_x = xp.empty(x.shape, x.dtype) if needs[0] else None
        partial = xp.empty((blocks, 2, columns), np.float32) if needs[1] or needs[2] else None
        self.launch_rows(
            "layernorm_backward",
            x,
            (grad, x, weight, mean, rstd, addend, grad_x, partial),
            *(np.int64(rows), np.int32(columns)),
            beside=(grad, weight, addend, grad_x),
            most_blocks=MOST_PARTS,
            shared_bytes=0 if partial is None else 8 // warps * 2 * columns * 4,
        )
        if partial is None:
            return grad_x, None, None
        if not needs[2] and weight is not None:
            flat = self.settings.parameters
            out = None if flat is None else flat.buffer(weight)
            return grad_x, self.sum_rows(partial, (columns,), weight.dtype, out), None
        sums = self.sum_rows(partial, (2, columns), np.dtype(np.float32))
        return grad_x, sums[0] if needs[1] else None, sums[1] if needs[2] else None

    rms_backward = backward
