"""A loss whose operations are traced once, and then repeated without the tape.

Most of what a step of a small model costs does not depend on its data: modules call modules,
arguments are checked, tensors and links are made and walked again. A `TracedLoss` runs the loss
once on the tape, keeps its operations in order, and from then on calls their forward and backward
on raw arrays. The results are the same to the last bit, and the second time they are compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kernels.array import Array
from kernels.dropout import DropoutKey
from tinygrad_char.autograd import Trace, is_detecting_nonfinite, leaf_gradients, tracing
from tinygrad_char.random import Stream
from tinygrad_char.tensor import Tensor

Batch = Any
Gradients = list[Array | None]


def loss_and_gradients(
    loss: Callable[[Any], Tensor], batch: Batch, weight: float, leaves: Sequence[Tensor]
) -> tuple[float, Gradients]:
    """Return weight * loss(batch), and its gradients, None for leaves that it does not reach.

    The arrays may be shared with each other and are not to be written to.
    """
    value = loss(batch)
    cotangent = value.backend.xp.full(value.shape, weight, value.dtype)
    return weight * value.item(), leaf_gradients(value, cotangent, leaves)


class TracedLoss:
    """A loss and its gradients by `leaves`, for one batch after the other.

    For each shape of a batch the first call is on the tape and the second compares; where the two
    differ, or the loss cannot be repeated, `reason` says why and every call is on the tape, as it
    is where somebody else has set a reason. Calls may come from several threads at once.

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
        self._idle: dict[Any, list[_Program]] = defaultdict(list)  # by the shapes of a batch

    def gradients(self, batch: Batch, weight: float) -> tuple[float, Gradients]:
        """Return what `loss_and_gradients` returns, for a batch that is a tuple of NumPy arrays."""
        if self.reason is not None or is_detecting_nonfinite():
            return self._on_tape(batch, weight)
        idle = self._idle[tuple((each.shape, each.dtype) for each in batch)]
        try:
            program = idle.pop()
        except IndexError:  # the first of its shape, or all are at work in other threads
            return self._record(batch, weight, idle)
        results = (
            program.run(batch, weight) if program.checked else self._check(program, batch, weight)
        )
        if program.checked:
            idle.append(program)
        return results

    def _on_tape(self, batch: Batch, weight: float) -> tuple[float, Gradients]:
        return loss_and_gradients(self.loss, batch, weight, self.leaves)

    def _record(self, batch: Batch, weight: float, idle: list[_Program]) -> tuple[float, Gradients]:
        inputs = [Tensor(each) for each in batch]
        with tracing() as trace:
            results = self._on_tape(inputs, weight)
        obstacle = trace.obstacle or _obstacle(trace, inputs)
        if obstacle is None:
            idle.append(_Program(trace, inputs, self.leaves, self.dropout))
        else:
            self.reason = obstacle
        return results

    def _check(self, program: _Program, batch: Batch, weight: float) -> tuple[float, Gradients]:
        keys = self.dropout.keys
        before = keys.calls
        expected = self._on_tape(batch, weight)
        after, keys.calls = keys.calls, before
        found = program.run(batch, weight)
        program.checked = keys.calls == after and _equal(found, expected)
        keys.calls = after
        if not program.checked:
            self.reason = "its operations, repeated on another batch, gave other results"
        return expected


def _obstacle(trace: Trace, inputs: Sequence[Tensor]) -> str | None:
    """Return why the operations cannot be repeated, None where they can."""
    taken = {id(each) for operation in trace.operations for each in operation.inputs}
    for position, each in enumerate(inputs):
        if id(each) not in taken:
            return f"array {position} of the batch reaches no operation"
    for operation in trace.operations:
        if operation.node.hooks:
            return f"a result of {type(operation.node).__name__.lower()} has hooks"
    return None


def _equal(found: tuple[float, Gradients], expected: tuple[float, Gradients]) -> bool:
    pairs = zip(found[1], expected[1], strict=True)
    return np.array_equal(found[0], expected[0], equal_nan=True) and all(
        a is b is None or (a is not None and b is not None and np.array_equal(a, b, equal_nan=True))
        for a, b in pairs
    )


class _Program:
    """The operations of a trace, on numbered values: a batch, constants and leaves, then results.

    Its nodes keep what backward needs from one forward to the next, so it serves one call at a
    time.
    """

    def __init__(
        self, trace: Trace, inputs: Sequence[Tensor], leaves: Sequence[Tensor], dropout: Stream
    ) -> None:
        self.dropout = dropout
        self.checked = False
        numbers = {id(each): number for number, each in enumerate(inputs)}
        made = {id(operation.result) for operation in trace.operations}
        self.fixed: list[Any] = []  # tensors, of which the array is read at each run, and others
        for operation in trace.operations:
            for each in operation.inputs:
                if id(each) not in made and id(each) not in numbers:
                    numbers[id(each)] = len(inputs) + len(self.fixed)
                    self.fixed.append(each)
        first = len(numbers)
        for number, operation in enumerate(trace.operations, first):
            numbers[id(operation.result)] = number
        self.forwards = []
        self.backwards: list[Any] = []
        for number, (node, given, options, _) in enumerate(trace.operations, first):
            node.saved, node.edges, node.versions = (), None, ()
            sources = [numbers[id(each)] for each in given]
            keys = [name for name, value in options.items() if isinstance(value, DropoutKey)]
            self.forwards.append((node, sources, options, keys))
            targets = [
                numbers[id(each)] if need else None
                for each, need in zip(given, node.needs, strict=True)
            ]
            self.backwards.append((node, number, targets))
        self.backwards.reverse()
        self.leaves = [numbers.get(id(each)) for each in leaves]

    def run(self, batch: Batch, weight: float) -> tuple[float, Gradients]:
        """Return weight times the loss, and its gradients by the leaves."""
        values = [*batch]
        values += [each.array if isinstance(each, Tensor) else each for each in self.fixed]
        for node, sources, options, keys in self.forwards:
            if keys:
                options = {**options, **{name: self.dropout.dropout_key() for name in keys}}
            value = node.forward(*[values[number] for number in sources], **options)
            values.append(value if type(value) is np.ndarray else np.asarray(value))
        loss = values[-1]
        grads: list[Any] = [None] * len(values)
        grads[-1] = np.full(loss.shape, weight, loss.dtype)
        for node, number, targets in self.backwards:
            grad, grads[number] = grads[number], None
            if grad is not None:
                results = node.backward(grad)
                if not isinstance(results, tuple):
                    results = (results,)
                for target, each in zip(targets, results, strict=True):
                    if target is not None:
                        before = grads[target]
                        grads[target] = each if before is None else before + each
            node.saved = ()
        return weight * loss.item(), [
            None if number is None else grads[number] for number in self.leaves
        ]
