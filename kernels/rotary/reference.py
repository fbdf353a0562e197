"""Rotary positions of queries and keys (Su et al. 2021, arXiv:2104.09864), normalised or not."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.reduce import mean

BASE = 10000.0
EPS = 1e-6
"""Added to the mean of squares, so that a query of zeros stays one."""
MOST_ANGLES = 1 << 26
"""Cosines and sines that are made at most: two million positions of heads of 32 channels."""


class Options(NamedTuple):
    """How many heads, the angles (positions, D), and whether what is turned is normalised."""

    heads: int
    angles: Array
    normalize: bool = False


def angles(positions: int, size: int) -> np.ndarray:
    """Return (positions, size), float64: cosines in the first half of a row, sines in the other.

    Position t turns pair i by t * BASE^(-2 i / size). `size`, of a head, is even.

    Raises
    ------
    ValueError
        They are more than MOST_ANGLES.
    """
    if positions * size > MOST_ANGLES:
        raise ValueError(
            f"rotary: {positions} positions of heads of {size} channels; expected at most "
            f"{MOST_ANGLES // size}"
        )
    half = size // 2
    speeds = BASE ** (-2 / max(1, size) * np.arange(half))
    turned = np.arange(positions)[:, None] * speeds
    return np.concatenate([np.cos(turned), np.sin(turned)], axis=1)


def forward(qkv: Array, options: Options) -> Array:
    """Return the turned queries and keys (B, T, 2, H, D) of qkv (B, T, 3 H D).

    For each pair i of the first half of a head and its partner i + D/2 in the second, with c and s
    from row t of `angles` (T or more, D):

        y[i] = x[i] c[i] - x[i + D/2] s[i],    y[i + D/2] = x[i] s[i] + x[i + D/2] c[i]

    so that the product of a query and a key depends on the distance of their positions alone. With
    `normalize`, x is divided by sqrt(mean(x^2) + EPS) over D before. Backward needs qkv, if so.

    Raises
    ------
    ValueError
        `angles` has no row for a position.
    """
    heads, angles, normalize = options
    _check_rows(angles, 0, qkv.shape[1])
    x = _queries_and_keys(qkv, heads)
    y = namespace(x).empty(x.shape, x.dtype)
    if normalize:
        x = x * _inverse_size(x)
    _turn(x, *_cosines_and_sines(angles[: qkv.shape[1]]), y)
    return y


def cached(
    qkv: Array, filled: np.ndarray, options: Options, turn: Callable[[Array, Options], Array]
) -> Array:
    """Return the same for positions that follow the first filled[0].

    `filled` is an int64 array of one element on the host; attention's cache counts in it. `turn`
    is the forward function that serves.

    Raises
    ------
    ValueError
        `angles` has no row for a position.
    """
    start = int(filled[0])
    _check_rows(options.angles, start, qkv.shape[1])
    return turn(qkv, options._replace(angles=options.angles[start:]))


def backward(grad: Array, qkv: Array, options: Options) -> None:
    """Turn the gradients of queries and keys in grad (B, T, 3 H D) back, in place.

    Turning by the opposite angle is the transpose: dn = R^T dy. Where x was normalised, n = x r
    with r = 1 / sqrt(mean(x^2) + EPS): dx = r (dn - n mean(dn n)). The gradients of values stay.
    """
    heads, angles, normalize = options
    part = _queries_and_keys(grad, heads)
    cosines, sines = _cosines_and_sines(angles[: grad.shape[1]])
    _turn(part.copy(), cosines, -sines, part)
    if normalize:
        x = _queries_and_keys(qkv, heads)
        inverse = _inverse_size(x)
        n = x * inverse
        part -= n * _mean(part * n)
        part *= inverse


def _check_rows(angles: Array, start: int, length: int) -> None:
    if not 0 <= start <= len(angles) - length:
        raise ValueError(
            f"rotary: {length} positions from {start} on; expected angles of so many, got "
            f"{len(angles)}"
        )


def _queries_and_keys(packed: Array, heads: int) -> Array:
    batch, length, width = packed.shape
    return packed.reshape(batch, length, 3, heads, width // (3 * heads))[:, :, :2]


def _cosines_and_sines(angles: Array) -> tuple[Array, Array]:
    half = angles.shape[1] // 2
    rows = angles[:, None, None, :]
    return rows[..., :half], rows[..., half:]


def _turn(x: Array, cosines: Array, sines: Array, out: Array) -> None:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out[..., :half] = first * cosines - second * sines
    out[..., half:] = first * sines + second * cosines


def _inverse_size(x: Array) -> Array:
    return 1 / namespace(x).sqrt(_mean(x * x) + x.dtype.type(EPS))


def _mean(x: Array) -> Array:
    return mean(x, (x.ndim - 1,), True)
