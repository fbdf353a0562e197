"""Dropout in C, for contiguous float32 arrays of the host: see reference.py."""

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import fits
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty
from tinygrad_char.kernels.dropout.reference import DropoutKey, MaskSource, keep_scale, threshold


def forward(x: Array, p: float, key: MaskSource) -> Array:
    mask = mask_arguments(p, key)
    if mask is None or not fits(x):
        return NotImplemented
    y = empty(x.shape)
    compiled.dropout_masked(x, y, x.size, *mask)
    return y


def mask_arguments(p: float, key: MaskSource | None) -> tuple[int, int, int, float] | None:
    """Return what philox.h makes a mask of (p = 0 keeps all), None if it cannot make this one."""
    if p == 0:
        return 0, 0, 0, 1.0
    if not isinstance(key, DropoutKey):
        return None
    return key.seed, key.call, threshold(p), keep_scale(p)


backward = forward  # the mask is drawn again
