"""The arrays of the device "cuda-on-cpu": NumPy's memory with the manners of CuPy's arrays.

They are told apart from arrays of the host: operations that mix the two raise TypeError, as on a
GPU, and a number taken out of one is an array without axes. While a `Recorder` records, what is
done with them is noted and not done, and reading one is an error, as while a GPU's stream is
captured. So what runs on this device has the calls that a GPU would get, in the same order.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from tinygrad_char.kernels.cpu.recorder import Capturing, R

_Action = Callable[[], Any]

_HOST_ALLOWED = ("array", "asarray")
"""Functions that take arrays of the host, as CuPy's do."""

_WITHOUT_VALUES = ("empty", "empty_like")
_COPYING = ("argmax", "argmin", "astype", "copy", "cumsum", "take")
_READING = ("__bool__", "__float__", "__index__", "__int__", "item", "tolist")


class DeviceArray(np.ndarray):
    """An array of the device "cuda-on-cpu"."""

    def __array_namespace__(self, *, api_version: str | None = None) -> ModuleType:
        return NAMESPACE

    def __array_finalize__(self, source: Any) -> None:
        if (
            _state.actions is not None
            and isinstance(source, DeviceArray)
            and self.size
            and not np.may_share_memory(_plain(self), _plain(source))
        ):
            raise RuntimeError(
                f"an array of shape {source.shape} on 'cuda-on-cpu' was copied in a way that "
                "cannot be recorded; use an operation of the array module"
            )

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any
    ) -> Any:
        _refuse_host(ufunc.__name__, (*inputs, *(out or ())))
        compute = partial(getattr(ufunc, method), *_plain(inputs), **options)
        if method == "at":
            return perform(compute)
        if out is None:
            return _produce(compute)
        perform(partial(compute, out=_plain(out)))
        return out[0]

    def __getitem__(self, index: Any) -> Any:
        index = _plain(index)
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(each, np.ndarray | list) for each in parts):
            return _produce(partial(_plain(self).__getitem__, index))
        result = _plain(self)[index]
        # An element stays a view.
        return _adopt(result if isinstance(result, np.ndarray) else _plain(self)[(*parts, ...)])

    def __setitem__(self, index: Any, value: Any) -> None:
        _refuse_host("setitem", (value,))
        perform(partial(_plain(self).__setitem__, _plain(index), _plain(value)))

    def reshape(self, *shape: Any, **options: Any) -> Any:
        """See numpy.ndarray.reshape."""
        compute = partial(_plain(self).reshape, *shape, **options)
        result = compute()
        return _adopt(result) if np.may_share_memory(result, self) else _produce(compute)

    def set(self, array: np.ndarray) -> None:
        """Copy the values of an array on the host, of the same shape and dtype."""
        _refuse_reading()
        np.copyto(_plain(self), array, casting="no")

    def get(self) -> np.ndarray:
        """Return a numpy.ndarray of copied elements; refused where a step is recorded."""
        _refuse_reading()
        return np.array(_plain(self))


class Recorder(Capturing):
    """Records what a function does on the device, as a list of it."""

    def host_buffer(self, size: int) -> np.ndarray:
        """Return bytes (size,): here no memory is faster than other."""
        return np.empty(size, np.uint8)

    def warm_up(self, function: Callable[[], R]) -> R:
        """Call the function."""
        return function()

    def capture(self, function: Callable[[], R]) -> tuple[R, Callable[[], None]]:
        """Return what the function returns, with arrays not filled yet, and what fills them."""
        actions: list[_Action] = []
        arrays: list[Any] = []
        _state.actions, _state.arrays = actions, arrays
        try:
            result = function()
        finally:
            _state.actions, _state.arrays = None, []
        return result, partial(_repeat, actions, arrays)


def _repeat(actions: list[_Action], arrays: list[Any]) -> None:
    """Do what was noted; the arrays are those that an action may know by their address alone."""
    for action in actions:
        perform(action)


def perform(action: _Action) -> None:
    """Do something on the device, or note it where a recorder records."""
    if _state.actions is None:
        with np.errstate(all="ignore"):  # as a GPU does
            action()
    else:
        _state.actions.append(action)


class _State:
    """What the recorder that records, if any does, has noted, and the memory that it keeps."""

    actions: list[_Action] | None = None
    arrays: list[Any] = []  # noqa: RUF012 - replaced, never added to here


_state = _State()


class _Namespace(ModuleType):
    """The functions of NumPy, or of a module in it, for arrays of the device."""

    def __init__(self, source: ModuleType) -> None:
        super().__init__(f"{source.__name__} on {DeviceArray.__name__}", source.__doc__)
        self._source = source

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._source, name)
        if isinstance(value, ModuleType):
            return _Namespace(value)
        if isinstance(value, type | np.ufunc) or not callable(value):
            return value
        return partial(_call, name, value)


def _call(name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    host = [each for each in arguments if type(each) is np.ndarray]
    if name not in _HOST_ALLOWED:
        _refuse_host(name, arguments)
    elif host and _state.actions is not None:
        raise RuntimeError(
            f"{name}: an array of shape {host[0].shape} cannot be copied from the host while the "
            "device's work is recorded; make it before"
        )
    elif host:
        return _adopt(np.array(*arguments, **{**options, "copy": True}))
    compute = partial(function, *_plain(arguments), **_plain(options))
    if options.get("out") is not None:
        perform(compute)
        return options["out"]
    if _state.actions is None:
        return _adopt(compute())
    if name in _WITHOUT_VALUES:
        _state.arrays.append(_adopt(compute()))
        return _state.arrays[-1]
    return _produce(compute, [each for each in arguments if isinstance(each, DeviceArray)])


def _produce(compute: _Action, sources: list[DeviceArray] | None = None) -> Any:
    """Return what `compute` does; where a recorder records, repetitions fill the result anew.

    A result that is a view of one of the sources needs no filling.
    """
    with np.errstate(all="ignore"):
        result = _adopt(compute())
    if _state.actions is None:
        return result
    is_view = any(np.may_share_memory(result, _plain(each)) for each in sources or ())
    if isinstance(result, DeviceArray) and not is_view:
        target = _plain(result)
        _state.actions.append(lambda: np.copyto(target, compute()))
    return result


def _adopt(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, tuple):
        return tuple(map(_adopt, value))
    return value.view(DeviceArray) if type(value) is np.ndarray else value


def _plain(value: Any) -> Any:
    if isinstance(value, DeviceArray):
        return value.view(np.ndarray)
    if type(value) in (tuple, list):
        return type(value)(map(_plain, value))
    return {name: _plain(each) for name, each in value.items()} if type(value) is dict else value


def _refuse_host(name: str, arguments: Any) -> None:
    for each in arguments:
        if type(each) is np.ndarray:
            raise TypeError(
                f"{name}: an array of shape {each.shape} is on the host and others on "
                "'cuda-on-cpu'; move it with the backend's from_numpy"
            )


def _refuse_reading() -> None:
    if _state.actions is not None:
        raise RuntimeError(
            "a value on 'cuda-on-cpu' cannot be read while the device's work is recorded"
        )


def _copying(name: str) -> Callable[..., Any]:
    def method(self: DeviceArray, *arguments: Any, **options: Any) -> Any:
        if name == "astype" and options.get("copy") is False and self.dtype == arguments[0]:
            return self
        function = getattr(_plain(self), name)
        return _produce(partial(function, *_plain(arguments), **options))

    return method


def _reading(name: str) -> Callable[..., Any]:
    def method(self: DeviceArray, *arguments: Any) -> Any:
        _refuse_reading()
        return getattr(_plain(self), name)(*arguments)

    return method


for _name in _COPYING:
    setattr(DeviceArray, _name, _copying(_name))
for _name in _READING:
    setattr(DeviceArray, _name, _reading(_name))

NAMESPACE = _Namespace(np)
"""What such arrays have in the place of the module numpy."""
