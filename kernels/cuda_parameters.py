"""Parameters that lie side by side in an optimizer's buffer, while a step computes with them."""

from collections.abc import Iterable

import numpy as np

from kernels.array import Array
from kernels.cuda_operation import address


class FlatParameters:
    """What operations may know of parameters that do not change meanwhile: see Backend.using.

    Parameters
    ----------
    flat
        The buffer of all, of which they are parts.
    parameters
        Each one's array, and where its gradient belongs.
    """

    def __init__(self, flat: Array, parameters: Iterable[tuple[Array, Array]]) -> None:
        self._flat = flat
        self._rounded: Array | None = None
        self._buffers = {address(array): buffer for array, buffer in parameters}

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
        """Return where the gradient of a parameter belongs, the first time that it is asked for.

        What is written there at once need not be copied; whatever follows is added to it.
        """
        buffer = self._buffers.pop(address(parameter), None)
        fits = buffer is not None and buffer.shape == parameter.shape
        return buffer if fits and parameter.flags.c_contiguous else None
