"""One token for each row of logits, by a uniform number each."""

from tinygrad_char.kernels.sampling.reference import Options, forward, weights

__all__ = ["Options", "forward", "weights"]
