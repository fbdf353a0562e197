"""What NumPy's own functions do with a tensor: they say which operation to call instead."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_char.autograd import TensorBase
from tinygrad_char.methods.base import TensorMethods

REFLECTED = {
    "add": ("+", "__radd__"),
    "bitwise_and": ("&", "__rand__"),
    "bitwise_or": ("|", "__ror__"),
    "bitwise_xor": ("^", "__rxor__"),
    "divide": ("/", "__rtruediv__"),
    "equal": ("==", "__eq__"),
    "floor_divide": ("//", "__rfloordiv__"),
    "greater": (">", "__lt__"),
    "greater_equal": (">=", "__le__"),
    "less": ("<", "__gt__"),
    "less_equal": ("<=", "__ge__"),
    "matmul": ("@", "__rmatmul__"),
    "multiply": ("*", "__rmul__"),
    "not_equal": ("!=", "__ne__"),
    "power": ("**", "__rpow__"),
    "remainder": ("%", "__rmod__"),
    "subtract": ("-", "__rsub__"),
}
"""For the ufuncs behind operators: the sign, and the method of the operand on the right."""

COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")

OTHER_NAMES = {
    "absolute": "abs",
    "amax": "max",
    "amin": "min",
    "broadcast_arrays": "broadcast_to",
    "expand_dims": "unsqueeze",
    "fabs": "abs",
    "negative": "__neg__",
    "positive": "__pos__",
    "invert": "__invert__",
    "divmod": "__divmod__",
}
"""Operations whose name here is not NumPy's."""


def _instead(name: str) -> str | None:
    """Return what to call in the place of NumPy's function, None if there is nothing like it."""
    if name in REFLECTED:
        return f"the operator x {REFLECTED[name][0]} y"
    package = sys.modules["tinygrad_char"]
    own = OTHER_NAMES.get(name, name)
    choices = []
    if callable(getattr(package.Tensor, own, None)):
        signs = {"__neg__": "-x", "__pos__": "+x", "__invert__": "~x", "__divmod__": "divmod(x, y)"}
        choices.append(signs.get(own, f"x.{own}()"))
    if callable(getattr(package, own, None)):
        choices.append(f"tinygrad_char.{own}(x)")
    return " or ".join(choices) or None


def _refuse(name: str, instead: str | None) -> TypeError:
    advice = f"call {instead}" if instead else "there is no such operation of tensors"
    return TypeError(
        f"np.{name}: a tensor is not a NumPy array, and its history would be lost; {advice}, or "
        "pass x.detach().numpy()"
    )


def _array_ufunc(
    tensor: TensorBase, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any
) -> Any:
    name = ufunc.__name__
    if method != "__call__":
        raise _refuse(f"{name}.{method}", None)
    sign, reflected = REFLECTED.get(name, ("", ""))
    if sign and options.get("out"):
        raise TypeError(
            f"np.{name}: the result of an array and a tensor does not go into an array; write "
            f"array = array {sign} tensor, or array {sign}= tensor.detach().numpy()"
        )
    if sign and not isinstance(inputs[0], TensorBase):  # `array + tensor` comes here, too
        left = inputs[0]
        if reflected in COMPARISONS and np.ndim(left) == 0:  # NumPy has made an array of its scalar
            left = np.asarray(left)[()]
        return getattr(inputs[1], reflected)(left)
    if name == "divmod" and not isinstance(inputs[0], TensorBase):
        return inputs[1].__rdivmod__(inputs[0])
    raise _refuse(name, _instead(name))


class _ArrayUfunc:
    """`__array_ufunc__`: a function for NumPy, which asks the type, and None for CuPy.

    CuPy asks the instance, and leaves `array + tensor` to Tensor.__radd__ where it finds None; as
    NumPy would, but then no function could say what to call in its place.
    """

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any] | None:
        return _array_ufunc if instance is None else None


class NumpyMethods(TensorMethods):
    """NumPy's protocols. What has no operation here is computed by NumPy from the values."""

    __slots__ = ()

    __array_ufunc__ = _ArrayUfunc()

    def __array_function__(
        self, function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        name = function.__name__
        asks_only = function in (np.shape, np.ndim, np.size)  # for what has no history
        instead = None if asks_only else _instead(name)
        if instead is None and hasattr(function, "_implementation"):
            return function._implementation(*args, **kwargs)
        module = (getattr(function, "__module__", None) or "numpy").partition(".")[2]
        raise _refuse(f"{module}.{name}" if module else name, instead)
