"""The error function, which NumPy lacks.

Rational Chebyshev approximations on three ranges: W. J. Cody, "Rational Chebyshev approximations
for the error function", Mathematics of Computation 23 (1969) 631-637.
"""

import math

from tinygrad_char.kernels.array import Array, namespace

SMALL, MIDDLE = 0.5, 4.0
"""The upper ends of the ranges. Cody's first ends at 0.46875, but is good to the last place up to
0.5; below that, where erf(x) < 1/2, 1 - erfc(x) would lose one."""

# fmt: off
NEAR_NUMERATOR = (
    1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2,
    3.77485237685302021e2, 3.20937758913846947e3,
)
NEAR_DENOMINATOR = (
    1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3,
    2.84423683343917062e3,
)
NEAR_EXCESS = tuple(
    above - below for above, below in zip(NEAR_NUMERATOR, NEAR_DENOMINATOR, strict=True)
)
MIDDLE_NUMERATOR = (
    2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594,
    6.61191906371416295e1, 2.98635138197400131e2, 8.81952221241769090e2,
    1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3,
)
MIDDLE_DENOMINATOR = (
    1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
    1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3,
    3.43936767414372164e3, 1.23033935480374942e3,
)
FAR_NUMERATOR = (
    1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1,
    1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4,
)
FAR_DENOMINATOR = (
    1.0, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1,
    6.05183413124413191e-2, 2.33520497626869185e-3,
)
# fmt: on


def erf(x: Array) -> Array:
    """Return 2 / sqrt(pi) times the integral of exp(-t^2) for t from 0 to x (float32 or float64).

    |x| <= 0.5: erf(x) = x + x (R(x^2) - 1);  |x| <= 4: erfc(x) = exp(-x^2) R(x);
    beyond: erfc(x) = exp(-x^2) / x * (1 / sqrt(pi) - R(1 / x^2) / x^2).
    """
    xp = namespace(x)
    size = abs(x)
    result = xp.empty_like(x)
    near, far = size <= SMALL, size > MIDDLE
    middle = ~(near | far)  # NaN lands here and stays NaN

    part = x[near]
    square = part * part
    excess = _horner(square, NEAR_EXCESS) / _horner(square, NEAR_DENOMINATOR)
    result[near] = part + part * excess

    part = size[middle]
    ratio = _horner(part, MIDDLE_NUMERATOR) / _horner(part, MIDDLE_DENOMINATOR)
    result[middle] = 1 - xp.exp(-part * part) * ratio

    part = xp.minimum(size[far], x.dtype.type(10))  # erf is 1 long before, and infinity is safe
    inverse = 1 / (part * part)
    ratio = inverse * _horner(inverse, FAR_NUMERATOR) / _horner(inverse, FAR_DENOMINATOR)
    result[far] = 1 - xp.exp(-part * part) / part * (1 / math.sqrt(math.pi) - ratio)

    return xp.where(near, result, xp.copysign(result, x))


def _horner(x: Array, coefficients: tuple[float, ...]) -> Array:
    value = x * coefficients[0]
    value += coefficients[1]
    for coefficient in coefficients[2:]:
        value *= x
        value += coefficient
    return value
