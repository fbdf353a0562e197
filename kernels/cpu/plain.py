"""What the versions in plain Python have in common: which arguments they serve."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")
LARGEST = 8
"""Bytes of an element that Python's own numbers can hold."""


def in_python(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a version in plain Python, which computes in float64 and rounds results once.

    It does not serve arrays of a device or of numbers that Python does not have, such as bfloat16,
    nor numbers for which Python raises where IEEE arithmetic has an infinity or a NaN (the
    logarithm of 0, say): there the reference computes, and says what is wrong with arguments that
    nobody serves.
    """

    @wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R:
        if not all(map(_is_served, (*arguments, *options.values()))):
            return NotImplemented
        try:
            with np.errstate(over="ignore"):  # of what is rounded to fewer bits
                return function(*arguments, **options)
        except (ArithmeticError, ValueError):
            return NotImplemented

    return call


def _is_served(argument: Any) -> bool:
    if isinstance(argument, tuple):
        return all(map(_is_served, argument))
    dtype = argument if isinstance(argument, np.dtype) else getattr(argument, "dtype", None)
    if dtype is None:
        return True
    here = type(argument) is np.ndarray or isinstance(argument, np.generic | np.dtype)
    return here and dtype.kind in "fiub" and dtype.itemsize <= LARGEST
