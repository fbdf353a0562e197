"""Linear layer: y = x W^T + b, with PyTorch's weight layout (out_features, in_features)."""

from tinygrad_char.kernels.linear.reference import backward, forward, rows

__all__ = ["backward", "forward", "rows"]
