"""Methods of Tensor that convert its dtype, under PyTorch's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_char.methods.base import TensorMethods, named
from tinygrad_char.ops import shape

if TYPE_CHECKING:
    from tinygrad_char.tensor import Tensor


def _to(name: str, dtype: type[np.generic], what: str) -> Callable[[Any], Tensor]:
    """Return the method that converts to a dtype."""

    def convert(self: Any) -> Tensor:
        return self.astype(dtype)

    return named(convert, name, f"Return {what}.")


class ConversionMethods(TensorMethods):
    """Other dtypes, see `astype`; a method of a type's name hides the type here."""

    __slots__ = ()

    def copy(self) -> Tensor:
        """Return a copy with history, as `clone`."""
        return shape.Copy.apply(self)

    float = _to("float", np.float32, "this tensor in float32")
    double = _to("double", np.float64, "this tensor in float64")
    half = _to("half", np.float16, "this tensor in float16")
    int = _to("int", np.int32, "this tensor in int32, without what is behind the point")
    long = _to("long", np.int64, "this tensor in int64, without what is behind the point")
    bool = _to("bool", np.bool_, "where elements are not 0")
