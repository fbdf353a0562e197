"""The Euclidean norm of a flat buffer of gradients, by which they are clipped."""

from tinygrad_char.kernels.global_norm.reference import CHUNK, forward

__all__ = ["CHUNK", "forward"]
