"""Normalisation of rows: LayerNorm and RMSNorm."""

from tinygrad_char.kernels.layernorm.reference import (
    FAR,
    Saved,
    backward,
    forward,
    rms_backward,
    rms_forward,
)

__all__ = ["FAR", "Saved", "backward", "forward", "rms_backward", "rms_forward"]
