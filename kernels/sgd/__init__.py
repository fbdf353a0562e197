"""One step of stochastic gradient descent on a flat buffer."""

from tinygrad_char.kernels.sgd.reference import update

__all__ = ["update"]
