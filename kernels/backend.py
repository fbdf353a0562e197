"""A backend: an array module, and the table of which version serves each operation."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import cache, partial
from inspect import isfunction, signature
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from tinygrad_char.kernels import operations
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu import recording
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recorder import Recorder
from tinygrad_char.kernels.operations import REFERENCE, VARIABLE, Own, Room, Settings

P = ParamSpec("P")
R = TypeVar("R")


class DeviceError(RuntimeError):
    """A device that was asked for cannot be used."""


class Table(dict[Callable[..., Any], Callable[..., Any]]):
    """Which function serves each function of a reference.

    `table[layernorm.forward]` takes what `layernorm.forward` takes and returns what that returns.
    It is found when it is first asked for.
    """

    def __init__(self, find: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        super().__init__()
        self._find = find

    if TYPE_CHECKING:

        def __getitem__(self, function: Callable[P, R]) -> Callable[P, R]: ...

    def __missing__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        found = self[function] = self._find(_asked(function)[-1])
        return found


class Backend:
    """Where arrays live and what computes on them.

    Parameters
    ----------
    name
        The device's name.
    xp, array_type
        The module of its arrays, and their type.
    version
        The version of operations that serves here where no other one is asked for.
    bind
        Makes of an operation's folder and settings what has that version's functions.
    recorder
        Records what is done on the device and repeats it; None where nothing does.
    device
        What launches kernels there, a cuda.operation.Device.
    settings
        What is asked of operations where the context asks nothing.
    """

    kernels: Table
    """Which function serves each function of a reference; see `chosen`."""

    def __init__(
        self,
        name: str,
        xp: ModuleType,
        array_type: type[Array],
        version: str = REFERENCE,
        bind: Callable[[Room, Settings], object] = lambda room, settings: None,
        recorder: Recorder | None = None,
        device: object = None,
        settings: Settings | None = None,
    ) -> None:
        self.name, self.xp, self.array_type = name, xp, array_type
        self.version, self.recorder, self.device = version, recorder, device
        self._settings = settings
        self._in_python: str | None = None  # until somebody asks, which every step does
        self._bind = bind
        self._bound: dict[str, object] = {}
        self._under: dict[Settings, Backend] = {}
        # Under settings that hold memory, for as long as somebody has these settings.
        self._with_parameters: WeakKeyDictionary[Settings, Backend] = WeakKeyDictionary()
        self._last: tuple[Settings | None, Backend] = (None, self)  # at once, for other threads
        self.kernels = Table(self._serving)

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__

    @property
    def settings(self) -> Settings:
        """What is asked of operations here; of the environment, where nothing else was given."""
        if self._settings is None:
            settings = Settings(tuple(operations.of_environment().items()))
            self._check(settings)
            self._settings = settings
        return self._settings

    def chosen(self) -> Backend:
        """Return this backend, or where the context has settings, one that computes under them."""
        settings = operations.current()
        if settings is None:
            return self
        last, found = self._last
        if settings is not last:
            found = self.under(settings)
            if settings.parameters is None:
                self._last = settings, found
        return found

    def under(self, settings: Settings) -> Backend:
        """Return a backend for the same arrays whose operations compute under settings.

        Raises
        ------
        DeviceError
            They ask for TF32 products, for products that round to bfloat16, or for a version for
            another device, and this backend has none.
        """
        if settings.parameters is None:
            known: MutableMapping[Settings, Backend] = self._under
        else:
            known = self._with_parameters
        found = known.get(settings)
        if found is None:
            if len(self._under) >= MOST_SETTINGS:
                self._under.clear()
            self._check(settings)
            found = Backend(
                self.name,
                self.xp,
                self.array_type,
                self.version,
                self._bind,
                self.recorder,
                self.device,
                settings.over(self.settings),
            )
            found = known.setdefault(settings, found)  # another thread's, if that was first
        return found

    def _check(self, settings: Settings) -> None:
        if settings.tf32 and self.version == "c":
            raise DeviceError(f"device {self.name!r} has no TF32 products; use device 'cuda'")
        if settings.bf16 and self.version != "c":
            raise DeviceError(
                f"device {self.name!r} multiplies in bfloat16 what is bfloat16, such as "
                "activations; to round float32 for products alone, use device 'cpu'"
            )
        for name, version in settings.versions:
            if version in FOR_DEVICES and version != self.version:
                fitting = [
                    each
                    for each in operations.operations()[name].versions
                    if each not in FOR_DEVICES or each == self.version
                ]
                raise DeviceError(
                    f"{name}={version} does not compute on device {self.name!r}; expected one of "
                    f"{', '.join(fitting)}"
                )

    def operation(self, name: str) -> SimpleNamespace:
        """Return what has the functions of an operation's reference, as they are served here."""
        module = operations.operations()[name].module(REFERENCE)
        return SimpleNamespace(
            **{
                name: self.kernels[function] if function.__module__ == module.__name__ else function
                for name, function in vars(module).items()
                if isfunction(function)
            }
        )

    def version_of(self, operation: str) -> str:
        """Return the name of the version that an operation is asked of first."""
        room = operations.operations()[operation]
        found = self._version(room)
        if found is None:
            return REFERENCE
        return str(found)

    @property
    def in_python(self) -> str:
        """Of the versions asked for, those that are Python code, as in "layernorm=loops"."""
        if self._in_python is None:
            self._in_python = ", ".join(
                f"{name}={version}"
                for name, version in self.settings.versions
                if version == "loops" or isinstance(version, Own)
            )
        return self._in_python

    @property
    def why_not_recorded(self) -> str | None:
        """Why nothing that is computed here can be recorded; None where it may be."""
        if self.in_python:
            return f"{self.in_python} is Python code, which nothing records"
        if self.recorder is None:
            missing = self.in_host_memory and compiled is None
            return "the kernels in C are not there" if missing else f"{self.name} records nothing"
        if not self.in_host_memory:
            return None
        others = [
            f"{name}={version}"
            for name, version in self.settings.versions
            if version != "c" and "c" in operations.operations()[name].versions
        ]
        most = others if len(others) <= MOST_NAMED else [*others[:MOST_NAMED], "..."]
        return f"{', '.join(most)} asked for, and not c" if others else None

    def _version(self, room: Room) -> str | Own | None:
        """Return the version that is asked first, by name or as an object; None for no other."""
        wanted = dict(self.settings.versions).get(room.name, self.version)
        if wanted == REFERENCE or (isinstance(wanted, str) and wanted not in room.versions):
            return None
        return None if wanted == "c" and compiled is None else wanted

    def _serving(self, function: Callable[P, R]) -> Callable[P, R]:
        room = operations.room_of(function)
        version = self._version(room)
        reference = self._rounding(function, function)
        if version is None:
            return reference
        first = getattr(self._functions(room, version), function.__name__, None)
        if first is None:
            return reference
        if not isinstance(version, Own):
            first = self._rounding(first, function)
        return _in_turn(first, reference)

    def _rounding(self, version: Callable[..., R], reference: Callable[P, R]) -> Callable[P, R]:
        """Return a version's function, rounding to bfloat16 where that is asked for."""
        if self.settings.bf16 and "bf16" in signature(reference).parameters:
            return partial(version, bf16=True)
        return version

    def _functions(self, room: Room, version: str | Own) -> object:
        """Return what has the functions of a version, the same each time."""
        if isinstance(version, Own):
            return version.functions
        if version != self.version:
            return room.module(operations.FILES[version])
        if room.name not in self._bound:
            self._bound[room.name] = self._bind(room, self.settings)
        return self._bound[room.name]

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """Return an array of any content, for a kernel to write to."""
        if self.in_host_memory:
            return recording.empty(shape, dtype)
        return self.xp.empty(shape, dtype)

    def from_numpy(self, array: np.ndarray) -> Array:
        """Return `array` as an array of this backend (the same one on the CPU)."""
        return self.xp.asarray(array)

    def to_numpy(self, array: Array) -> np.ndarray:
        """Return an array of this backend as a numpy.ndarray (the same one on the CPU)."""
        return array.get() if hasattr(array, "get") else array

    @property
    def in_host_memory(self) -> bool:
        """Whether arrays lie in the host's own memory, as NumPy's do."""
        return self.xp is np

    @property
    def shards_batches(self) -> bool:
        """Whether batches are cut in shards, which the host's cores compute side by side."""
        return self.in_host_memory


FOR_DEVICES = ("c", "cuda")
"""The versions that compute on the arrays of one kind of device alone."""
MOST_SETTINGS = 64
"""Of a backend; what was made for these is made anew for more."""
MOST_NAMED = 3
"""Versions in a message."""


def _in_turn(first: Callable[P, Any], reference: Callable[P, R]) -> Callable[P, R]:
    """Return what asks a version first, and the reference where that does not serve."""
    if compiled is not None:  # in a third of the time
        return compiled.in_turn((first, reference))

    def call(*arguments: P.args, **options: P.kwargs) -> R:
        result = first(*arguments, **options)
        return reference(*arguments, **options) if result is NotImplemented else result

    vars(call)["__self__"] = (first, reference)
    return call


def asked_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the version's function that a function of a table asks before the reference."""
    return _asked(function)[0]


def _asked(function: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Return what a function of a table asks, one after the other; the reference is the last."""
    pair = getattr(function, "__self__", None)
    found = pair if isinstance(pair, tuple) else (function,)
    return tuple(each.func if isinstance(each, partial) else each for each in found)


def _in_c(room: Room, settings: Settings) -> ModuleType:
    return room.module("cpu")


CPU = Backend("cpu", np, np.ndarray, "c", _in_c, None if compiled is None else recording.Recorder())


def references() -> Backend:
    """Return the host's backend with the reference of every operation."""
    versions = dict.fromkeys(operations.operations(), REFERENCE)
    return CPU.under(Settings(tuple(versions.items())))


def status() -> str:
    """Say in words which kernels serve the CPU, and why."""
    found: dict[str, list[str]] = {}
    for name in operations.operations():
        found.setdefault(CPU.version_of(name), []).append(name)
    served = found.pop("c", [])
    asked = [name for name, _ in CPU.settings.versions]
    if served:
        words = ["fused in C: " + ", ".join(served)]
        for version, names in found.items():
            if named := [name for name in names if name in asked]:
                words.append(f"{version}, as {VARIABLE} asks: {', '.join(named)}")
        return "; ".join(words)
    if compiled is not None:
        return f"references in NumPy, as {VARIABLE}=reference asks"
    said = "references in NumPy: the C extension is not built"
    checkout = Path(__file__).parent.parent
    if (checkout / "setup.py").is_file():
        return f"{said} in {checkout} (python setup.py build_ext --inplace builds it there)"
    return f"{said} (no compiler at installation?)"


@cache
def bfloat16() -> np.dtype:
    """Return the dtype with float32's range and eight bits of precision.

    Raises
    ------
    DeviceError
        The package ml_dtypes, which brings it to NumPy and CuPy, is not installed.
    """
    try:
        import ml_dtypes
    except ImportError as error:
        raise DeviceError(
            "bfloat16 needs the package ml_dtypes, which is not installed: pip install ml_dtypes, "
            "or use precision tf32 or float32"
        ) from error
    return np.dtype(ml_dtypes.bfloat16)
