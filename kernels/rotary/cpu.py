"""Rotary positions in C, for contiguous float32 arrays of the host: see reference.py."""

from collections.abc import Callable
from types import NotImplementedType

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.backend import asked_first
from tinygrad_char.kernels.cpu.arguments import fits
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty
from tinygrad_char.kernels.rotary import Options


def forward(qkv: Array, options: Options) -> Array:
    if not fits(qkv, options.angles) or len(options.angles) < qkv.shape[1]:
        return NotImplemented  # the reference says which position has no angles
    y, sizes = _result(qkv, options)
    compiled.rotary_forward(qkv, options.angles, y, *sizes, options.normalize)
    return y


def cached(
    qkv: Array, filled: np.ndarray, options: Options, turn: Callable[[Array, Options], Array]
) -> Array:
    # where `turn` is the function above: else another version was asked for
    if not fits(qkv, options.angles) or asked_first(turn) is not forward:
        return NotImplemented
    if not 0 <= filled[0] <= len(options.angles) - qkv.shape[1]:
        return NotImplemented
    y, sizes = _result(qkv, options)
    compiled.rotary_cached(qkv, options.angles, filled, y, *sizes, options.normalize)
    return y


def backward(grad: Array, qkv: Array, options: Options) -> NotImplementedType | None:
    if not fits(grad, qkv, options.angles):
        return NotImplemented
    x = qkv if options.normalize else None
    compiled.rotary_backward(grad, x, options.angles, *_sizes(grad, options))
    return None


def _result(qkv: Array, options: Options) -> tuple[Array, tuple[int, ...]]:
    batch, length, heads, size, positions = _sizes(qkv, options)
    return empty((batch, length, 2, heads, size)), (batch, length, heads, size, positions)


def _sizes(packed: Array, options: Options) -> tuple[int, int, int, int, int]:
    batch, length, width = packed.shape
    return batch, length, options.heads, width // (3 * options.heads), len(options.angles)
