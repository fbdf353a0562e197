"""The mean of all positions so far in plain Python: one sum for each channel, see reference.py."""

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.plain import in_python


@in_python
def forward(x: Array) -> Array:
    batch, length, channels = x.shape
    y = np.empty_like(x)
    for b in range(batch):
        for c in range(channels):
            total = 0.0
            for t in range(length):
                total += x[b, t, c].item()
                y[b, t, c] = total / (t + 1)
    return y


@in_python
def backward(grad: Array) -> Array:
    batch, length, channels = grad.shape
    dx = np.empty_like(grad, order="C")
    for b in range(batch):
        for c in range(channels):
            total = 0.0
            for t in reversed(range(length)):
                total += grad[b, t, c].item() / (t + 1)
                dx[b, t, c] = total
    return dx
