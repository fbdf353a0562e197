"""What follows the product that a branch writes to a residual stream: y = x + dropout(z + bias).

Residual connections: He et al. 2015, arXiv:1512.03385.
"""

from tinygrad_char.kernels import dropout
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.dropout import MaskSource
from tinygrad_char.kernels.linear import rows
from tinygrad_char.kernels.reduce import total


def forward(
    z: Array, bias: Array | None, x: Array | None, p: float = 0.0, key: MaskSource | None = None
) -> Array:
    """Return y = x + dropout(z + bias): z, x and y (..., C), bias (C,); backward needs p and key.

    x or bias may be None, which is 0. z must belong to nobody else: it may be overwritten.
    """
    if bias is not None:
        z += bias
    if p > 0 and key is not None:
        z = dropout.forward(z, p, key)
    if x is not None:
        z += x
    return z


def backward(
    grad: Array, p: float, key: MaskSource | None, need_bias: bool
) -> tuple[Array, Array | None]:
    """Return dz = dy / (1 - p) where the mask keeps z, else 0, and dbias where needed; dx is dy.

    dbias is the sum of the rows of dz. Without dropout dz is dy itself.
    """
    if p > 0 and key is not None:
        grad = dropout.backward(grad, p, key)
    return grad, total(rows(grad), (0,)) if need_bias else None
