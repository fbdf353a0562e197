"""The mathematics on raw arrays: forward and backward of each operation."""

from tinygrad_char.kernels.operations import using

__all__ = ["using"]
