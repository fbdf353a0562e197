"""Functions that make tensors, under NumPy's and PyTorch's names."""

from typing import Any

import numpy as np

from kernels.devices import get_backend
from tinygrad_char.coerce import DEFAULT_DTYPE
from tinygrad_char.tensor import Tensor


def tensor(data: Any, dtype: Any = None, **options: Any) -> Tensor:
    """Return Tensor(data, dtype, device=..., requires_grad=...)."""
    return Tensor(data, dtype, **options)


def Value(number: float) -> Tensor:  # noqa: N802 (micrograd's name)
    """Return a float64 scalar that requires a gradient, the unit of scalar expressions."""
    return Tensor(number, np.float64, requires_grad=True)


def from_numpy(array: np.ndarray) -> Tensor:
    """Return a tensor that shares the array's memory.

    Changes made through the array are not seen by a pending backward: make none before it.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a numpy.ndarray, got {type(array).__name__}")
    return _share(array)


def from_dlpack(source: Any) -> Tensor:
    """Return a tensor that shares memory with an array that speaks DLPack (PyTorch, JAX, CuPy)."""
    if not hasattr(source, "__dlpack_device__"):
        raise TypeError(
            f"from_dlpack: expected an array that speaks DLPack, got {type(source).__name__}"
        )
    on_cpu = source.__dlpack_device__()[0] == 1
    return _share(get_backend("cpu" if on_cpu else "cuda").xp.from_dlpack(source))


def _share(array: Any) -> Tensor:
    empty = Tensor(array[:0] if array.ndim else [], array.dtype)
    return empty._result(array)


def full(shape: Any, value: float, dtype: Any = DEFAULT_DTYPE, **options: Any) -> Tensor:
    """Return a tensor filled with `value`."""
    return Tensor(np.full(shape, value, dtype), **options)


def zeros(shape: Any, dtype: Any = DEFAULT_DTYPE, **options: Any) -> Tensor:
    """Return a tensor of zeros."""
    return full(shape, 0, dtype, **options)


def ones(shape: Any, dtype: Any = DEFAULT_DTYPE, **options: Any) -> Tensor:
    """Return a tensor of ones."""
    return full(shape, 1, dtype, **options)


def zeros_like(like: Tensor) -> Tensor:
    """Return zeros of the same shape, dtype and device."""
    return like._result(like.backend.xp.zeros_like(like.array))


def ones_like(like: Tensor) -> Tensor:
    """Return ones of the same shape, dtype and device."""
    return like._result(like.backend.xp.ones_like(like.array))


def arange(*bounds: float, dtype: Any = None, **options: Any) -> Tensor:
    """Return start, start + step, ... up to and without stop; integers give int64."""
    if dtype is None:
        whole = all(isinstance(each, int | np.integer) for each in bounds)
        dtype = np.int64 if whole else DEFAULT_DTYPE
    return Tensor(np.arange(*bounds, dtype=dtype), **options)
