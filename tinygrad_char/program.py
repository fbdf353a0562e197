"""The operations of a trace, repeated: by Python on raw arrays, or by a recording without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.autograd import Function, Trace
from tinygrad_char.kernels import add
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.backend import CPU
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import FLOAT32, Recording, address_of
from tinygrad_char.kernels.dropout import DropoutKey
from tinygrad_char.modes import quiet
from tinygrad_char.random import Stream
from tinygrad_char.tensor import Tensor

Batch = Any
Gradients = list[Array | None]


class Computed(NamedTuple):
    """A weighted loss and its gradients by the leaves, None for leaves that it does not reach.

    The arrays may be shared with each other, are not to be written to, and hold until `release`
    is called. `flat` has all gradients one after the other, where they lie so.
    """

    loss: float
    grads: Gradients
    flat: Array | None = None
    release: Callable[[], None] = lambda: None

    def equals(self, other: Computed) -> bool:
        """Return whether the other has the same bits, any NaN being equal to any other."""
        pairs = zip(self.grads, other.grads, strict=True)
        return np.array_equal(self.loss, other.loss, equal_nan=True) and all(
            a is b is None
            or (a is not None and b is not None and np.array_equal(a, b, equal_nan=True))
            for a, b in pairs
        )


class Program:
    """The operations of a trace, on numbered values: a batch, constants and leaves, then results.

    Its nodes keep what backward needs from one forward to the next, so it serves one call at a
    time.

    Attributes
    ----------
    checked
        Whether its results were those of the tape; for its user to set.
    """

    def __init__(
        self,
        trace: Trace,
        inputs: Sequence[Tensor],
        leaves: Sequence[Tensor] = (),
        dropout: Stream | None = None,
    ) -> None:
        self.dropout: Any = dropout
        self.checked = False
        self.inputs = [each.array for each in inputs]  # copies of the batch
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
        read_last: dict[int, int] = {}
        for number, (node, given, options, _) in enumerate(trace.operations, first):
            node.saved, node.edges, node.versions = (), None, ()
            sources = [numbers[id(each)] for each in given]
            read_last.update((each, number) for each in sources if each >= first)
            keys = [name for name, value in options.items() if isinstance(value, DropoutKey)]
            # Whether it upcasts was found out by the trace: dtypes are the same each time.
            forward = partial(_run_upcasting, node) if node.halves else node.forward
            self.forwards.append((forward, sources, options, keys))
            targets = [
                numbers[id(each)] if need else None
                for each, need in zip(given, node.needs, strict=True)
            ]
            self.backwards.append((node, number, targets))
        self.backwards.reverse()
        self.unread: list[list[int]] = [[] for _ in self.forwards]  # after each operation
        for each, reader in read_last.items():
            self.unread[reader - first].append(each)
        self.leaves = [numbers.get(id(each)) for each in leaves]
        self.count = len(numbers)
        result = trace.operations[-1].result
        self.shape, self.dtype = result.shape, result.dtype

    def is_from(self, batch: Batch) -> bool:
        """Return whether the trace was of a batch of the same numbers."""
        return _equal(self.inputs, batch)

    def run(self, batch: Batch, weight: float) -> Computed:
        """Return weight times the loss, and its gradients by the leaves."""
        loss, grads = self.compute(batch, np.full(self.shape, weight, self.dtype))
        return Computed(weight * loss.item(), grads)

    @quiet
    def compute(
        self,
        batch: Batch,
        cotangent: Array,
        see: Callable[[Array], None] | None = None,
    ) -> tuple[Array, Gradients]:
        """Return the loss and its gradients times the cotangent; `see` is shown each result."""
        loss = self.forward(batch, see)
        grads: list[Any] = [None] * self.count
        grads[-1] = cotangent
        for node, number, targets in self.backwards:
            grad, grads[number] = grads[number], None
            if grad is not None:
                if node.adds and targets[0] is not None:
                    node.addend, grads[targets[0]] = grads[targets[0]], None
                results = node.run_backward(grad)
                node.addend = None
                for target, each in zip(targets, results, strict=True):
                    if target is not None:
                        before = grads[target]
                        grads[target] = (
                            each if before is None else CPU.kernels[add.forward](before, each)
                        )
                        if see is not None:
                            see(grads[target])
            node.saved = ()
        return loss, [None if number is None else grads[number] for number in self.leaves]

    @quiet
    def forward(self, batch: Batch, see: Callable[[Array], None] | None = None) -> Array:
        """Return the last operation's result; `see` is shown each one's."""
        values = [*batch]
        values += [each.array if isinstance(each, Tensor) else each for each in self.fixed]
        for each, unread in zip(self.forwards, self.unread, strict=True):
            forward, sources, options, keys = each
            if keys:
                options = {**options, **{name: self.dropout.dropout_key() for name in keys}}
            value = forward(*[values[number] for number in sources], **options)
            values.append(value if type(value) is np.ndarray else np.asarray(value))
            if see is not None:
                see(values[-1])
            for number in unread:
                values[number] = None
        return values[-1]


def _run_upcasting(node: Function, *arrays: Any, **options: Any) -> Array:
    return node.run_forward(arrays, options)


def _equal(batch: Batch, other: Batch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(batch, other, strict=True))


class NotRecordableError(Exception):
    """The operations of a program cannot be recorded; the message says why."""


class RecordedProgram:
    """The kernels of a program, forward and backward, on memory of their own.

    A run copies the batch to where the recorded kernels read it, and repeats them.

    Attributes
    ----------
    checked
        Whether its results were those of the program; for its user to set.

    Raises
    ------
    NotRecordableError
        The extension is not built; a leaf is not float32 or is not reached; or an operation makes
        arrays by other means than recorded kernels.
    """

    def __init__(self, program: Program, batch: Batch) -> None:
        if compiled is None:
            raise NotRecordableError("the kernels in C are not there")
        self.program = program
        self.checked = False
        self.inputs = [np.array(each) for each in batch]
        self.cotangent = np.ones(program.shape, program.dtype)
        self.fixed = [(each, each.array) for each in program.fixed if isinstance(each, Tensor)]
        keys = program.dropout.keys
        before = keys.calls
        try:
            places = self._places(self._record({})[1])
            keys.calls = before
            self.loss, self.grads = self._record(places)
            self.draws = keys.calls - before
        finally:  # this batch is still to be computed
            keys.calls = before

    def _record(self, places: dict[int, np.ndarray]) -> tuple[Array, list[Array]]:
        keys = self.program.dropout.keys
        self.recording = Recording(compiled, keys.seed, keys.calls, places)
        known = [*self.inputs, self.cotangent, *(array for _, array in self.fixed)]

        def see(array: Array) -> None:
            if not self.recording.owns(array) and not any(
                np.may_share_memory(array, each) for each in known
            ):
                raise NotRecordableError(f"an array {array.dtype} {array.shape} is made otherwise")

        with self.recording.recorded():
            loss, grads = self.program.compute(self.inputs, self.cotangent, see)
        for array in self.recording.external():
            see(array)
        for each in grads:
            if each is None or each.dtype != FLOAT32 or not self.recording.owns(each):
                raise NotRecordableError("a leaf has no float32 gradient of its own")
        return loss, grads

    def _places(self, grads: list[Array]) -> dict[int, np.ndarray]:
        """Return where the recording is to put gradients, so that they follow each other."""
        numbers = {address: number for number, address in enumerate(self.recording.given)}
        self.flat = np.empty(sum(each.size for each in grads), np.float32)
        places, start = {}, 0
        for each in grads:
            number = numbers.get(address_of(each))
            if number is None or number in places or not each.flags.c_contiguous:
                raise NotRecordableError("leaves share a gradient")
            places[number] = self.flat[start : start + each.size]
            start += each.size
        return places

    def is_from(self, batch: Batch) -> bool:
        """Return whether the last batch, at first the recorded one, had the same numbers."""
        return _equal(self.inputs, batch)

    def run(self, batch: Batch, weight: float) -> Computed | None:
        """Return what the program would; None where it has to say it itself.

        So where kernels found something else about the data than in the recording, or a leaf has
        another array.
        """
        for tensor, array in self.fixed:
            if tensor.array is not array:
                return None
        for target, each in zip(self.inputs, batch, strict=True):
            target[...] = each
        self.cotangent[...] = weight
        keys = self.program.dropout.keys
        if not self.recording.run(keys.seed, keys.calls):
            return None
        keys.calls += self.draws
        return Computed(weight * self.loss.item(), list(self.grads), self.flat)
