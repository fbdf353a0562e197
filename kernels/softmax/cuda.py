"""Softmax in CUDA C, row by row, in float32 or bfloat16."""

import numpy as np

from tinygrad_char.kernels import softmax
from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.cuda.operation import (
    Operation,
    by_rows,
    contiguous,
    serves,
)


class Softmax(Operation):
    """Along another axis than the last the reference serves.

    A causal mask reaches the kernel as any other; in backward a scale is a pass of its own.
    """

    causal_mask = staticmethod(softmax.causal_mask)

    def forward(
        self,
        x: Array,
        mask: Array | None = None,
        axis: int = -1,
        causal: bool = False,
        scale: float = 1.0,
    ) -> Array:
        if not serves(x) or axis not in (-1, x.ndim - 1) or x.size == 0:
            return NotImplemented
        x = contiguous(x)
        rows, columns = by_rows(x)
        if causal:
            mask = softmax.with_causal(mask, x)
        if mask is not None:
            mask = _repeated(mask, x)
        y = namespace(x).empty(x.shape, x.dtype)
        mask_rows = 1 if mask is None else by_rows(mask)[0]
        self.launch_rows(
            "softmax_forward",
            x,
            (x, mask, y),
            *(np.int64(rows), np.int64(mask_rows), np.int32(columns), np.float32(scale)),
            beside=(y, mask),
        )
        return y

    def backward(
        self, grad: Array, y: Array, axis: int = -1, causal: bool = False, scale: float = 1.0
    ) -> Array:
        if not serves(grad, y) or axis not in (-1, y.ndim - 1) or y.size == 0:
            return NotImplemented
        if causal:
            grad = namespace(y).where(softmax.with_causal(None, y), grad, y.dtype.type(0))
        grad, y = contiguous(grad), contiguous(y)
        rows, columns = by_rows(y)
        grad_x = namespace(y).empty(y.shape, y.dtype)
        self.launch_rows(
            "softmax_backward",
            y,
            (grad, y, grad_x),
            *(np.int64(rows), np.int32(columns)),
            beside=(grad, grad_x),
        )
        if scale != 1:
            grad_x *= grad_x.dtype.type(scale)
        return grad_x


def _repeated(mask: Array, x: Array) -> Array:
    """Return the mask with x's last axes, such that its rows serve those of x in turn."""
    xp = namespace(x)
    lengths = mask.shape
    while len(lengths) > 1 and lengths[0] == 1:
        lengths = lengths[1:]
    shape = x.shape[x.ndim - max(len(lengths), 1) :]
    return contiguous(xp.broadcast_to(mask.reshape(lengths), shape).astype(bool, copy=False))
