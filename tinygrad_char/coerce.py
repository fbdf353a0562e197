"""How operands, indices and shapes that a user gives become what the operations take."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tinygrad_char.integers import check_fits, check_values, overflow
from tinygrad_char.kernels.array import Array, is_floating, native, signed
from tinygrad_char.kernels.backend import CPU, DeviceError
from tinygrad_char.kernels.devices import backend_of
from tinygrad_char.modes import quiet

if TYPE_CHECKING:
    from tinygrad_char.methods.base import TensorMethods
    from tinygrad_char.tensor import Tensor
else:  # of which Tensor is the only kind, in a module that does not import this one
    from tinygrad_char.autograd import TensorBase as Tensor

Result = TypeVar("Result")

DEFAULT_DTYPE = np.dtype(np.float32)
"""The dtype of tensors made from Python floats, and of means and quotients of integers."""


@quiet
def from_python(data: Any, dtype: Any) -> np.ndarray:
    """Return numbers in nested sequences as an array: floats become float32, integers int64.

    Arrays of other libraries keep their dtype.

    Raises
    ------
    OverflowError
        The dtype is one of integers and does not hold a number, or none holds all integers.
    """
    is_array = hasattr(data, "__array__")
    if hasattr(data, "__dlpack__"):
        data = np.from_dlpack(data)
    elif isinstance(data, Sequence) and not isinstance(data, str):
        data = _plain(data)
    try:
        if dtype is not None and np.dtype(dtype).kind in "iu":
            _check_data(np.array(data), np.dtype(dtype))
        array = native(np.array(data, dtype=dtype))
    except ValueError as error:
        raise ValueError(f"tensor from a nested sequence: {error}") from None
    if is_array or dtype is not None:
        return array
    if array.dtype == object or (array.dtype == np.float64 and (abs(array) >= 2.0**63).any()):
        _check_integers(data)
    return array.astype(DEFAULT_DTYPE) if array.dtype == np.float64 else array


def _check_data(array: np.ndarray, dtype: np.dtype) -> None:
    """Raise OverflowError unless an integer dtype holds the values, which may be Python's own."""
    if array.dtype != object:
        check_array("tensor", array, dtype)
    else:
        for each in array.ravel().tolist():
            if isinstance(each, int | float):
                check_fits("tensor", each, dtype)


def check_array(name: str, array: Array, dtype: np.dtype) -> None:
    """Raise OverflowError unless an integer dtype holds the elements of an array."""
    if array.dtype.kind in "iu" or is_floating(array.dtype):
        check_values(name, array, dtype)


def _check_integers(data: Any) -> None:
    """Raise OverflowError for integers alone that no one dtype of integers holds."""
    numbers = np.array(data, dtype=object).ravel().tolist()
    if all(isinstance(each, int) for each in numbers):
        raise overflow("tensor", max(numbers, key=abs), np.dtype(np.int64))


def _plain(data: Sequence[Any]) -> list[Any]:
    """Return nested sequences in which tensors have become lists."""
    return [
        each.array.tolist()
        if isinstance(each, Tensor)
        else _plain(each)
        if isinstance(each, list | tuple)
        else each
        for each in data
    ]


def tensor_like(name: str, value: Any, like: TensorMethods) -> Tensor:
    """Return `value` as a tensor on the device of `like`; an int or float takes its dtype."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float):
        weak = is_floating(like.array.dtype) and not isinstance(value, bool)
        if weak:
            check_fits(name, value, like.array.dtype)
        array = from_python(value, like.array.dtype if weak else None)
    elif isinstance(value, like.backend.array_type | np.ndarray):
        array = value
        if backend_of(array) not in (CPU, like.backend):
            raise DeviceError(
                f"{name}: an array on {backend_of(array)} and a tensor on {like.backend}; move "
                "one of them"
            )
    elif isinstance(value, list | tuple):
        array = from_python(value, None)
    else:
        raise TypeError(
            f"{name}: expected a tensor, a number, an array or a nested list, got "
            f"{type(value).__name__}"
        )
    if array.dtype.kind not in "iub" and not is_floating(array.dtype):
        raise TypeError(f"{name}: expected booleans, integers or floats, got {array.dtype}")
    return like._result(like.backend.xp.asarray(native(array)))


def first_tensor(name: str, *values: Any) -> Tensor:
    """Return the first of the values that is a tensor; TypeError, by `name`, where none is."""
    for each in values:
        if isinstance(each, Tensor):
            return each
    kinds = " and ".join(type(each).__name__ for each in values)
    raise TypeError(f"{name}: expected at least one tensor, got {kinds}")


def broadcasts_to(shape: tuple[int, ...], larger: tuple[int, ...]) -> bool:
    """Return whether `shape` broadcasts to `larger`, which stays what it is."""
    try:
        return np.broadcast_shapes(shape, larger) == larger
    except ValueError:
        return False


def boolean_mask(name: str, mask: Any, x: TensorMethods) -> Tensor:
    """Return `mask` as a tensor of booleans that broadcasts to `x`, or raise an error."""
    mask = tensor_like(name, mask, x)
    if mask.dtype != bool:
        raise TypeError(f"{name}: mask is {mask.dtype}, expected booleans")
    if not broadcasts_to(mask.shape, x.shape):
        raise ValueError(f"{name}: mask {mask.shape} does not broadcast to x {x.shape}")
    return mask


@quiet
def gradient_array(tensor: Tensor, value: Any) -> Array:
    """Return a copy of a gradient that a user gives, in the tensor's shape, dtype and device.

    Raises
    ------
    TypeError
        The tensor is not floating, or the value neither a number, nor an array, nor a tensor.
    ValueError
        The value has another shape.
    """
    dtype, shape, backend = tensor.array.dtype, tensor.array.shape, tensor.backend
    if not is_floating(dtype):
        raise TypeError(f"grad: only floating tensors have gradients, this one is {dtype}")
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        if isinstance(value, np.complexfloating):
            raise TypeError(f"grad: {value!r}, expected a real number")
        check_fits("grad", value.item() if isinstance(value, np.number) else value, dtype)
        return backend.xp.full(shape, value, dtype)
    if isinstance(value, Tensor):
        value = value.array
    elif not isinstance(value, np.ndarray) and not hasattr(value, "__cuda_array_interface__"):
        raise TypeError(
            f"grad: expected a tensor, an array, a number or None, got {type(value).__name__}"
        )
    if value.dtype.kind not in "iub" and not is_floating(value.dtype):
        raise TypeError(f"grad: an array of {value.dtype}, expected real numbers")
    if value.shape != shape:
        raise ValueError(f"grad: shape {value.shape} for a tensor of shape {shape}")
    source = backend_of(value)
    if source is not backend:
        value = backend.from_numpy(source.to_numpy(value))
    return backend.xp.array(value, dtype=dtype)


def floating(tensor: TensorMethods) -> Tensor:
    """Return the tensor itself if it is floating, else its values as float32."""
    if is_floating(tensor.array.dtype):
        return tensor  # type: ignore[return-value]  # methods are those of a Tensor
    return tensor.astype(DEFAULT_DTYPE)


def operands(name: str, a: Any, b: Any, *, quotient: bool = False) -> tuple[Any, Any]:
    """Return two operands that may be combined: tensors of one floating dtype, or Python numbers.

    Raises
    ------
    TypeError
        Two different floating dtypes: nothing is converted silently.
    OverflowError
        The tensor's integer dtype, which the result will have, does not hold the number.
    """
    # First what nearly all are: two tensors of one dtype, or one of floats and a number.
    if isinstance(a, Tensor):
        dtype = a.array.dtype
        if isinstance(b, Tensor):
            other = b.array.dtype
            if (dtype is other or dtype == other) and (not quotient or is_floating(dtype)):
                return a, b
        elif _is_plain(b) and dtype.kind == "f":
            return a, b
    elif _is_plain(a) and b.array.dtype.kind == "f":
        return a, b
    like = a if isinstance(a, Tensor) else b
    a, b = _number_or_tensor(name, a, like), _number_or_tensor(name, b, like)
    dtype_a, dtype_b = _dtype(a), _dtype(b)
    if dtype_a is not None and dtype_a == dtype_b and (is_floating(dtype_a) or not quotient):
        return a, b
    if dtype_a is None or dtype_b is None:
        tensor, number = (b, a) if dtype_a is None else (a, b)
        if not is_floating(tensor.array.dtype) and (quotient or isinstance(number, float)):
            tensor = floating(tensor)
        dtype = tensor.array.dtype
        check_fits(name, number, np.dtype(np.int64) if dtype.kind == "b" else dtype)
        return (number, tensor) if dtype_a is None else (tensor, number)
    if is_floating(dtype_a) and is_floating(dtype_b):
        raise TypeError(
            f"{name}: dtypes {dtype_a} and {dtype_b}; floating dtypes do not mix silently, convert "
            f"one of them with .astype({str(dtype_a)!r})"
        )
    if is_floating(dtype_a):
        return a, b.astype(dtype_a)
    if is_floating(dtype_b):
        return a.astype(dtype_b), b
    return (floating(a), floating(b)) if quotient else (a, b)


def promoted(name: str, tensors: Sequence[Any]) -> list[Tensor]:
    """Return several tensors in one dtype, that of the operators' results.

    Arrays and numbers among them become tensors on the device of the first tensor.

    Raises
    ------
    TypeError
        There is no tensor among them, or two floating dtypes.
    ValueError
        There is nothing.
    """
    given = list(tensors)
    if not given:
        raise ValueError(f"{name}: expected at least one tensor")
    like = next((each for each in given if isinstance(each, Tensor)), None)
    if like is None:
        raise TypeError(f"{name}: expected tensors, got {type(given[0]).__name__}")
    given = [tensor_like(name, each, like) for each in given]
    dtypes = {each.array.dtype for each in given}
    if len(dtypes) == 1:
        return given
    floats = {each for each in dtypes if is_floating(each)}
    if len(floats) > 1:
        raise TypeError(
            f"{name}: dtypes {', '.join(sorted(map(str, floats)))}; floating dtypes do not mix "
            "silently, convert all but one with .astype(...)"
        )
    dtype = floats.pop() if floats else np.result_type(*dtypes)
    return [each.astype(dtype) for each in given]


OPERANDS = (Tensor, bool, int, float, np.generic, np.ndarray, list, tuple)


def binary_operator(method: Callable[[Any, Any], Result]) -> Callable[[Any, Any], Result]:
    """Decorate an operator's method: it returns NotImplemented for an operand that is no operand.

    Then Python asks the other object's method, and == says False.
    """

    @wraps(method)
    def checked(self: Any, other: Any) -> Any:
        known = isinstance(other, OPERANDS) or is_array_beside(other, self)
        return method(self, other) if known else NotImplemented

    return checked


def is_array_beside(value: object, tensor: TensorMethods) -> bool:
    """Return whether a value is an array of the tensor's device."""
    return issubclass(type(value), tensor.backend.array_type)


def _is_plain(value: Any) -> bool:
    """Return whether this is a Python number that any dtype of floats holds."""
    return type(value) is float or (type(value) is int and -(2**63) < value < 2**63)


def _number_or_tensor(name: str, value: Any, like: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, Tensor | int | float) else tensor_like(name, value, like)


def _dtype(operand: Any) -> np.dtype | None:
    return operand.array.dtype if isinstance(operand, Tensor) else None


def raw_index(index: Any) -> Any:
    """Return an index with tensors and lists replaced by arrays of their own, safe from changes."""
    if isinstance(index, tuple):
        return tuple(raw_index(each) for each in index)
    if isinstance(index, Tensor):
        if is_floating(index.array.dtype):
            raise IndexError(
                f"index: a tensor of {index.array.dtype}, expected integers or booleans"
            )
        return signed(index.array).copy()
    if isinstance(index, np.ndarray):
        return signed(index).copy()
    if isinstance(index, np.integer):
        return int(index)
    return np.array(index, dtype=None if index else np.int64) if isinstance(index, list) else index


def lengths(arguments: Sequence[Any]) -> tuple[int, ...]:
    """Return (2, 3) for both f(2, 3) and f((2, 3))."""
    if len(arguments) == 1 and isinstance(arguments[0], Sequence | np.ndarray | range):
        arguments = tuple(arguments[0])
    return tuple(operator.index(each) for each in arguments)
