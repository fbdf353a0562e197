"""Causal depthwise convolution: each channel of a position is mixed with its last few."""

from tinygrad_char.kernels.causal_convolution.reference import backward, cached, forward

__all__ = ["backward", "cached", "forward"]
