"""Dropout with counter-based random bits (Srivastava et al. 2014, JMLR 15)."""

from tinygrad_char.kernels.dropout.reference import (
    LANES,
    LEVELS,
    DropoutKey,
    MaskSource,
    backward,
    forward,
    keep_mask,
    keep_scale,
    threshold,
)

__all__ = [
    "LANES",
    "LEVELS",
    "DropoutKey",
    "MaskSource",
    "backward",
    "forward",
    "keep_mask",
    "keep_scale",
    "threshold",
]
