"""A residual connection (He et al. 2015, arXiv:1512.03385) with the bias and dropout before it."""

from kernels import dropout
from kernels.array import Array
from kernels.dropout import MaskSource


def forward(
    residual: Array, x: Array, bias: Array | None, p: float = 0.0, key: MaskSource | None = None
) -> Array:
    """Return y = residual + dropout(x + bias), all (..., C) but the bias (C,); it may be None.

    Backward needs p and the key alone.
    """
    if bias is not None:
        x = x + bias
    if p > 0 and key is not None:
        x = dropout.forward(x, p, key)
    return residual + x


def backward(
    grad: Array, p: float = 0.0, key: MaskSource | None = None, need_bias: bool = True
) -> tuple[Array, Array | None]:
    """Return dx = dropout(dy) with forward's mask and, if needed, dbias = its sum over rows.

    The gradient of the residual is dy itself.
    """
    grad_x = dropout.backward(grad, p, key) if p > 0 and key is not None else grad
    grad_bias = grad_x.reshape(-1, grad_x.shape[-1]).sum(axis=0) if need_bias else None
    return grad_x, grad_bias
