"""Python numbers and integer dtypes: what does not fit is an error, and never wraps around."""

from typing import Any

import numpy as np

from tinygrad_char.kernels.words import shorten


def fits(number: float, dtype: np.dtype) -> bool:
    """Return whether a dtype holds a number, truncated where the dtype is one of integers.

    Floats hold what Python's own do, beyond their range as infinity, and booleans tell 0 from
    others.
    """
    if dtype.kind in "iu":
        held = np.iinfo(dtype)
        return int(held.min) - 1 < number < int(held.max) + 1
    if isinstance(number, int) and dtype.kind != "b":
        try:
            float(number)
        except OverflowError:
            return False
    return True


def check_fits(name: str, number: float, dtype: np.dtype) -> None:
    """Raise OverflowError, for the operation of this name, unless the dtype holds the number."""
    if not fits(number, dtype):
        raise overflow(name, number, dtype)


def check_values(name: str, values: Any, dtype: np.dtype) -> None:
    """Raise OverflowError unless an integer dtype holds all elements of an array, truncated.

    Other dtypes hold what they do, beyond their range as infinity.
    """
    if dtype.kind in "iu" and values.size and not np.can_cast(values.dtype, dtype):
        check_fits(name, values.min().item(), dtype)
        check_fits(name, values.max().item(), dtype)


def limits(
    name: str, low: float | None, high: float | None, dtype: np.dtype
) -> tuple[float | None, float | None]:
    """Return the ends of a range, None for one beyond all values of the dtype: it limits nothing.

    OverflowError where elements would have to become a value that the dtype does not hold.
    """
    for end, beyond in ((low, 1), (high, -1)):
        if end is not None and end * beyond > 0:
            check_fits(name, end, dtype)
    return (
        low if low is None or fits(low, dtype) else None,
        high if high is None or fits(high, dtype) else None,
    )


def overflow(name: str, number: float, dtype: Any) -> OverflowError:
    """Return the error for a number that a dtype does not hold."""
    holds = ""
    if dtype.kind in "iu":
        held = np.iinfo(dtype)
        holds = f", which holds {held.min} to {held.max}"
    return OverflowError(f"{name}: {shorten(number)} does not fit into {dtype}{holds}")
