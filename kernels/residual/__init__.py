"""What follows the product that a branch writes to a residual stream: y = x + dropout(z + bias)."""

from tinygrad_char.kernels.residual.reference import backward, forward

__all__ = ["backward", "forward"]
