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
from tinygrad_char.kernels.cpu.recorder import Keys, Results
from tinygrad_char.kernels.words import choice
from tinygrad_char.modes import is_detecting_nonfinite, quiet, thread
from tinygrad_char.nn import has_forward_hooks, modules_state
from tinygrad_char.random import DropoutKeys
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
MOST_STOPS = 4
"""After how many repetitions that stop halfway a step is given up, if fewer did not."""


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


def _no_keys() -> DropoutKeys:
    return DropoutKeys(0)


class Step:
    """What is computed from arrays of fixed place, for one batch after the other.

    The first call is on the tape; the second, too, and is recorded; the third is on the tape and
    compares it with a repetition; from then on each call is one. A batch that is the recorded one
    proves nothing, and the comparison waits for another; an array that is first another one later
    is compared then. A step serves one thread at a time.

    Parameters
    ----------
    backend
        Of the arrays; it has a recorder.
    compute
        Computes on the tape, from `inputs.device` and from tensors, and returns arrays, or None:
        the same operations each time, on the arrays' own elements, and nothing besides. Where it
        cannot be recorded, it may be called once more.
    inputs
        The arrays of fixed place.
    batch
        The positions among the inputs of those that differ from batch to batch.
    keys
        Gives the dropout keys that `compute` draws from, if it does.
    changing
        Gives the arrays besides the results that `compute` changes; of those with one element it
        takes back what a repetition did that stops halfway.
    exact
        Whether the device adds up in the same order each time; else results need only be close.
    warm
        Whether `compute`, or what it calls, was called before: then the first call is recorded.

    Attributes
    ----------
    why_not
        Why nothing is repeated: the last call's results are right, and further ones are the
        caller's to compute.
    repeat
        Does it again, once it is recorded: see recorder.Recorded.
    results
        What it then writes to.
    """

    def __init__(
        self,
        backend: Backend,
        compute: Callable[[], Results],
        inputs: Inputs,
        batch: Sequence[int],
        *,
        keys: Callable[[], Keys] = _no_keys,
        changing: Callable[[], Sequence[Array]] = lambda: (),
        exact: bool = True,
        warm: bool = False,
    ) -> None:
        assert backend.recorder is not None
        self.backend, self.inputs = backend, inputs
        self.why_not: str | None = None
        self.repeat: Callable[[Keys], bool] | None = None
        self.results: Results = ()
        self._recorder, self._compute = backend.recorder, quiet(compute)
        self._batch, self._keys, self._exact = batch, keys, exact
        self._changing_besides = changing
        self._warm, self._checked = warm, False
        self._draws = self._stops = self._runs = 0

    @property
    def repeats(self) -> bool:
        """Whether the next call is a repetition."""
        return self.repeat is not None and self._checked

    def __call__(self, arrays: Sequence[np.ndarray]) -> Results:
        """Return the results for inputs of these values. They hold until the next call."""
        self.inputs.fill(arrays)
        if not self._warm:
            self._warm = True
            return self._recorder.warm_up(self._compute)
        if self.repeat is None or not self._is_current():
            return self._record(arrays)
        others = [
            each for each, was in self._unproven.items() if not np.array_equal(arrays[each], was)
        ]
        if others:
            return self._compare(arrays, others)
        if not self._checked:
            return self._recorder.warm_up(self._compute)
        found = self._again()
        return self._record(arrays) if found is None else found

    def arrange(self, results: Results) -> Results:
        """Return the arrays that repetitions of a new recording write to: as it is, its results."""
        return results

    def _record(self, arrays: Sequence[np.ndarray]) -> Results:
        self.repeat, self._checked = None, False
        seen = _Seen([*self.inputs.device], self._changing_besides)
        keys = self._keys()
        before = keys.calls
        with tracing(seen):
            recorded = self._recorder.record(self._compute, keys, seen.arrays)
        self._draws = keys.calls - before
        self.why_not = seen.why_not or recorded.why_not
        if seen.changed and not self._recorder.records_changes:
            self.why_not = seen.why_not or "a tensor is changed in place"
        if self._stops > MOST_STOPS and self._stops > self._runs:
            self.why_not = "what kernels find out about the data differs from batch to batch"
        if self.why_not is None:
            self.repeat = recorded.repeat
            self._fixed, self._changed = seen.fixed, [each.array for each in seen.changed_outside()]
            self._as_recorded = self._held()
            self._unproven = {each: np.array(arrays[each]) for each in self._batch}
            self.results = self.arrange(recorded.results)
        return recorded.results

    def _changing(self) -> list[Array]:
        return [*self._changing_besides(), *self._changed]

    def _held(self) -> tuple[Any, ...]:
        """Return what a recording takes for granted, besides the arrays of tensors."""
        return (modules_state(), *map(id, self._changing_besides()))

    def _is_current(self) -> bool:
        """Return whether what the recording uses still has the same arrays, in the same modules."""
        # A list is quicker than a generator.
        same = False not in [tensor.array is array for tensor, array in self._fixed]
        return same and self._as_recorded == self._held()

    def _again(self) -> Results | None:
        """Repeat; return the results, None where it stopped halfway."""
        assert self.repeat is not None
        keys = self._keys()
        counts = [(each, each.item()) for each in self._changing() if _counts(each)]
        if not self.repeat(keys):
            self._stops += 1
            for array, value in counts:
                array[...] = value
            return None
        self._runs += 1
        keys.calls += self._draws
        return self.results

    def _compare(self, arrays: Sequence[np.ndarray], others: Sequence[int]) -> Results:
        """Compute both ways; where the results are the same, that is proven for other arrays."""
        keys = self._keys()
        before, first_call = self._copies(), keys.calls
        expected = self._recorder.warm_up(self._compute)
        after, calls = self._copies(), keys.calls
        self._put_back(before)
        self.inputs.fill(arrays)  # in which the device may have counted
        keys.calls = first_call
        found = self._again()
        same = keys.calls == calls
        if found is not None:
            pairs = zip([*found, *self._changing()], [*expected, *after], strict=True)
            same = same and all(self._equal(*each) for each in pairs)
        keys.calls = calls
        self._put_back(after)
        if found is None:
            self.repeat = None  # to be recorded anew
        elif not same:
            self.repeat = None
            self.why_not = "its operations, repeated on another batch, gave other results"
        elif not any(self._is_nan(each) for each in expected):  # which is equal to any other
            self._checked = True
            for each in others:
                del self._unproven[each]
        return expected

    def _copies(self) -> list[np.ndarray]:
        return [np.array(self.backend.to_numpy(each)) for each in self._changing()]

    def _put_back(self, copies: Sequence[np.ndarray]) -> None:
        for array, each in zip(self._changing(), copies, strict=True):
            array[...] = self.backend.from_numpy(each)

    def _host(self, array: Array) -> np.ndarray:
        return array if type(array) is np.ndarray else self.backend.to_numpy(array)

    def _equal(self, found: Array | None, expected: Array | None) -> bool:
        """Return whether both have the same bits, any NaN being equal to any other."""
        if found is None or expected is None:
            return found is expected
        a, b = self._host(found), self._host(expected)
        if self._exact or a.dtype.kind != "f":
            return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        finite = np.isfinite(b)
        if not np.array_equal(np.isfinite(a), finite):
            return False
        difference = np.linalg.norm(a[finite].astype(np.float64) - b[finite])
        return bool(difference <= CLOSE * np.linalg.norm(b[finite]))

    def _is_nan(self, array: Array | None) -> bool:
        return array is not None and bool(np.isnan(self._host(array)).any())


def _counts(array: Array) -> bool:
    return array.size == 1 and namespace(array) is np


class _Seen(Trace):
    """What the operations of a recording take from outside, and what they change there.

    Attributes
    ----------
    fixed
        The tensors that none of them made, with their arrays: leaves and constants.
    changed
        The tensors that are changed in place.
    why_not
        Why to repeat what they have devices do would not repeat them.
    """

    def __init__(self, inputs: Sequence[Array], changing: Callable[[], Sequence[Array]]) -> None:
        super().__init__()
        self.fixed: list[tuple[Tensor, Array]] = []
        self.changed: list[Tensor] = []
        self.why_not: str | None = None
        self._inputs, self._changing = inputs, changing
        self._known: set[int] = set()
        self._made: dict[int, weakref.ref[Tensor]] = {}

    def add(self, operation: Operation) -> None:
        """Take an operation; the results are not held, so that their memory is used again."""
        for each in operation.inputs:
            if isinstance(each, Tensor) and id(each) not in self._known and not self._makes(each):
                self._known.add(id(each))
                self.fixed.append((each, each.array))
        self._made[id(operation.result)] = weakref.ref(operation.result)
        if versions := operation.node.backend.in_python:
            self.why_not = f"{versions} is Python code, which nothing records"

    def note_change(self, tensor: Any) -> None:
        """Take a tensor that is changed in place."""
        self.changed.append(tensor)

    def note_hook(self, name: str) -> None:
        """Take the name of an operation of which a hook sees the gradient."""
        self.why_not = f"a result of {name} has hooks"

    def changed_outside(self) -> list[Tensor]:
        """Return what no operation made of the changed tensors, and of those that they view."""
        found = {}
        for each in self.changed:
            base = each._view[0] if each._view and each._view[0] is not None else each
            if not self._makes(base):
                found[id(base)] = base
        return list(found.values())

    def _makes(self, tensor: Tensor) -> bool:
        made = self._made.get(id(tensor))
        return made is not None and made() is tensor

    def arrays(self) -> list[Array]:
        """Return the arrays that were given to operations and that none of them made."""
        return [*self._inputs, *self._changing(), *(array for _, array in self.fixed)]
