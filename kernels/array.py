"""What an array is, and of which module, so that one text serves NumPy and CuPy.

What is computed of floats of sixteen bits is computed in float32 and rounded once.
"""

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from types import ModuleType
from typing import Any

import numpy as np

Array = np.ndarray
"""A numpy.ndarray, or a cupy.ndarray, which has its interface and may not be installed."""
FLOAT32 = np.dtype(np.float32)


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


def is_half(value: Any) -> bool:
    """Return whether these are elements of sixteen bits that nothing computes with as they are.

    float16 everywhere; bfloat16 on the host, whose adders round each partial sum to eight bits.
    The kernels of devices read bfloat16 and compute in float32 themselves.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None or dtype.itemsize != 2:
        return False
    return dtype.kind == "f" or (dtype.name == "bfloat16" and namespace(value) is np)


def any_half(values: Sequence[Any]) -> bool:
    """Return whether any of them `is_half`, which each operation asks of its inputs."""
    for each in values:  # noqa: SIM110 (faster than `any` with a generator)
        if getattr(each, "dtype", FLOAT32).itemsize == 2 and is_half(each):
            return True
    return False


def widened(value: Any) -> Any:
    """Return elements of sixteen bits as float32, anything else as it is."""
    return value.astype(FLOAT32) if is_half(value) else value


def rounded(array: Array, dtype: np.dtype) -> Array:
    """Return `array` in `dtype`, infinite where it is beyond its range, as hardware rounds."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def to_bfloat16(array: Array) -> Array:
    """Return the numbers of a float32 array rounded to bfloat16, as float32; others as they are.

    To the nearest, of two the even one. As the instructions for products of bfloat16 have it, what
    is below 2^-126 becomes a zero of its sign, and a NaN stays one.
    """
    if array.dtype != FLOAT32:
        return array
    bits = array.view(np.uint32)
    rounded = bits + 0x7FFF + (bits >> 16 & 1)
    xp = namespace(array)
    rounded = xp.where(xp.isnan(array), bits | 0x400000, rounded)
    rounded = xp.where(bits & 0x7F800000, rounded, bits & 0x80000000) & 0xFFFF0000
    return rounded.astype(np.uint32).view(FLOAT32)


def in_float32(update: Callable[..., None]) -> Callable[..., None]:
    """Decorate an optimizer's `update(parameter, grad, *state, **options)` for sixteen bits.

    Such arrays go in as float32, and what the update makes of them is rounded once.
    """

    @wraps(update)
    def wide(*arrays: Array | None, **options: Any) -> None:
        given = [widened(each) for each in arrays]
        update(*given, **options)
        for position, (array, each) in enumerate(zip(arrays, given, strict=True)):
            if array is not None and each is not array and position != 1:  # not the gradient
                array[...] = rounded(each, array.dtype)

    return wide
