"""Logarithm, sine and cosine as PyTorch's vectorised float32 code computes them, bit for bit.

The polynomials are those of the Cephes library (S. L. Moshier) in the form that PyTorch has for
processors with AVX2, where a product and the sum that follows it are rounded once.
"""

import numpy as np

Numbers = np.ndarray | np.float64

LOG_COEFFICIENTS = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
COSINE_COEFFICIENTS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
SINE_COEFFICIENTS = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)


def log(x: np.ndarray) -> np.ndarray:
    """Return log(x) of float32 elements above 0."""
    mantissa, exponent = np.frexp(x)  # x = mantissa * 2^exponent, 0.5 <= mantissa < 1
    small = mantissa < np.float32(0.70710677)
    m = (mantissa - 1) + np.where(small, mantissa, np.float32(0))
    e = (exponent - small).astype(np.float32)
    z = m * m
    y = _polynomial(m, LOG_COEFFICIENTS) * m
    y = fma(_wide(y), _wide(z), _wide(e * np.float32(-2.12194440e-4)))
    # The two products that remain are exact, so that it does not matter where they are rounded.
    y -= z * np.float32(0.5)
    return (m + y) + e * np.float32(0.693359375)


def sine_and_cosine(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sin(x), cos(x) of float32 elements from 0 to about 2 pi."""
    octant = (x * np.float32(1.27323954473516)).astype(np.int32)
    octant = (octant + 1) & ~1  # 0, 2, 4, 6 or 8
    multiple = octant.astype(np.float32)
    # Less octant * pi / 4, which is given in three parts; the first two products are exact.
    x = x - multiple * np.float32(0.78515625)
    x -= multiple * np.float32(2.4187564849853515625e-4)
    x = fma(_wide(multiple), _constant(-3.77489497744594108e-8), _wide(x))
    z = x * x
    cosine = _polynomial(z, COSINE_COEFFICIENTS) * z
    cosine = fma(_wide(cosine), _wide(z), _wide(z) * -0.5) + np.float32(1)
    sine = _polynomial(z, SINE_COEFFICIENTS) * z
    sine = fma(_wide(sine), _wide(x), _wide(x))
    swapped = octant & 2 != 0
    sine, cosine = np.where(swapped, cosine, sine), np.where(swapped, sine, cosine)
    sine *= _sign(octant)
    cosine *= _sign(octant + 2)
    return sine, cosine


def fma(a: np.ndarray, b: Numbers, c: Numbers) -> np.ndarray:
    """Return a * b + c, rounded once to float32, of float32 elements that are given as float64.

    The product is exact. To round the sum to float64 and then to float32 differs from rounding it
    once only where the first gives a number midway between two float32 numbers; there the sum is
    moved towards what was lost. Results below the smallest normal number are not looked after.
    """
    total = a * b
    total += c
    # Midway: of the 29 bits that float64 has more, the first is set and no other.
    midway = total.view(np.int64) << 35 == np.int64(-1 << 63)
    if midway.any():
        _move(total, midway, a * b, c)
    return total.astype(np.float32)


def _move(total: np.ndarray, where: np.ndarray, product: np.ndarray, addend: Numbers) -> None:
    """Move the rounded totals to the next number in the direction of product + addend."""
    rounded, product = total[where], product[where]
    rest = rounded - product
    # What rounding lost, exactly (Knuth 1969, The Art of Computer Programming 2, 4.2.2).
    lost = (product - (rounded - rest)) + (np.broadcast_to(addend, total.shape)[where] - rest)
    moved = np.nextafter(rounded, np.copysign(np.inf, lost))
    total[where] = np.where(lost == 0, rounded, moved)


def _polynomial(x: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    wide = _wide(x)
    highest, *others = map(_constant, coefficients)
    value = fma(wide, highest, others[0])
    for coefficient in others[1:]:
        value = fma(_wide(value), wide, coefficient)
    return value


def _sign(octant: np.ndarray) -> np.ndarray:
    """Return -1 where the third bit is set, else 1."""
    return 1 - (octant & 4).astype(np.float32) * np.float32(0.5)


def _constant(value: float) -> np.float64:
    """Return the float32 number nearest to a value, as float64."""
    return np.float64(np.float32(value))


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)
