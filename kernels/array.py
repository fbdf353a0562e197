"""Which array module an array belongs to, so that one text serves NumPy and CuPy."""

import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
"""A numpy.ndarray or a cupy.ndarray."""


def namespace(array: Array) -> ModuleType:
    """Return the array module of `array`: numpy, or cupy for an array on a CUDA device."""
    if isinstance(array, np.ndarray | np.generic):
        return np
    return sys.modules[type(array).__module__.partition(".")[0]]
