"""What follows the product of a linear layer with an activation: y = activation(z + bias)."""

from tinygrad_char.kernels import gelu, relu
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.linear import rows
from tinygrad_char.kernels.reduce import total

ACTIVATIONS = ("relu", "gelu", "gelu_tanh")
"""max(x, 0), and x Phi(x) exactly or by the approximation with tanh, see kernels/gelu/."""

APPROXIMATE = {"gelu": "none", "gelu_tanh": "tanh"}

Kept = tuple[Array, Array | None]
"""For "relu" the result; for the others, product and bias."""


def forward(z: Array, bias: Array | None, activation: str) -> tuple[Array, Kept]:
    """Return y = activation(z + bias), and what backward needs: (y, None) or (z, bias).

    z and y are (..., C), bias (C,) or None. z must belong to nobody else: it may be overwritten.
    """
    if activation == "relu":
        if bias is not None:
            z += bias
        relu.forward(z, out=z)
        return z, (z, None)
    return gelu.forward(_sum(z, bias), APPROXIMATE[activation]), (z, bias)


def backward(
    grad: Array, kept: Kept, activation: str, need_bias: bool
) -> tuple[Array, Array | None]:
    """Return dz = dy * activation'(z + bias), and dbias, the sum of its rows, where needed."""
    if activation == "relu":
        grad_z = relu.backward(grad, kept[0])
    else:
        grad_z = gelu.backward(grad, _sum(*kept), APPROXIMATE[activation])
    if not need_bias:
        return grad_z, None
    return grad_z, total(rows(grad_z), (0,))


def _sum(z: Array, bias: Array | None) -> Array:
    return z if bias is None else z + bias
