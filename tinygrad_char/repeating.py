"""Whether steps are repeated without the tape, or each of them runs on it, and why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Literal

from tinygrad_char.kernels.backend import Backend
from tinygrad_char.kernels.words import choice
from tinygrad_char.modes import is_detecting_nonfinite
from tinygrad_char.nn.module import has_forward_hooks

Way = Literal["recorded", "tape"]
WAYS: tuple[Way, ...] = ("recorded", "tape")
VARIABLE = "TINYGRAD_CHAR_STEP"
"""The variable of the environment that names one of the ways."""

_way: ContextVar[str | None] = ContextVar("step", default=None)


@contextmanager
def stepping(way: str) -> Iterator[None]:
    """Have steps run on the tape, each of them, or be recorded and repeated where that is possible.

    On the tape a print or a breakpoint in any forward or backward pass is met at every step. The
    results are the same.

    Raises
    ------
    ValueError
        The way is neither "recorded" nor "tape".
    """
    if way not in WAYS:
        raise ValueError(f"stepping: way={way!r}, expected one of {', '.join(WAYS)}")
    token = _way.set(way)
    try:
        yield
    finally:
        _way.reset(token)


@cache
def way_of_environment() -> str:
    """Return the way that the environment asks for; EnvironmentVariableError for another one."""
    return choice(VARIABLE, WAYS, "recorded")


def why_on_tape(backend: Backend) -> str | None:
    """Return why every step runs on the tape, in this context; None where it may be repeated."""
    way = _way.get()
    if way == "tape" or (way is None and way_of_environment() == "tape"):
        return "--step tape" if way else f"{VARIABLE}=tape in the environment"
    if is_detecting_nonfinite():
        return "detect_nonfinite looks at every operation"
    if has_forward_hooks():
        return "modules have hooks"
    if versions := backend.chosen().in_python:
        return f"{versions} is Python code, which nothing records"
    return None


def describe_step(backend: Backend) -> str:
    """Say in words how steps are computed in this context, and why."""
    if why := why_on_tape(backend):
        return f"each on the tape: {why}"
    if backend.captures:
        return "captured as one graph, and replayed"
    if why := backend.chosen().not_in_c:
        return f"repeated by Python: {why}"
    return "recorded, and repeated without Python"
