"""Add in C, for contiguous float32 arrays of the host: see reference.py."""

import math
from types import NotImplementedType
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import fits
from tinygrad_char.kernels.cpu.cores import threads_for
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty


def forward(a: Any, b: Any) -> Array:
    # fused where b has the shape of a, or of its last axes
    if not _adds_rows(a, b):
        return NotImplemented
    y = empty(a.shape)
    compiled.add_rows(a, b, y, a.size // b.size, b.size, threads_for(a.size))
    return y


def into(a: Array, b: Array, out: Array) -> NotImplementedType | None:
    if not a.shape == b.shape == out.shape or not fits(a, b, out):
        return NotImplemented
    compiled.add_rows(a, b, out, 1, a.size, threads_for(a.size))
    return None


def backward(
    grad: Array, a_shape: tuple[int, ...], b_shape: tuple[int, ...], needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    size = math.prod(b_shape)
    if a_shape == b_shape or a_shape[len(a_shape) - len(b_shape) :] != b_shape:
        return NotImplemented
    if not needs[1] or not size or not fits(grad):
        return NotImplemented
    grad_b = empty(b_shape)
    compiled.column_sums(grad, grad_b, 1, grad.size // size, size)
    return grad if needs[0] else None, grad_b


def _adds_rows(a: Any, b: Any) -> bool:
    return (
        type(a) is np.ndarray
        and type(b) is np.ndarray
        and a.ndim >= b.ndim
        and a.shape[a.ndim - b.ndim :] == b.shape
        and b.size > 0
        and fits(a, b)
    )
