"""The operations, each in a folder of its own, and which version of each computes.

A folder beside this file with a `reference.py` is an operation. Its versions have the reference's
functions, with the same arguments, results and saved values:

    reference   reference.py, on NumPy's or CuPy's arrays: the definition of correct
    loops       loops.py, in plain Python
    c           cpu.py, kernels in C for the host
    cuda        cuda.py, kernels in CUDA C: a subclass of cuda.operation.Operation

A version that does not serve its arguments returns NotImplemented, and the reference serves.
`bench.py` beside them holds what is timed and checked of the operation, see cpu/bench.py.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.words import EnvironmentVariableError, shorten

REFERENCE = "reference"
FILES = {REFERENCE: "reference", "loops": "loops", "c": "cpu", "cuda": "cuda"}
"""The module of each version in an operation's folder."""
VARIABLE = "TINYGRAD_CHAR_KERNELS"
"""The variable of the environment that names versions: see `parse`."""


class VersionError(ValueError):
    """An operation, or a version of it, that does not exist."""


@dataclass(frozen=True)
class Room:
    """The folder of one operation."""

    name: str
    folder: Path

    @property
    def versions(self) -> list[str]:
        """The versions that it has files for."""
        return [name for name, file in FILES.items() if (self.folder / f"{file}.py").is_file()]

    def module(self, name: str) -> ModuleType:
        """Return a module of the folder, imported when it is first asked for."""
        return importlib.import_module(f"{__package__}.{self.name}.{name}")


@cache
def operations() -> Mapping[str, Room]:
    """Return the folders of all operations, by name."""
    folders = sys.modules[__package__].__path__
    found = [file.parent for folder in folders for file in Path(folder).glob("*/reference.py")]
    return {folder.name: Room(folder.name, folder) for folder in sorted(found)}


def benches(part: str) -> dict[str, Callable[..., Any]]:
    """Return the functions of that name in the operations' `bench.py`, by operation."""
    return {
        name: getattr(room.module("bench"), part)
        for name, room in operations().items()
        if (room.folder / "bench.py").is_file() and hasattr(room.module("bench"), part)
    }


def room_of(function: Callable[..., Any]) -> Room:
    """Return the folder of the operation whose reference a function belongs to.

    Raises
    ------
    VersionError
        It belongs to none.
    """
    package, _, module = (function.__module__ or "").rpartition(".")
    room = operations().get(package.rpartition(".")[2])
    if room is None or module != REFERENCE:
        raise VersionError(
            f"{function.__module__}.{function.__qualname__} is no function of an operation's "
            f"reference; expected one of {', '.join(operations())}"
        )
    return room


class Own:
    """A version that a user gives: an object with functions of the reference, equal to itself."""

    def __init__(self, functions: object) -> None:
        self.functions = functions

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own) and self.functions is other.functions

    def __hash__(self) -> int:
        return id(self.functions)

    def __str__(self) -> str:
        name = getattr(self.functions, "__name__", None)  # of modules, classes
        return name if isinstance(name, str) else type(self.functions).__name__


class FlatParameters(Protocol):
    """Parameters that lie side by side in an optimizer's buffer: see cuda.parameters."""

    def rounded(self, parameter: Array, dtype: np.dtype) -> Array | None:
        """Return a parameter in another dtype, all being rounded at once; None for a stranger."""

    def buffer(self, parameter: Array) -> Array | None:
        """Return where a parameter's gradient belongs, if nothing has been written there yet."""


@dataclass(frozen=True)
class Settings:
    """What one model, or one stretch of code, asks of the operations that it calls; None: nothing.

    `versions` are pairs of an operation and a version, see `checked`. `tf32` lets float32 products
    round their operands to ten bits after the point, on a device, and `bf16` those of linear layers
    and attention to seven, on the host. `atomics` lets gradients be added up in whatever order is
    fastest, where a device can: else the same computation gives the same bits each time. Without
    `check`, indices and targets are taken as they are, since checking would wait for a device.
    `parameters` are those of an optimizer, while a step computes with them.
    """

    versions: tuple[tuple[str, str | Own], ...] = ()
    tf32: bool | None = None
    bf16: bool | None = None
    atomics: bool | None = None
    check: bool | None = None
    parameters: FlatParameters | None = None

    @property
    def checks(self) -> bool:
        """Whether indices and targets are checked."""
        return self.check is not False

    def over(self, other: Settings | None) -> Settings:
        """Return these settings, and the other's where they ask nothing."""
        if other is None:
            return self
        versions = {**dict(other.versions), **dict(self.versions)}
        ways = {
            name: getattr(other, name)
            for name in ("tf32", "bf16", "atomics", "check", "parameters")
            if getattr(self, name) is None
        }
        return replace(self, versions=tuple(versions.items()), **ways)


_current: ContextVar[Settings | None] = ContextVar("settings", default=None)
current = _current.get
"""Return the settings of this context, None where nothing was set."""


@contextlib.contextmanager
def applying(settings: Settings) -> Iterator[None]:
    """Have operations in this context, its threads of `Workers`, and their backward, use these."""
    token = _current.set(settings)
    try:
        yield
    finally:
        _current.reset(token)


def within(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """Have operations use these settings where the context asks nothing."""
    context = _current.get()
    return applying(settings if context is None else context.over(settings))


@contextlib.contextmanager
def using(
    versions: Mapping[str, object] | None = None,
    *,
    tf32: bool | None = None,
    bf16: bool | None = None,
    atomics: bool | None = None,
    check: bool | None = None,
    parameters: FlatParameters | None = None,
    **named: object,
) -> Iterator[None]:
    """Compute with certain versions of operations, or in certain ways, while the context lasts.

        with using(layernorm="loops", attention="reference"):
            loss = model(idx, targets)
        loss.backward()  # by the versions that served forward

    Threads of `Workers` do as the thread does that gives them work. What is not named stays as it
    is; see Settings for the ways. A version may be an object with functions of the reference; what
    it does not have, or answers with NotImplemented, the reference does.

    Raises
    ------
    VersionError
        There is no such operation, or no such version of it.
    """
    wanted = tuple(checked({**(versions or {}), **named}).items())
    with applying(Settings(wanted, tf32, bf16, atomics, check, parameters).over(_current.get())):
        yield


def checked(versions: Mapping[str, object]) -> dict[str, str | Own]:
    """Return the versions by operation, objects as `Own`; VersionError where one does not exist."""
    found: dict[str, str | Own] = {}
    for name, version in versions.items():
        if name not in operations():
            raise VersionError(
                f"there is no operation {shorten(name)}; expected one of {', '.join(operations())}"
            )
        room = operations()[name]
        if isinstance(version, str) and version in room.versions:
            found[name] = version
        elif isinstance(version, Own) or _serves(room, version):
            found[name] = version if isinstance(version, Own) else Own(version)
        else:
            raise VersionError(
                f"{name} has no version {shorten(version)}; expected one of "
                f"{', '.join(room.versions)}, or an object with functions of its reference"
            )
    return found


def _serves(room: Room, version: object) -> bool:
    """Return whether an object has a function of the room's reference."""
    return any(
        callable(getattr(version, name, None))
        for name in vars(room.module(REFERENCE))
        if callable(vars(room.module(REFERENCE))[name]) and not name.startswith("_")
    )


def described(versions: Mapping[str, str | Own]) -> str:
    """Return what `parse` makes these versions of."""
    if versions == dict.fromkeys(operations(), REFERENCE):
        return REFERENCE
    return ", ".join(f"{name}={version}" for name, version in versions.items())


def parse(text: str) -> dict[str, str | Own]:
    """Return the versions that a text names: "reference" for all, or "layernorm=loops,...".

    Raises
    ------
    VersionError
        It names what does not exist.
    """
    if text in ("", "fused"):
        return {}
    if text == REFERENCE:
        return dict.fromkeys(operations(), REFERENCE)
    pairs = [each.strip().partition("=") for each in text.split(",") if each.strip()]
    for _, equals, version in pairs or [("", "", "")]:
        if not equals or not version:
            raise VersionError(
                f"expected one of fused, {REFERENCE}, or operations and their versions, such as "
                "layernorm=loops,attention=reference"
            )
    return checked({name: version for name, _, version in pairs})


@cache
def of_environment() -> dict[str, str | Own]:
    """Return the versions that the environment asks for.

    Raises
    ------
    EnvironmentVariableError
        It asks for what does not exist.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        return parse(text)
    except VersionError as error:
        raise EnvironmentVariableError(
            f"{VARIABLE}={shorten(text)} in the environment; {error}"
        ) from None
