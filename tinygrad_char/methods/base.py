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
