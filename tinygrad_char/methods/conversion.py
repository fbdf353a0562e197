"""Methods of Tensor that convert its dtype, under PyTorch's names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tinygrad_char.methods.base import TensorMethods
from tinygrad_char.ops import shape

if TYPE_CHECKING:
    from tinygrad_char.tensor import Tensor


class ConversionMethods(TensorMethods):
    """Other dtypes, see `astype`; a method of a type's name hides the type here."""

    __slots__ = ()

    def copy(self) -> Tensor:
        """Return a copy with history, as `clone`."""
        return shape.Copy.apply(self)

    def float(self) -> Tensor:
        """Return this tensor in float32."""
        return self.astype(np.float32)

    def double(self) -> Tensor:
        """Return this tensor in float64."""
        return self.astype(np.float64)

    def half(self) -> Tensor:
        """Return this tensor in float16."""
        return self.astype(np.float16)

    def int(self) -> Tensor:
        """Return this tensor in int32, without what is behind the point."""
        return self.astype(np.int32)

    def long(self) -> Tensor:
        """Return this tensor in int64, without what is behind the point."""
        return self.astype(np.int64)

    def bool(self) -> Tensor:
        """Return where elements are not 0."""
        return self.astype(np.bool_)
