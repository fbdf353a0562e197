"""Work that is done again and again: on the tape, then recorded, and from then on repeated.

Most of what a step of a small model costs does not depend on its data: modules call modules,
arguments are checked, tensors and links are made and walked again. So a `Step` computes on the
tape, has the backend's recorder take note of which kernels that calls, with which memory, and
compares what the recording gives for other data, once and to the last bit, with the tape. From
then on it repeats the recording, without the tape and mostly without Python.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal

import numpy as np

from tinygrad_char.autograd import Operation, Trace, tracing
from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.backend import Backend
from tinygrad_char.kernels.recorder import Keys, Results
from tinygrad_char.kernels.words import choice
from tinygrad_char.modes import is_detecting_nonfinite, quiet, thread
from tinygrad_char.nn import has_forward_hooks
from tinygrad_char.tensor import Tensor

Way = Literal["recorded", "tape"]
WAYS: tuple[Way, ...] = ("recorded", "tape")
VARIABLE = "TINYGRAD_CHAR_STEP"
"""The variable of the environment that names one of the ways."""

_way: ContextVar[str | None] = ContextVar("step", default=None)

UNIT = 64
"""Bytes of which each array's place among the inputs is a multiple: a cache line."""
CLOSE = 1e-3
"""How far, in parts of its norm, a result may be from another where additions have no order."""


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
    if thread.state.trace is not None:
        return "the operations are traced"
    return backend.chosen().why_not_recorded


def describe_step(backend: Backend) -> str:
    """Say in words how steps are computed in this context, and why."""
    if why := why_on_tape(backend):
        return f"each on the tape: {why}"
    if not backend.shards_batches:
        return "recorded as one graph, and repeated"
    return "recorded, and repeated without Python"


class Inputs:
    """Arrays of fixed place, side by side, so that one copy takes all of them to a device."""

    def __init__(self, backend: Backend, arrays: Sequence[np.ndarray]) -> None:
        assert backend.recorder is not None
        ends = np.cumsum([-(-each.nbytes // UNIT) * UNIT for each in arrays]).tolist()
        size = ends[-1] if ends else 0
        self._host = backend.recorder.host_buffer(size)
        here = backend.in_host_memory
        self._device: Any = self._host if here else backend.xp.empty(size, np.uint8)
        self.host, self.device = (
            [
                memory[start : start + each.nbytes].view(each.dtype).reshape(each.shape)
                for each, start in zip(arrays, [0, *ends], strict=False)
            ]
            for memory in (self._host, self._device)
        )

    def fit(self, arrays: Sequence[np.ndarray]) -> bool:
        """Return whether these have the shapes and dtypes of the places."""
        return [(each.shape, each.dtype) for each in arrays] == [
            (each.shape, each.dtype) for each in self.host
        ]

    def fill(self, arrays: Sequence[np.ndarray]) -> None:
        """Give the arrays on the device these values."""
        for target, each in zip(self.host, arrays, strict=True):
            target[...] = each
        if self._device is not self._host:
            self._device.set(self._host)


def tensor_of(backend: Backend, array: Array) -> Tensor:
    """Return a tensor around an array, not copied."""
    return Tensor([], device=backend.name)._result(array)


class Step:
    """What is computed from arrays of fixed place, for one batch after the other.

    The first call is on the tape; the second, too, and is recorded; the third is on the tape and
    compares it with a repetition; from then on each call is one. A batch that is the same as the
    one before proves nothing, and the comparison waits for another.

    Parameters
    ----------
    backend
        Of the arrays; it has a recorder.
    compute
        Computes on the tape, from `inputs.device` and from tensors, and returns arrays, or None:
        the same operations each time, on the arrays' own elements, and nothing besides.
    inputs
        The arrays of fixed place.
    keys
        Gives the dropout keys that `compute` draws from.
    changing
        Gives the arrays besides the results that `compute` changes; of those with one element it
        takes back what a repetition did that stops halfway.
    needed
        The positions of the inputs that have to reach an operation: the batch's.
    exact
        Whether the device adds up in the same order each time; else results need only be close.
    warm
        Whether `compute`, or what it calls, was called before: then the first call is recorded.

    Attributes
    ----------
    why_not
        Why nothing is repeated: the last call's results are right, and further ones are the
        caller's to compute.
    """

    def __init__(
        self,
        backend: Backend,
        compute: Callable[[], Results],
        inputs: Inputs,
        *,
        keys: Callable[[], Any],
        changing: Callable[[], Sequence[Array]] = lambda: (),
        needed: Sequence[int] = (),
        exact: bool = True,
        warm: bool = False,
    ) -> None:
        assert backend.recorder is not None
        self.backend, self.inputs = backend, inputs
        self.why_not: str | None = None
        self.results: Results = ()
        self._recorder, self._compute = backend.recorder, quiet(compute)
        self._keys, self._changing = keys, changing
        self._needed, self._exact = needed, exact
        self._warm, self._checked = warm, False
        self._fixed: Sequence[tuple[Tensor, Array]] = ()
        self._changed: Sequence[Array] = ()
        self.repeat: Callable[[Keys], bool] | None = None
        self._draws = 0

    @property
    def repeats(self) -> bool:
        """Whether the next call is a repetition."""
        return self.repeat is not None and self._checked

    def __call__(self, arrays: Sequence[np.ndarray]) -> Results:
        """Return the results for inputs of these values. They hold until the next call."""
        same = not self._checked and all(
            np.array_equal(self.inputs.host[each], arrays[each]) for each in self._needed
        )
        self.inputs.fill(arrays)
        if not self._warm:
            self._warm = True
            return self._recorder.warm_up(self._compute)
        if self.repeat is None or not self._is_current():
            return self._record()
        if self._checked:
            return self._again() or self._record()
        return self._recorder.warm_up(self._compute) if same else self._compare(arrays)

    def arrange(self, results: Results) -> Results:
        """Return the arrays that repetitions of a new recording write to: as it is, its results."""
        return results

    def _record(self) -> Results:
        self.repeat, self._checked = None, False
        seen = _Seen(self.inputs.device, self._needed, self._changing)
        keys = self._keys()
        before = keys.calls
        with tracing(seen):
            recorded = self._recorder.record(self._compute, keys, seen)
        self._draws = keys.calls - before
        self.why_not, self.repeat = recorded.why_not, recorded.repeat
        if self.repeat is not None:
            self._fixed, self._changed = seen.fixed, self._changing()
            self.results = self.arrange(recorded.results)
        return recorded.results

    def _is_current(self) -> bool:
        """Return whether what the recording uses still has the same arrays."""
        # Lists are quicker than generators.
        return False not in [tensor.array is array for tensor, array in self._fixed] and list(
            map(id, self._changed)
        ) == list(map(id, self._changing()))

    def _again(self) -> Results | None:
        """Repeat; return the results, None where it stopped halfway."""
        assert self.repeat is not None
        keys = self._keys()
        counts = [(each, each.item()) for each in self._changing() if _counts(each)]
        if not self.repeat(keys):
            for array, value in counts:
                array[...] = value
            return None
        keys.calls += self._draws
        return self.results

    def _compare(self, arrays: Sequence[np.ndarray]) -> Results:
        keys = self._keys()
        before, first_call = self._copies(), keys.calls
        expected = self._recorder.warm_up(self._compute)
        after, calls = self._copies(), keys.calls
        self._put_back(before)
        self.inputs.fill(arrays)  # in which the device may have counted
        keys.calls = first_call
        found = self._again()
        same_keys, keys.calls = keys.calls == calls, calls
        if found is not None:
            found = [*found, *self._changing()]
            pairs = zip(found, [*expected, *after], strict=True)
            self._checked = same_keys and all(self._equal(*each) for each in pairs)
        if not self._checked:
            self._put_back(after)
            self.repeat = None  # to be recorded anew, where only the data was another
            if found is not None:
                self.why_not = "its operations, repeated on another batch, gave other results"
        return expected

    def _copies(self) -> list[np.ndarray]:
        return [np.array(self.backend.to_numpy(each)) for each in self._changing()]

    def _put_back(self, copies: Sequence[np.ndarray]) -> None:
        for array, each in zip(self._changing(), copies, strict=True):
            array[...] = self.backend.from_numpy(each)

    def _equal(self, found: Array | None, expected: Array | None) -> bool:
        """Return whether both have the same bits, any NaN being equal to any other."""
        if found is None or expected is None:
            return found is expected
        a, b = (
            each if type(each) is np.ndarray else self.backend.to_numpy(each)
            for each in (found, expected)
        )
        if self._exact or a.dtype.kind != "f":
            return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        norm = np.linalg.norm(b.astype(np.float64))
        return not np.linalg.norm(a.astype(np.float64) - b) > CLOSE * norm


def _counts(array: Array) -> bool:
    return array.size == 1 and namespace(array) is np


class _Seen(Trace):
    """What the operations of a recording take from outside.

    Attributes
    ----------
    fixed
        The tensors that none of them made, with their arrays: leaves and constants.
    """

    def __init__(
        self,
        inputs: Sequence[Array],
        needed: Sequence[int],
        changing: Callable[[], Sequence[Array]],
    ) -> None:
        super().__init__()
        self.fixed: list[tuple[Tensor, Array]] = []
        self._inputs, self._changing = inputs, changing
        self._unread = {id(inputs[number]): number for number in needed}
        self._known: set[int] = set()
        self._made: dict[int, weakref.ref[Tensor]] = {}

    def add(self, operation: Operation) -> None:
        """Take an operation; the results are not held, so that their memory is used again."""
        for each in operation.inputs:
            if not isinstance(each, Tensor) or id(each) in self._known:
                continue
            made = self._made.get(id(each))
            if made is None or made() is not each:
                self._known.add(id(each))
                self.fixed.append((each, each.array))
                self._unread.pop(id(each.array), None)
        self._made[id(operation.result)] = weakref.ref(operation.result)
        if versions := operation.node.backend.in_python:
            self.obstacle = f"{versions} is Python code, which nothing records"

    def why_not(self) -> str | None:
        """Return why to repeat the calls of kernels alone would not repeat them all."""
        if self._unread and self.obstacle is None:
            return f"array {min(self._unread.values())} of the batch reaches no operation"
        return self.obstacle

    def arrays(self) -> list[Array]:
        """Return the arrays that were given to operations and that none of them made."""
        return [*self._inputs, *self._changing(), *(array for _, array in self.fixed)]
