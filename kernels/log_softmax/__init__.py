"""Logarithm of the softmax along one axis."""

from tinygrad_char.kernels.log_softmax.reference import backward, forward

__all__ = ["backward", "forward"]
