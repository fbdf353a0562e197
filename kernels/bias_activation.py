"""A bias and an activation, one after the other, as a layer of a feed-forward network has them."""

from kernels import gelu, relu
from kernels.array import Array

ACTIVATIONS = ("relu", "gelu", "gelu_tanh")
"""The names: see relu.py, and gelu.py for the exact and the approximate one."""

_APPROXIMATE = {"gelu": "none", "gelu_tanh": "tanh"}


def forward(x: Array, bias: Array | None, activation: str) -> tuple[Array, Array]:
    """Return y = activation(x + bias), and what backward needs: y for ReLU, else x.

    x and y are (..., C), bias (C,) or None.
    """
    shifted = x if bias is None else x + bias
    if activation == "relu":
        y = relu.forward(shifted)
        return y, y
    return gelu.forward(shifted, _APPROXIMATE[activation]), x


def backward(
    grad: Array, saved: Array, bias: Array | None, activation: str, need_bias: bool = True
) -> tuple[Array, Array | None]:
    """Return dx = dy * activation'(x + bias) and, if needed, dbias = the sum of dx over rows."""
    if activation == "relu":
        grad_x = relu.backward(grad, saved)
    else:
        shifted = saved if bias is None else saved + bias
        grad_x = gelu.backward(grad, shifted, _APPROXIMATE[activation])
    grad_bias = grad_x.reshape(-1, grad_x.shape[-1]).sum(axis=0) if need_bias else None
    return grad_x, grad_bias
