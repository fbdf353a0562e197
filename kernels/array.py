"""Which array module an array belongs to, so that one text serves NumPy and CuPy."""

import sys
from types import ModuleType

import numpy as np

Array = np.ndarray
"""A numpy.ndarray, or a cupy.ndarray, which has its interface and may not be installed."""


def namespace(array: Array) -> ModuleType:
    """Return the array module of `array`: numpy, or what has its functions for a device."""
    if type(array) is np.ndarray or isinstance(array, np.generic):
        return np
    if isinstance(array, np.ndarray):
        return array.__array_namespace__()
    return sys.modules[type(array).__module__.partition(".")[0]]


def select(chosen: Array, values: Array) -> Array:
    """Return the values where `chosen` is True, else 0: even where they are infinite or NaN.

    A product with a mask of zeros and ones would make these NaN.
    """
    return namespace(values).where(chosen, values, values.dtype.type(0))


def native(array: Array) -> Array:
    """Return the array, or a copy in this machine's byte order where it has the other one."""
    dtype = array.dtype
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def signed(indices: Array) -> Array:
    """Return integers such that those beyond int64 stay the largest there are, and do not wrap."""
    if indices.dtype.kind != "u" or indices.dtype.itemsize < 8:
        return indices
    return namespace(indices).minimum(indices, np.iinfo(np.int64).max)


def is_floating(dtype: np.dtype) -> bool:
    """Return whether elements of this dtype can have gradients; NumPy has no kind for bfloat16."""
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.name == "bfloat16")


def address(array: Array) -> int:
    """Return the address of an array's first element, on whatever device it is."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
