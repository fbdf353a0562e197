"""LayerNorm and RMSNorm in plain Python, row by row, see reference.py."""

from math import sqrt

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.plain import in_python
from tinygrad_char.kernels.layernorm.reference import Gradients, Needs, Saved


@in_python
def forward(
    x: Array, weight: Array | None, bias: Array | None, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    return _forward(x, weight, bias, eps, centered=True)


@in_python
def rms_forward(
    x: Array, weight: Array | None, bias: Array | None, eps: float = 1e-5
) -> tuple[Array, Array]:
    y, _, rstd = _forward(x, weight, bias, eps, centered=False)
    return y, rstd


def _forward(
    x: Array, weight: Array | None, bias: Array | None, eps: float, *, centered: bool
) -> tuple[Array, Array, Array]:
    channels = x.shape[-1]
    scales = [1.0] * channels if weight is None else weight.tolist()
    shifts = [0.0] * channels if bias is None else bias.tolist()
    y = np.empty_like(x)
    mean, rstd = (np.empty((*x.shape[:-1], 1), x.dtype) for _ in range(2))
    for row in np.ndindex(x.shape[:-1]):
        numbers = x[row].tolist()
        average = sum(numbers) / channels if centered else 0.0
        below = [each - average for each in numbers]
        variance = sum(each * each for each in below) / channels
        factor = 1 / sqrt(variance + eps)
        y[row] = [
            each * factor * scale + shift
            for each, scale, shift in zip(below, scales, shifts, strict=True)
        ]
        mean[row], rstd[row] = average, factor
    return y, mean, rstd


@in_python
def backward(grad: Array, saved: Saved, needs: Needs, addend: Array | None = None) -> Gradients:
    x, weight, mean, rstd = saved
    channels = x.shape[-1]
    scales = [1.0] * channels if weight is None else weight.tolist()
    dx = np.empty_like(x)
    dweight, dbias = [0.0] * channels, [0.0] * channels
    for row in np.ndindex(x.shape[:-1]):
        dy, factor = grad[row].tolist(), rstd[row].item()
        center = 0.0 if mean is None else mean[row].item()
        below = [each - center for each in x[row].tolist()]
        # what the mean has lost when it was rounded
        rest = 0.0 if mean is None else sum(below) / channels
        normalized = [(each - rest) * factor for each in below]
        for c, (slope, n) in enumerate(zip(dy, normalized, strict=True)):
            dweight[c] += slope * n
            dbias[c] += slope
        g = [slope * scale for slope, scale in zip(dy, scales, strict=True)]
        average = 0.0 if mean is None else sum(g) / channels
        projection = sum(slope * n for slope, n in zip(g, normalized, strict=True)) / channels
        dx[row] = [
            factor * (slope - average - n * projection)
            for slope, n in zip(g, normalized, strict=True)
        ]
    if addend is not None:
        dx = dx + addend
    return (
        dx if needs[0] else None,
        np.array(dweight, grad.dtype) if needs[1] else None,
        np.array(dbias, grad.dtype) if needs[2] else None,
    )


rms_backward = backward
