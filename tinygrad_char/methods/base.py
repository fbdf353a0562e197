"""What methods of every kind build on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinygrad_char.autograd import TensorBase

if TYPE_CHECKING:
    import numpy as np

    from tinygrad_char.kernels.array import Array
    from tinygrad_char.tensor import Tensor


class TensorMethods(TensorBase):
    """The base of the classes that give Tensor its methods; Tensor defines what is named here."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def shape(self) -> tuple[int, ...]:
            """The lengths of the axes."""

        @property
        def ndim(self) -> int:
            """The number of axes."""

        @property
        def size(self) -> int:
            """The number of elements."""

        @property
        def dtype(self) -> np.dtype:
            """The elements' type."""

        @property
        def device(self) -> str:
            """Where the array lives."""

        def _result(self, array: Array) -> Tensor:
            """Return a new tensor around `array`."""

        def __abs__(self) -> Tensor:
            """Return the absolute values."""

        def __getitem__(self, index: Any) -> Tensor:
            """Return the elements at an index."""

        def detach(self) -> Tensor:
            """Return a tensor that shares the memory and not the history."""

        def reshape(self, *new: Any) -> Tensor:
            """Return the same elements in another shape."""

        def split(self, sizes: Any, axis: int = 0) -> list[Tensor]:
            """Return consecutive parts along `axis`."""

        def astype(self, dtype: object) -> Tensor:
            """Return this tensor in another dtype."""
