"""One token for each row of logits, by a uniform number each."""

from tinygrad_char.kernels.sampling.reference import forward, weights

__all__ = ["forward", "weights"]
