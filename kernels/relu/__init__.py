"""Rectified linear unit."""

from tinygrad_char.kernels.relu.reference import backward, forward

__all__ = ["backward", "forward"]
