"""Embedding: rows of a table by index."""

from tinygrad_char.kernels.embedding.reference import (
    ONE_HOT_ROWS,
    backward,
    backward_addend,
    check_indices,
    forward,
)

__all__ = ["ONE_HOT_ROWS", "backward", "backward_addend", "check_indices", "forward"]
