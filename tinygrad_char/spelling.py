"""Other spellings of parameters: PyTorch's, where the names here are NumPy's."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, overload

Result = TypeVar("Result")

OTHERS = {
    "axis": ("dim", "dims"),
    "axes": ("dim", "dims"),
    "correction": ("ddof", "unbiased"),  # False and True are 0 and 1
    "end": ("end_dim",),
    "keepdims": ("keepdim",),
    "start": ("start_dim",),
}
"""For each parameter, wherever a function has it, the names that it also goes by."""


@overload
def spelled(function: Callable[..., Result], /) -> Callable[..., Result]: ...
@overload
def spelled(
    **others: str | tuple[str, ...],
) -> Callable[[Callable[..., Result]], Callable[..., Result]]: ...
def spelled(function: Any = None, /, **others: Any) -> Any:
    """Let a function's parameters go by other names, too; a decorator.

    Those of OTHERS do wherever it is used; `others` says more for one function, as in
    `@spelled(low=("min", "a_min"))`. Called with a parameter under two names, the function raises
    TypeError that names both.
    """
    if function is None:
        return lambda function: _spelled(function, others)
    return _spelled(function, {})


def _spelled(function: Callable[..., Any], others: dict[str, Any]) -> Callable[..., Any]:
    own = list(inspect.signature(function).parameters)
    names: dict[str, tuple[int, str]] = {}  # another name: the parameter's position and name
    for position, parameter in enumerate(own):
        more = others.get(parameter, ())
        more = (more,) if isinstance(more, str) else more
        for other in (*OTHERS.get(parameter, ()), *more):
            if other not in own:
                names[other] = (position, parameter)

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if options and not names.keys().isdisjoint(options):
            options = _respell(function.__name__, names, len(arguments), options)
        return function(*arguments, **options)

    return call


def _respell(
    function: str, names: dict[str, tuple[int, str]], given: int, options: dict[str, Any]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    spelling: dict[str, str] = {}
    for name, value in options.items():
        position, parameter = names.get(name, (given, name))
        if parameter in result or position < given:
            other = spelling.get(parameter, parameter)
            raise TypeError(
                f"{function}: {other} and {name} are two names of one argument; give one of them"
            )
        result[parameter], spelling[parameter] = value, name
    return result
