"""Linear layer: y = x W^T + b, with PyTorch's weight layout (out_features, in_features).

With `bf16`, both operands of each product, where they are float32, are rounded to bfloat16 first;
sums and results stay float32.
"""

import math

from tinygrad_char.kernels.array import Array, to_bfloat16
from tinygrad_char.kernels.matmul import product
from tinygrad_char.kernels.reduce import total


def forward(x: Array, weight: Array, bias: Array | None, bf16: bool = False) -> Array:
    """Return y of shape (..., O) for x (..., I), weight (O, I) and bias (O,) or None.

    All leading axes of x become rows of one matrix product. Backward needs x and weight.
    """
    if bf16:
        x, weight = to_bfloat16(x), to_bfloat16(weight)
    y = product(rows(x), weight.T)  # (N, O)
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], weight.shape[0])


def backward(
    grad: Array, x: Array, weight: Array, needs: tuple[bool, bool, bool], bf16: bool = False
) -> tuple[Array | None, Array | None, Array | None]:
    """Return the gradients of x, weight and bias, each None where `needs` says so.

    dx = dy W,  dW = dy^T x,  db = sum over rows of dy. x may be None where dW is not needed, and
    weight where dx is not.
    """
    need_x, need_weight, need_bias = needs
    grad_bias = total(rows(grad), (0,)) if need_bias else None
    if bf16:
        grad = to_bfloat16(grad)
        weight = to_bfloat16(weight) if need_x else weight
        x = to_bfloat16(x) if need_weight else x
    matrix = rows(grad)  # (N, O)
    return (
        product(matrix, weight).reshape(*grad.shape[:-1], weight.shape[1]) if need_x else None,
        product(matrix.T, rows(x)) if need_weight else None,
        grad_bias,
    )


def rows(x: Array) -> Array:
    """Return x (..., C) as a matrix (N, C)."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
