"""Softmax in plain Python, row by row, see reference.py."""

from math import exp, inf

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.plain import in_python
from tinygrad_char.kernels.softmax.reference import with_causal


@in_python
def forward(
    x: Array, mask: Array | None = None, axis: int = -1, causal: bool = False, scale: float = 1.0
) -> Array:
    if causal:
        mask = with_causal(mask, x)
    y = np.empty_like(x)
    seen = np.broadcast_to(True if mask is None else mask, x.shape)
    lines, seen, results = (np.moveaxis(each, axis, -1) for each in (x, seen, y))
    for row in np.ndindex(lines.shape[:-1]):
        results[row] = row_forward(
            lines[row].tolist(), seen[row].tolist(), scale, masked=mask is not None
        )
    return y


def row_forward(x: list[float], seen: list[bool], scale: float, masked: bool) -> list[float]:
    """Return y_j = exp(scale (x_j - peak)) / sum_k exp(scale (x_k - peak)) of what is seen."""
    visible = [number for number, sees in zip(x, seen, strict=True) if sees]
    if not visible:
        return [0.0] * len(x)
    peak = max(visible) if scale >= 0 else min(visible)
    if masked and scale * peak == -inf:  # nothing is left to sum over
        return [0.0] * len(x)
    y = [
        exp(scale * (number - peak)) if sees else 0.0 for number, sees in zip(x, seen, strict=True)
    ]
    total = sum(y)
    return [each / total for each in y]


@in_python
def backward(
    grad: Array, y: Array, axis: int = -1, causal: bool = False, scale: float = 1.0
) -> Array:
    dx = np.empty_like(y)
    seen = np.broadcast_to(with_causal(None, y) if causal else True, y.shape)
    grads, lines, seen, results = (np.moveaxis(each, axis, -1) for each in (grad, y, seen, dx))
    for row in np.ndindex(lines.shape[:-1]):
        results[row] = row_backward(
            grads[row].tolist(), lines[row].tolist(), seen[row].tolist(), scale
        )
    return dx


def row_backward(grad: list[float], y: list[float], seen: list[bool], scale: float) -> list[float]:
    """Return dx_j = scale y_j (dy_j - sum_k dy_k y_k)."""
    grad = [dy if sees else 0.0 for dy, sees in zip(grad, seen, strict=True)]
    products = [dy * weight for dy, weight in zip(grad, y, strict=True)]
    total = sum(products)
    return [scale * (product - weight * total) for product, weight in zip(products, y, strict=True)]
