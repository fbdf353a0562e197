"""Matrix product with NumPy's rules for vectors, batches and broadcasting."""

from tinygrad_char.kernels.matmul.reference import backward, forward, product

__all__ = ["backward", "forward", "product"]
