"""A loss whose operations are traced once, and then repeated without the tape.

Most of what a step of a small model costs does not depend on its data: modules call modules,
arguments are checked, tensors and links are made and walked again. A `TracedLoss` runs the loss
once on the tape, keeps its operations in order, and from then on calls their forward and backward
on raw arrays. Where these are nothing but kernels in C, it then records which kernels they call,
with which memory, and repeats these without Python, see kernels/cpu/recording.py. The results are
the same to the last bit: either way of repeating is compared with the one before when it is first
used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_char.autograd import Trace, leaf_gradients, tracing
from tinygrad_char.kernels.array import Array, native
from tinygrad_char.kernels.backend import CPU, Backend
from tinygrad_char.modes import no_grad, quiet
from tinygrad_char.program import (
    Batch,
    Computed,
    Gradients,
    NotRecordableError,
    Program,
    RecordedProgram,
)
from tinygrad_char.random import Stream
from tinygrad_char.repeating import why_on_tape
from tinygrad_char.tensor import Tensor


@quiet
def loss_and_gradients(
    loss: Callable[[Any], Tensor], batch: Batch, weight: float, leaves: Sequence[Tensor]
) -> Computed:
    """Return weight * loss(batch), and its gradients."""
    value = loss(batch)
    cotangent = value.backend.xp.full(value.shape, weight, value.dtype)
    return Computed(weight * value.item(), leaf_gradients(value, cotangent, leaves))


class TracedLoss:
    """A loss and its gradients by `leaves`, for one batch after the other.

    For each shape of a batch the first call is on the tape and the second compares; where the two
    differ, or the loss cannot be repeated, `reason` says why and every call is on the tape, as it
    is where somebody else has set a reason. The third call records and the fourth compares again;
    where that is not possible, `not_recorded` says why, and Python repeats the operations. A batch
    that is the same as the one before proves nothing, and waits for another. Calls may come from
    several threads at once, where each draws dropout keys of its own, see Stream.using.

    Parameters
    ----------
    loss
        Gives the loss, of one element, of a batch: the same operations each time, on the batch's
        own numbers, and nothing besides.
    leaves
        The tensors whose gradients are wanted.
    dropout
        The stream of dropout keys that `loss` draws from.
    """

    def __init__(
        self, loss: Callable[[Any], Tensor], leaves: Sequence[Tensor], dropout: Stream
    ) -> None:
        self.loss, self.leaves, self.dropout = loss, leaves, dropout
        self.reason: str | None = None
        self.not_recorded: str | None = None
        self._idle: dict[Any, list[_Repeated]] = defaultdict(
            list
        )  # by shapes, what the leaves are, and the versions that serve

    def gradients(self, batch: Batch, weight: float) -> tuple[float, Gradients]:
        """Return weight * loss(batch) and its gradients, for a batch of NumPy arrays.

        None for leaves that it does not reach; the arrays may be shared with each other.
        """
        computed = self.compute(batch, weight)
        grads = [None if each is None else each.copy() for each in computed.grads]
        computed.release()
        return computed.loss, grads

    def compute(self, batch: Batch, weight: float) -> Computed:
        """Return the same in arrays that are used again after `release` is called."""
        batch = tuple(map(native, batch))
        if self.reason is not None or why_on_tape(CPU) is not None:
            return self._on_tape(batch, weight)
        shapes = tuple((each.shape, each.dtype) for each in batch)
        trained = tuple([each.requires_grad for each in self.leaves])  # quicker than generators
        dtypes = tuple([each.array.dtype for each in self.leaves])
        idle = self._idle[shapes, trained, dtypes, CPU.chosen()]
        try:
            repeated = idle.pop()
        except IndexError:  # the first of its shape, or all are at work in other threads
            return self._trace(batch, weight, idle)
        if not repeated.program.checked:
            computed = self._check(repeated.program, batch, weight)
        else:
            computed = self._repeat(repeated, batch, weight)
        if self.reason is None:
            return computed._replace(release=lambda: idle.append(repeated))
        return computed

    def _on_tape(self, batch: Batch, weight: float) -> Computed:
        return loss_and_gradients(self.loss, batch, weight, self.leaves)

    def _trace(self, batch: Batch, weight: float, idle: list[_Repeated]) -> Computed:
        inputs = [Tensor(each) for each in batch]
        results = []

        def loss(batch: Batch) -> Tensor:
            results.append(self.loss(batch))
            return results[-1]

        with tracing() as trace:
            computed = loss_and_gradients(loss, inputs, weight, self.leaves)
        obstacle = trace.obstacle or _obstacle(trace, inputs, results[-1])
        if obstacle is None:
            idle.append(_Repeated(Program(trace, inputs, self.leaves, self.dropout)))
        else:
            self.reason = obstacle
        return computed

    def _check(self, program: Program, batch: Batch, weight: float) -> Computed:
        if program.is_from(batch):
            return self._on_tape(batch, weight)
        expected, found, same = self._both(
            lambda: self._on_tape(batch, weight), lambda: program.run(batch, weight)
        )
        program.checked = same and found is not None and found.equals(expected)
        if not program.checked:
            self.reason = "its operations, repeated on another batch, gave other results"
        return expected

    def _both(
        self, first: Callable[[], Computed], second: Callable[[], Computed | None]
    ) -> tuple[Computed, Computed | None, bool]:
        """Call both with the same dropout keys; return also whether they drew as many."""
        keys = self.dropout.keys
        before = keys.calls
        expected = first()
        after, keys.calls = keys.calls, before
        found = second()
        same, keys.calls = keys.calls == after, after
        return expected, found, same

    def _repeat(self, repeated: _Repeated, batch: Batch, weight: float) -> Computed:
        program, recorded = repeated.program, repeated.recorded
        if recorded is None:
            if self.not_recorded is None and CPU.chosen().not_in_c is None:
                try:
                    repeated.recorded = RecordedProgram(program, batch)
                except NotRecordableError as error:
                    self.not_recorded = str(error)
            return program.run(batch, weight)
        if not recorded.checked:
            if recorded.is_from(batch):
                return program.run(batch, weight)
            expected, found, same = self._both(
                lambda: program.run(batch, weight), lambda: recorded.run(batch, weight)
            )
            recorded.checked = same and found is not None and found.equals(expected)
            if not recorded.checked:
                repeated.recorded = None
                self.not_recorded = "its kernels, repeated on another batch, gave other results"
            return expected
        found = recorded.run(batch, weight)
        if found is None:
            repeated.recorded = None  # to be recorded again
            return program.run(batch, weight)
        return found


class TracedCall:
    """A function of arrays whose operations are traced once, and then repeated without the tape.

    For results of which no gradient is wanted, on arrays of the same shapes at each call: the
    first call is traced and the second compared. Where the two differ, or the call cannot be
    repeated, `reason` says why, and the function itself is called every time.

    Parameters
    ----------
    function
        Gives a tensor for tensors on the CPU: the same operations each time, on the arrays' own
        numbers. What it keeps besides is for operations to change, such as a key/value cache.
    undo
        Takes that back to what it was before the last call.
    """

    def __init__(self, function: Callable[..., Tensor], undo: Callable[[], None]) -> None:
        self.function, self.undo = function, undo
        self.reason: str | None = None
        self._programs: dict[Backend, Program] = {}  # by the versions that serve

    def __call__(self, *arrays: np.ndarray) -> Array:
        """Return the result's array."""
        arrays = tuple(map(native, arrays))
        if self.reason is not None or why_on_tape(CPU) is not None:
            return self._on_tape(arrays)
        program = self._programs.get(CPU.chosen())
        if program is None:
            return self._trace(arrays)
        if program.checked:
            return program.forward(arrays)
        if program.is_from(arrays):
            return self._on_tape(arrays)
        expected = self._on_tape(arrays)
        self.undo()
        found = program.forward(arrays)
        program.checked = np.array_equal(found, expected, equal_nan=True)
        if not program.checked:
            self.reason = "its operations, repeated on other arrays, gave other results"
        return expected

    @quiet
    def _on_tape(self, arrays: Sequence[np.ndarray]) -> Array:
        with no_grad():
            return self.function(*(Tensor(each) for each in arrays)).array

    @quiet
    def _trace(self, arrays: Sequence[np.ndarray]) -> Array:
        inputs = [Tensor(each) for each in arrays]
        with no_grad(), tracing() as trace:
            result = self.function(*inputs)
        self.reason = trace.obstacle or _obstacle(trace, inputs, result)
        if self.reason is None:
            self._programs[CPU.chosen()] = Program(trace, inputs)
        return result.array


class _Repeated:
    """A program, and its recording where there is one."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.recorded: RecordedProgram | None = None


def _obstacle(trace: Trace, inputs: Sequence[Tensor], result: Tensor) -> str | None:
    """Return why the operations cannot be repeated, None where they can."""
    if not trace.operations or trace.operations[-1].result is not result:
        return "the last operation's result is not the one that is returned"
    taken = {id(each) for operation in trace.operations for each in operation.inputs}
    for position, each in enumerate(inputs):
        if id(each) not in taken:
            return f"array {position} of the batch reaches no operation"
    for operation in trace.operations:
        if versions := operation.node.backend.in_python:
            return f"{versions} is Python code, which nothing records"
        if operation.node.hooks:
            return f"a result of {type(operation.node).__name__.lower()} has hooks"
    return None
