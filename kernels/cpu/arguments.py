"""What the kernels in C take, and how it is made."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_char.kernels.array import Array, signed
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty

FLOAT32 = np.dtype(np.float32)

if TYPE_CHECKING:

    def fits(*arrays: Any) -> bool:
        """Return whether these are C-contiguous float32 arrays, or None."""
else:
    fits = getattr(compiled, "fits", None)


def matrix(array: Array) -> tuple[int, int]:
    """Return the rows and columns of an array whose leading axes are all rows."""
    *leading, columns = array.shape
    return array.size // columns if columns else math.prod(leading), columns


def column_sums(array: Array) -> Array:
    """Return the sums over all axes but the last."""
    sums = empty(array.shape[-1:])
    compiled.column_sums(array, sums, 1, *matrix(array))
    return sums


def as_int64(indices: Array) -> Array:
    """Return integers as a contiguous array of int64."""
    return np.ascontiguousarray(signed(indices), np.int64)


def fits_rows(axis: int, *arrays: Array) -> bool:
    """Return whether these are float32 arrays of one shape, and `axis` the last of them."""
    first = arrays[0]
    return axis in (-1, first.ndim - 1) and all(
        each.dtype == FLOAT32 and each.shape == first.shape for each in arrays
    )


def with_room(array: Array) -> tuple[Array, Array]:
    """Return the array, contiguous, and where to write as many elements: a copy's own memory."""
    if array.flags.c_contiguous:
        return array, empty(array.shape)
    copy = np.ascontiguousarray(array)
    return copy, copy
