"""What follows the product of a linear layer with an activation: y = activation(z + bias)."""

from tinygrad_char.kernels.bias_activation.reference import (
    ACTIVATIONS,
    APPROXIMATE,
    Kept,
    backward,
    forward,
)

__all__ = ["ACTIVATIONS", "APPROXIMATE", "Kept", "backward", "forward"]
