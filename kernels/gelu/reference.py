"""Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""

import math

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.gelu.erf import erf

APPROXIMATE = ("none", "tanh")
INNER = math.sqrt(2 / math.pi)
CUBIC = 0.044715


def forward(x: Array, approximate: str = "none") -> Array:
    """Return y = x * Phi(x), Phi the normal distribution function; backward needs x.

    Exact ("none"): Phi(x) = (1 + erf(x / sqrt(2))) / 2.
    "tanh": Phi(x) ~ (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2.
    """
    if x.dtype.itemsize < 4:  # sixteen bits do not hold what is computed on the way
        return forward(x.astype("float32"), approximate).astype(x.dtype)
    return x * _distribution(x, approximate)


def backward(grad: Array, x: Array, approximate: str = "none") -> Array:
    """Return dx = dy * (Phi(x) + x * Phi'(x)).

    Exact: Phi'(x) = exp(-x^2 / 2) / sqrt(2 pi).
    "tanh": Phi'(x) = 2 Phi (1 - Phi) * sqrt(2 / pi) * (1 + 3 * 0.044715 x^2).
    """
    if x.dtype.itemsize < 4:
        return backward(grad.astype("float32"), x.astype("float32"), approximate).astype(x.dtype)
    xp = namespace(x)
    phi = _distribution(x, approximate)
    if approximate == "tanh":
        slope = x * x
        slope *= 3 * CUBIC
        slope += 1
        slope *= phi
        slope *= 1 - phi
        slope *= 2 * INNER
    else:
        slope = xp.exp(x * x * -0.5)
        slope *= 1 / math.sqrt(2 * math.pi)
    slope *= x
    slope += phi
    slope *= grad
    return slope


def _distribution(x: Array, approximate: str) -> Array:
    if approximate == "tanh":
        phi = x * x
        phi *= CUBIC
        phi += 1
        phi *= x
        phi *= INNER
        phi = namespace(x).tanh(phi)
    else:
        phi = erf(x * math.sqrt(0.5))
    phi += 1
    phi *= 0.5
    return phi
