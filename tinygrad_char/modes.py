"""What is on in a thread: grad mode, checks, and NumPy's silence about floating-point errors."""

from __future__ import annotations

import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

if TYPE_CHECKING:
    from tinygrad_char.autograd import Trace

Result = TypeVar("Result")


class ErrorState:
    """What NumPy does about floating-point errors, with the methods of a context variable."""

    set = staticmethod(lambda settings: np.seterr(**settings))
    reset = staticmethod(lambda before: np.seterr(**before))


def _error_state() -> tuple[Any, Any]:
    """Return the context variable of NumPy's that holds it, and its value where all is ignored.

    To set it takes less time than `np.errstate`, which takes as long as an operation on few
    elements. Where NumPy has no such variable, its own functions serve.
    """
    context = contextvars.Context()
    context.run(np.seterr, all="ignore")
    found = list(context.items())
    return found[0] if len(found) == 1 else (ErrorState, {"all": "ignore"})


errors, IGNORED = _error_state()


class _State:
    """What is on in a thread."""

    __slots__ = ("checking", "grad_enabled", "quiet", "trace")

    def __init__(self) -> None:
        self.grad_enabled = True
        self.checking = False
        self.quiet = False
        self.trace: Trace | None = None


class _Thread(threading.local):
    def __init__(self) -> None:
        self.state = _State()


thread = _Thread()


def quiet(function: Callable[..., Result]) -> Callable[..., Result]:
    """Decorate what computes values: log(0) is -inf and no warning, as on a GPU.

    `detect_nonfinite` is there for those who want to know. Within a call of one such function
    others find NumPy's state as they want it, and leave it.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Result:
        state = thread.state
        if state.quiet:
            return function(*arguments, **options)
        state.quiet, before = True, errors.set(IGNORED)
        try:
            return function(*arguments, **options)
        finally:
            state.quiet = False
            errors.reset(before)

    return call


class _Guard:
    """A setting of this thread, for the body of a `with` or of a decorated function.

    It may be entered again, also while it is entered, and by several threads. A decorated
    generator or coroutine has the setting whenever its own body runs, and only then.
    """

    attribute: ClassVar[str]
    value: ClassVar[bool]

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        """Return a guard, or with `@no_grad` instead of `@no_grad()` the function with one."""
        return super().__new__(cls) if function is None else cls()(function)

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        self._before: list[tuple[_State, bool]] = []  # with whose it is

    def __enter__(self) -> None:
        state = thread.state
        self._before.append((state, getattr(state, self.attribute)))
        setattr(state, self.attribute, self.value)

    def __exit__(self, *exception: object) -> None:
        state = thread.state
        for position in range(len(self._before) - 1, -1, -1):
            if self._before[position][0] is state:
                setattr(state, self.attribute, self._before.pop(position)[1])
                return

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, run under a guard of this kind."""
        if not callable(function) or isinstance(function, type):
            raise TypeError(
                f"{type(self).__name__}: decorates functions, not {function!r}; decorate its "
                "methods, or use it in a `with`"
            )
        if inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{type(self).__name__}: an asynchronous generator cannot be decorated; use "
                "`with` inside, not around its yields"
            )
        guard = type(self)

        def plain(*args: Any, **options: Any) -> Any:
            with guard():
                return function(*args, **options)

        def generator(*args: Any, **options: Any) -> Any:
            return (yield from _steps(guard, function(*args, **options)))

        async def coroutine(*args: Any, **options: Any) -> Any:
            return await _Awaited(guard, function(*args, **options))

        if inspect.isgeneratorfunction(function):
            wrapped: Callable[..., Any] = generator
        else:
            wrapped = coroutine if inspect.iscoroutinefunction(function) else plain
        return functools.wraps(function)(wrapped)


class _Awaited:
    """A coroutine of which each step runs under a guard."""

    def __init__(self, guard: Callable[[], _Guard], coroutine: Any) -> None:
        self._guard, self._coroutine = guard, coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        return _steps(self._guard, self._coroutine.__await__())


def _steps(guard: Callable[[], _Guard], body: Any) -> Generator[Any, Any, Any]:
    """Run a generator, each step of it under a guard, which is off where it waits."""
    action, argument = body.send, None
    try:
        while True:
            try:
                with guard():
                    given = action(argument)
            except StopIteration as end:
                return end.value
            try:
                action, argument = body.send, (yield given)
            except GeneratorExit:
                raise
            except BaseException as error:  # which the consumer throws into the body
                action, argument = body.throw, error
    finally:
        with guard():
            body.close()


class no_grad(_Guard):  # noqa: N801 (PyTorch's name)
    """Record nothing in this thread: results need no gradient and save nothing.

    A context manager, and a decorator for functions, generators and coroutines.
    """

    attribute, value = "grad_enabled", False


class enable_grad(_Guard):  # noqa: N801
    """Record again, within `no_grad`: the same uses."""

    attribute, value = "grad_enabled", True


class detect_nonfinite(_Guard):  # noqa: N801
    """Check every result, forward and backward, in this thread: the same uses as `no_grad`.

    An operation may pass on the -inf of a mask that an input holds, not make one.

    Raises
    ------
    NonFiniteError
        At the first operation that produced a NaN or an infinity: it is named, with the ranges
        of its inputs.
    """

    attribute, value = "checking", True


def is_grad_enabled() -> bool:
    """Return whether operations of this thread go on the tape."""
    return thread.state.grad_enabled


def is_detecting_nonfinite() -> bool:
    """Return whether `detect_nonfinite` is on in this thread."""
    return thread.state.checking
