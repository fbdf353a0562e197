"""What methods of every kind build on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinygrad_char.autograd import TensorBase

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from tinygrad_char.kernels.array import Array
    from tinygrad_char.tensor import Tensor


def named(method: Callable[..., Tensor], name: str, doc: str) -> Callable[..., Tensor]:
    """Return a method that was made by a function, under the name and with the docstring given."""
    method.__name__ = method.__qualname__ = name
    method.__doc__ = doc
    return method


class TensorMethods(TensorBase):
    """The base of the classes that give Tensor its methods; Tensor defines what is named here."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def shape(self) -> tuple[int, ...]: ...

        @property
        def ndim(self) -> int: ...

        @property
        def size(self) -> int: ...

        @property
        def dtype(self) -> np.dtype: ...

        @property
        def device(self) -> str: ...

        def _result(self, array: Array) -> Tensor: ...

        def __abs__(self) -> Tensor: ...

        def __getitem__(self, index: Any) -> Tensor: ...

        def detach(self) -> Tensor: ...

        def reshape(self, *new: Any) -> Tensor: ...

        def split(self, sizes: Any, axis: int = 0) -> list[Tensor]: ...

        def astype(self, dtype: object) -> Tensor: ...
