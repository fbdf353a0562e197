"""Sums over axes."""

from kernels.array import Array
from kernels.half import FLOAT32, is_half, rounded


def total(x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """Return the sum of x over axes, of x's dtype; sixteen bits are added up in float32."""
    if is_half(x):
        return rounded(x.sum(axis=axes, keepdims=keepdims, dtype=FLOAT32), x.dtype)
    return x.sum(axis=axes, keepdims=keepdims)
