"""In-place changes: `t += x`, `t[i] = x`, `copy_`, `fill_`, on the tape where a gradient follows.

To the tape, a changed tensor is the result of another operation: what was computed from it before
keeps the old history, what is computed from then on has the new one. A view has no history of its
own: a change of it is one of its base, of which all views then are taken again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

import numpy as np

from tinygrad_char import autograd, modes
from tinygrad_char.autograd import Function, TensorBase
from tinygrad_char.coerce import raw_index, tensor_like
from tinygrad_char.integers import check_fits, check_values
from tinygrad_char.kernels.array import Array, is_floating, widened
from tinygrad_char.kernels.backend import Backend, DeviceError
from tinygrad_char.kernels.reduce import unbroadcast
from tinygrad_char.modes import quiet
from tinygrad_char.ops.indexing import is_basic
from tinygrad_char.ops.shape import BroadcastTo

Changed = TypeVar("Changed")
Steps = tuple[tuple[type[Function], dict[str, Any]], ...]


def _changing(symbol: str, method: str) -> Callable[[Changed, Any], Changed]:
    """Return the method of a sign that gives a tensor the values of an operation on it."""

    def change(self: Changed, other: Any) -> Changed:
        return _update(self, symbol, method, other)

    return change


class InPlaceMethods(TensorBase):
    """The methods of a tensor that change its values.

    Each change is counted, so that a backward that needs the old values refuses. In grad
    mode, a change of or by a tensor that needs a gradient goes on the tape as an operation.

    Raises
    ------
    RuntimeError
        The tensor is a leaf that needs a gradient, or a view of one, and grad mode is on; it is a
        view that was taken under `no_grad`; its elements share memory with each other, as after
        `broadcast_to`; or its memory is read-only.
    TypeError, OverflowError
        The values are of a kind that the dtype does not hold, or outside its range.
    ValueError
        The shape would change.
    """

    __slots__ = ()

    def copy_(self, values: Any) -> Self:
        """Overwrite the values with others of the same shape, and return self."""
        values = _given("copy_", values, self)
        if getattr(values, "shape", ()) != self.array.shape:
            shape = getattr(values, "shape", ())
            raise ValueError(f"copy_: values of shape {shape} into {self.array.shape}")
        _assign("copy_", self, Ellipsis, values)
        return self

    def fill_(self, value: Any) -> Self:
        """Set every element to a number, or the only element of a tensor, and return self."""
        value = _given("fill_", value, self)
        if isinstance(value, TensorBase) and value.array.ndim:
            raise ValueError(f"fill_: expected a number, got shape {value.array.shape}")
        _assign("fill_", self, Ellipsis, value)
        return self

    def zero_(self) -> Self:
        """Set every element to 0, and return self."""
        return self.fill_(0)

    def __setitem__(self, index: Any, values: Any) -> None:
        values = _given("setitem", values, self)
        try:
            _assign("setitem", self, raw_index(index), values)
        except (ValueError, IndexError) as error:
            raise type(error)(f"setitem on shape {self.array.shape}: {error}") from None

    __iadd__ = _changing("+=", "__add__")
    __isub__ = _changing("-=", "__sub__")
    __imul__ = _changing("*=", "__mul__")
    __itruediv__ = _changing("/=", "__truediv__")
    __ifloordiv__ = _changing("//=", "__floordiv__")
    __imod__ = _changing("%=", "__mod__")
    __ipow__ = _changing("**=", "__pow__")
    __imatmul__ = _changing("@=", "__matmul__")
    __iand__ = _changing("&=", "__and__")
    __ior__ = _changing("|=", "__or__")
    __ixor__ = _changing("^=", "__xor__")


class Overwrite(Function):
    """An array of which a part was overwritten: y = x, except for y[part] = values.

    dx = dy, and 0 in the part; dvalues = dy[part], summed over what was broadcast. Where an index
    array names an element several times, the value that stayed has its gradient.
    """

    def forward(self, x: Array, values: Any, *, steps: Steps, index: Any) -> Array:
        """Write values to what the index selects of the view of x that the steps take; return x."""
        self.steps, self.index = steps, index
        self.values_shape = getattr(values, "shape", ())
        self.values_dtype = getattr(values, "dtype", None)
        # The axes of x in the order of its memory, in which views of x are views of a copy, too.
        self.axes = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
        _write(_select(self.backend, x, steps), index, values)
        return x

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        """Return dx and dvalues, None where not needed."""
        xp = self.backend.xp
        grad_x = grad_values = None
        if self.needs[0]:
            inverse = np.argsort(self.axes).tolist()
            grad_x = grad.transpose(self.axes).copy().transpose(inverse)
            _select(self.backend, grad_x, self.steps)[self.index] = 0
        if self.needs[1]:
            view = _select(self.backend, grad, self.steps)
            part = xp.asarray(view[self.index])
            if not is_basic(self.index):
                order = xp.arange(part.size).reshape(part.shape)
                stayed = xp.zeros(view.shape, order.dtype)
                stayed[self.index] = order
                part = xp.where(stayed[self.index] == order, part, part.dtype.type(0))
            extra = max(0, len(self.values_shape) - part.ndim)  # leading ones, which NumPy drops
            total = unbroadcast(widened(part), self.values_shape[extra:])
            grad_values = xp.array(total.reshape(self.values_shape), dtype=self.values_dtype)
        return grad_x, grad_values


def _select(backend: Backend, array: Array, steps: Steps) -> Array:
    """Return the view of an array that the steps take."""
    for function, options in steps:
        node = function()
        node.backend, node.needs = backend, (False,)
        array = node.forward(array, **options)
    return array


def _update(target: Any, symbol: str, method: str, other: Any) -> Any:
    """Give the target the values of an operation on it and another operand."""
    taped = _is_taped(target, other)
    _check_target(symbol, target, taped)
    operation = getattr(type(target), method)
    if taped:
        # Backward may want the old values: the operation gets them in memory of their own.
        shares = isinstance(other, TensorBase) and other.version is target.version
        result = operation(_snapshot(target), _snapshot(other) if shares else other)
    else:
        result = operation(target, other)
    if result is NotImplemented:
        return result
    shape, dtype = target.array.shape, target.array.dtype
    if result.array.shape != shape:
        raise ValueError(
            f"{symbol}: the result has shape {result.array.shape}, and a tensor keeps its shape "
            f"{shape} in place; write t = t {symbol[:-1]} ..."
        )
    if result.array.dtype != dtype and not np.can_cast(result.array.dtype, dtype, "same_kind"):
        raise TypeError(
            f"{symbol}: the result is {result.array.dtype}, and a tensor keeps its dtype {dtype} "
            f"in place; write t = t {symbol[:-1]} ..., or convert it before with .astype()"
        )
    if taped and target._view is None and result.array.dtype == dtype:
        target.array[...] = result.array
        autograd.note_change(target)
        _become(target, result.node)
    else:
        _assign(symbol, target, Ellipsis, result)
    return target


def _assign(name: str, target: Any, index: Any, values: Any) -> None:
    """Write values, a tensor or a number, to a part of a tensor."""
    taped = _is_taped(target, values)
    _check_target(name, target, taped)
    raw = values
    if isinstance(values, TensorBase):
        raw = values.array
        if values.version is target.version:
            same = not taped or _base(values) is _base(target)
            if same and _is_part(target.array, index, raw):
                return  # as in `t[i] += x`, which ends with assigning what was changed in place
            values = _snapshot(values)
    _check_range(name, raw, target.array.dtype)
    if not taped:
        _write(target.array, index, raw)
        autograd.note_change(target)
        target.derived = False
        return
    if not is_floating(target.array.dtype):
        raise TypeError(
            f"{name}: values that need a gradient into {target.array.dtype}, which has none; "
            ".detach() them"
        )
    base, steps = target._view or (target, ())
    inputs = (base, values)
    node = Overwrite()
    node.backend = base.backend
    node.needs = tuple(getattr(each, "requires_grad", False) for each in inputs)
    node.forward(base.array, getattr(values, "array", values), steps=steps, index=index)
    autograd.note_change(base)
    before = base.node
    node._link(inputs, [], base)
    node.derived = any(getattr(each, "derived", False) for each in inputs)
    base.node = before
    _become(base, node)


def _become(base: Any, node: Function) -> None:
    """Make a tensor the result of a node, and its views those of what it is now."""
    _set_node(base, node)
    for reference in list(base.version.views):
        view = reference()
        if view is not None and view._view[0] is base:
            with modes.enable_grad(), autograd.tracing():  # no operations of the user's
                renewed = base
                for function, options in view._view[1]:
                    renewed = function.apply(renewed, **options)
            _set_node(view, renewed.node)


def _set_node(tensor: Any, node: Function) -> None:
    before, tensor.node = tensor.node, node
    tensor.requires_grad = True
    if before is not None and before.retained is not None and before.retained() is tensor:
        node.retained, before.retained = before.retained, None


def _snapshot(tensor: Any) -> Any:
    """Return a tensor of the same history, with the values as they are now."""
    copy = tensor._result(tensor.array.copy())
    copy.requires_grad, copy.node, copy.derived = tensor.requires_grad, tensor.node, tensor.derived
    return copy


def _given(name: str, values: Any, target: Any) -> Any:
    """Return values that a user gives as a number, or as a tensor on the target's device."""
    if isinstance(values, np.generic):
        values = values.item()
    if isinstance(values, bool | int | float):
        return values
    values = tensor_like(name, values, target)
    if values.backend is not target.backend:
        raise DeviceError(f"{name}: values on {values.backend} into a tensor on {target.backend}")
    return values


def _base(tensor: Any) -> Any:
    """Return the tensor whose history a view has; a detached one has its own."""
    return tensor if tensor._view is None else tensor._view[0]


def _is_taped(target: Any, values: Any) -> bool:
    base = None if target._view is None else target._view[0]
    return modes.is_grad_enabled() and any(
        isinstance(each, TensorBase) and each.requires_grad for each in (target, base, values)
    )


def _check_target(name: str, target: Any, taped: bool) -> None:
    """Raise RuntimeError where a tensor is not to be changed in place."""
    base, steps = target._view or (target, ())
    array = target.array
    if taped and base is None:
        raise RuntimeError(
            f"{name}: a view of shape {array.shape} that was taken under no_grad(), or by an "
            "operation of several inputs, cannot be changed while grad mode is on: nothing knows "
            "of what it is a view; take it again, or change a .clone() of it"
        )
    if taped and base.node is None and base.requires_grad:
        raise RuntimeError(
            f"{name}: in-place change of a leaf of shape {base.array.shape} that requires grad"
            f"{'' if base is target else ', through a view of it,'} while grad mode is on; do it "
            "under no_grad(), or change a copy"
        )
    if _overlaps(array) or _repeats(base, steps):
        raise RuntimeError(
            f"{name}: elements of this tensor of shape {array.shape} share memory with each other, "
            "as after broadcast_to; change a .clone() of it"
        )
    if not getattr(array.flags, "writeable", True):
        raise RuntimeError(
            f"{name}: the memory of this tensor of shape {array.shape} is read-only, as what it "
            "was made from; change a .clone() of it"
        )


def _overlaps(array: Array) -> bool:
    """Return whether elements may share memory: a stride is less than what smaller ones span."""
    reach = 0
    strides = ((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1)
    for stride, length in sorted(strides) if array.size else ():
        if stride <= reach:
            return True
        reach += stride * (length - 1)
    return False


def _repeats(base: Any, steps: Steps) -> bool:
    """Return whether a view was taken of something whose elements share memory."""
    return any(function is BroadcastTo for function, _ in steps) and any(
        _overlaps(_select(base.backend, base.array, steps[:count]))
        for count in range(1, len(steps))
    )


def _check_range(name: str, values: Any, dtype: np.dtype) -> None:
    """Raise OverflowError for values that the dtype does not hold: integers would wrap."""
    if isinstance(values, bool | int | float):
        check_fits(name, values, dtype)
    else:
        check_values(name, values, dtype)


@quiet  # what float16 does not hold becomes infinite
def _write(array: Array, index: Any, values: Any) -> None:
    array[index] = values


def _is_part(array: Array, index: Any, values: Array) -> bool:
    """Return whether values are what the index selects of the array: the same memory."""
    if not is_basic(index):
        return False
    parts = index if isinstance(index, tuple) else (index,)
    if all(each is not Ellipsis for each in parts):
        parts = (*parts, ...)  # with which one element stays a view, too
    return _place(array[parts]) == _place(values)


def _place(array: Array) -> tuple[Any, ...]:
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    return interface["data"][0], array.shape, array.strides, array.dtype
