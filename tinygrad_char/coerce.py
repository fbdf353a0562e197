"""How operands, indices and shapes that a user gives become what the operations take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_char.autograd import TensorBase

DEFAULT_DTYPE = np.dtype(np.float32)
"""The dtype of tensors made from Python floats, and of means and quotients of integers."""


def from_python(data: Any, dtype: Any) -> np.ndarray:
    """Return numbers in nested sequences as an array: floats become float32, integers int64."""
    if isinstance(data, Sequence) and not isinstance(data, str):
        data = _plain(data)
    try:
        array = np.array(data, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"tensor from a nested sequence: {error}") from None
    if dtype is None and array.dtype == np.float64:
        array = array.astype(DEFAULT_DTYPE)
    return array


def _plain(data: Sequence) -> list:
    """Return nested sequences in which tensors have become lists."""
    return [
        each.array.tolist()
        if isinstance(each, TensorBase)
        else _plain(each)
        if isinstance(each, list | tuple)
        else each
        for each in data
    ]


def tensor_like(value: Any, like: Any) -> Any:
    """Return `value` as a tensor on the device of `like`; a number takes its dtype."""
    if isinstance(value, TensorBase):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float):
        dtype = like.array.dtype if like.array.dtype.kind == "f" else None
        return like._result(like.backend.xp.asarray(from_python(value, dtype)))
    if isinstance(value, like.backend.array_type):
        return like._result(value)
    if not isinstance(value, list | tuple | np.ndarray):
        raise TypeError(
            f"expected a tensor, a number, an array or a nested list, got {type(value).__name__}"
        )
    array = value if isinstance(value, np.ndarray) else from_python(value, None)
    return like._result(like.backend.xp.asarray(array))


def floating(tensor: Any) -> Any:
    """Return the tensor itself if it is floating, else its values as float32."""
    return tensor if tensor.array.dtype.kind == "f" else tensor.astype(DEFAULT_DTYPE)


def operands(name: str, a: Any, b: Any, *, quotient: bool = False) -> tuple[Any, Any]:
    """Return two operands that may be combined: tensors of one floating dtype, or Python numbers.

    Raises
    ------
    TypeError
        Two different floating dtypes: nothing is converted silently.
    """
    like = a if isinstance(a, TensorBase) else b
    a, b = _number_or_tensor(a, like), _number_or_tensor(b, like)
    dtype_a, dtype_b = _dtype(a), _dtype(b)
    if dtype_a is not None and dtype_a == dtype_b and (dtype_a.kind == "f" or not quotient):
        return a, b
    if dtype_a is None or dtype_b is None:
        tensor, number = (b, a) if dtype_a is None else (a, b)
        if tensor.array.dtype.kind != "f" and (quotient or isinstance(number, float)):
            tensor = floating(tensor)
        return (number, tensor) if dtype_a is None else (tensor, number)
    if dtype_a.kind == "f" and dtype_b.kind == "f":
        raise TypeError(
            f"{name}: dtypes {dtype_a} and {dtype_b}; floating dtypes do not mix silently, convert "
            f"one of them with .astype({str(dtype_a)!r})"
        )
    if dtype_a.kind == "f":
        return a, b.astype(dtype_a)
    if dtype_b.kind == "f":
        return a.astype(dtype_b), b
    return (floating(a), floating(b)) if quotient else (a, b)


def _number_or_tensor(value: Any, like: Any) -> Any:
    if isinstance(value, TensorBase | int | float) and not isinstance(value, np.generic):
        return value
    return value.item() if isinstance(value, np.generic) else tensor_like(value, like)


def _dtype(operand: Any) -> np.dtype | None:
    return operand.array.dtype if isinstance(operand, TensorBase) else None


def raw_index(index: Any) -> Any:
    """Return an index with tensors and lists replaced by arrays of their own, safe from changes."""
    if isinstance(index, tuple):
        return tuple(raw_index(each) for each in index)
    if isinstance(index, TensorBase):
        if index.array.dtype.kind == "f":
            raise IndexError(
                f"a {index.array.dtype} tensor is no index: expected integers, booleans"
            )
        return index.array.copy()
    if isinstance(index, np.ndarray):
        return index.copy()
    if isinstance(index, np.integer):
        return int(index)
    return np.array(index, dtype=None if index else np.int64) if isinstance(index, list) else index


def lengths(arguments: Sequence[Any]) -> tuple[int, ...]:
    """Return (2, 3) for both f(2, 3) and f((2, 3))."""
    if len(arguments) == 1 and isinstance(arguments[0], Sequence | np.ndarray | range):
        arguments = tuple(arguments[0])
    return tuple(int(each) for each in arguments)
