"""Causal depthwise convolution with a connection around it (So et al. 2021, arXiv:2109.08668)."""

from collections.abc import Callable

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.reduce import total

Convolve = Callable[[Array, Array], Array]


def forward(x: Array, weight: Array) -> Array:
    """Return y[b, t] = x[b, t] + sum_k weight[k] * x[b, t - k]: x and y (B, T, C), weight (K, C).

    Of positions before the first there is nothing to add. Backward needs x and weight.
    """
    y = x.copy()
    for k, tap in enumerate(weight[: x.shape[1]]):
        y[:, k:] += tap * x[:, : x.shape[1] - k]
    return y


def backward(
    grad: Array, x: Array, weight: Array, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    """Return dx and dweight, each None where `needs` says so.

    dx[b, t] = dy[b, t] + sum_k weight[k] * dy[b, t + k],
    dweight[k] = sum over b, t of x[b, t] * dy[b, t + k], with nothing after the last position.
    """
    batch, length, channels = x.shape
    grad_x = grad.copy() if needs[0] else None
    grad_weight = namespace(x).zeros_like(weight) if needs[1] else None
    for k, tap in enumerate(weight[:length]):
        later = grad[:, k:]
        if grad_x is not None:
            grad_x[:, : length - k] += tap * later
        if grad_weight is not None:
            products = x[:, : length - k] * later
            grad_weight[k] = total(products.reshape(batch * (length - k), channels), (0,))
    return grad_x, grad_weight


def cached(
    x: Array, weight: Array, history: Array, filled: np.ndarray, convolve: Convolve
) -> Array:
    """Return y (B, T, C) of positions that continue those of a cache, which takes them in.

    `history` (B, K - 1, C) holds the last positions before x, the latest of them last; of these
    filled[0] have been, an int64 array of one element on the host, which grows by T. `convolve` is
    the forward function that serves.
    """
    xp = namespace(x)
    room = history.shape[1]
    seen = min(int(filled[0]), room)
    everything = xp.concatenate([history, x], axis=1)
    y = convolve(everything[:, room - seen :], weight)[:, seen:]
    history[...] = everything[:, x.shape[1] :]
    filled[0] += x.shape[1]
    return y
