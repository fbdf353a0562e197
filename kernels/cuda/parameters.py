"""Parameters that lie side by side in an optimizer's buffer, while a step computes with them."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from tinygrad_char.kernels.array import Array, address


class Parameter(Protocol):
    """What is asked of a parameter: a leaf of the tape has it."""

    array: Array
    grad: Any
    grad_buffer: Any


class FlatParameters:
    """What operations may know of parameters that do not change meanwhile: see Backend.using.

    Parameters
    ----------
    flat
        The buffer of all, of which their arrays are parts.
    parameters
        Each with `grad_buffer`, where its gradient belongs.
    """

    def __init__(self, flat: Array, parameters: Iterable[Parameter]) -> None:
        self._flat = flat
        self._rounded: Array | None = None
        self._waiting = {id(each.array): each for each in parameters}

    def rounded(self, parameter: Array, dtype: np.dtype) -> Array | None:
        """Return a parameter in another dtype, all being rounded at once; None for a stranger."""
        flat = self._flat
        start = (address(parameter) - address(flat)) // flat.itemsize
        end = start + parameter.size
        if start < 0 or end > flat.size or not parameter.flags.c_contiguous:
            return None
        if self._rounded is None or self._rounded.dtype != dtype:
            self._rounded = flat.astype(dtype)
        return self._rounded[start:end].reshape(parameter.shape)

    def buffer(self, parameter: Array) -> Array | None:
        """Return where the gradient of a parameter belongs, if nothing has been written there yet.

        It is for a parameter's own array, not a view of it, and the first time that it is asked
        for. What is written there at once need not be copied; whatever follows is added to it.
        """
        found = self._waiting.pop(id(parameter), None)
        return found.grad_buffer.array if found is not None and found.grad is None else None
