"""A loss, and a function of arrays, that are recorded on the CPU and then repeated: see step.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.autograd import leaf_gradients
from tinygrad_char.kernels.array import Array, native
from tinygrad_char.kernels.backend import CPU, Backend
from tinygrad_char.kernels.cpu.recorder import Results
from tinygrad_char.kernels.cpu.recording import Recording
from tinygrad_char.modes import is_grad_enabled, no_grad, quiet
from tinygrad_char.random import Stream
from tinygrad_char.step import Inputs, Step, tensor_of, why_on_tape
from tinygrad_char.tensor import Tensor

MOST_STEPS = 64
"""Of different shapes, of a loss or a call; for more, what was recorded is recorded anew."""
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


@quiet
def loss_and_gradients(
    loss: Callable[[Any], Tensor], batch: Batch, weight: float, leaves: Sequence[Tensor]
) -> Computed:
    """Return weight * loss(batch), and its gradients."""
    value = loss(batch)
    cotangent = value.backend.xp.full(value.shape, weight, value.dtype)
    return Computed(weight * value.item(), leaf_gradients(value, cotangent, leaves))


def _not_here(backend: Backend) -> str:
    return f"device {backend.name!r} records whole updates alone"


class _Idle(dict[Hashable, list[Step]]):
    """The steps that no thread uses, by what they serve."""

    def take(self, key: Hashable) -> Step | None:
        """Return one for this thread, None where there is none; `give` it back."""
        try:
            return self[key].pop()
        except (KeyError, IndexError):  # the first, or all are at work in other threads
            return None

    def give(self, key: Hashable, step: Step) -> None:
        if len(self) >= MOST_STEPS and key not in self:
            self.clear()
        self.setdefault(key, []).append(step)


class RepeatedLoss:
    """A loss and its gradients by `leaves`, for one batch after the other.

    For each shape of a batch the first call is on the tape, the second is recorded, the third
    compares, and further ones repeat. Where the loss cannot be recorded, or its repetition differs,
    `reason` says why and every call is on the tape, as it is where somebody else has set a reason.
    Calls may come from several threads at once, where each draws dropout keys of its own, see
    Stream.using.

    Parameters
    ----------
    loss
        Gives the loss, of one element, of a batch of tensors: the same operations each time, on
        the batch's own elements, and nothing besides. Tensors that it keeps may be written to by
        further calls.
    leaves
        The tensors whose gradients are wanted.
    dropout
        The stream of dropout keys that `loss` draws from.
    """

    def __init__(
        self, loss: Callable[[Any], Tensor], leaves: Sequence[Tensor], dropout: Stream
    ) -> None:
        self.loss, self.leaves, self.dropout = loss, leaves, dropout
        self._backend = next((each.backend for each in leaves if each.backend is not CPU), CPU)
        self.reason = None if self._backend is CPU else _not_here(self._backend)
        self._idle = _Idle()

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
        key = (shapes, trained, dtypes, is_grad_enabled(), CPU.chosen())
        step = self._idle.take(key)
        if step is None:
            if not any(each.dtype.hasobject for each in batch):
                self._idle.give(key, _LossStep(self, batch))
            return self._on_tape(batch, weight)
        assert isinstance(step, _LossStep)
        computed = step.compute(batch, weight)
        self.reason = self.reason or step.why_not
        return computed._replace(release=lambda: self._idle.give(key, step))

    def _on_tape(self, batch: Batch, weight: float) -> Computed:
        backend = self._backend
        tensors = [tensor_of(backend, backend.from_numpy(each)) for each in batch]
        return loss_and_gradients(self.loss, tensors, weight, self.leaves)


class _LossStep(Step):
    """The loss of batches of one shape, and its gradients."""

    def __init__(self, of: RepeatedLoss, batch: Batch) -> None:
        super().__init__(
            CPU,
            self._loss_and_gradients,
            Inputs(CPU, [*batch, np.empty((), np.float32)]),
            range(len(batch)),
            keys=lambda: of.dropout.keys,
            warm=True,
        )
        self._loss, self._leaves = of.loss, of.leaves
        *arrays, self._cotangent = self.inputs.device
        self._tensors = [tensor_of(CPU, each) for each in arrays]
        self._weight = math.nan
        self._flat: Array | None = None

    def compute(self, batch: Batch, weight: float) -> Computed:
        """Return weight times the loss of a batch, and its gradients."""
        self._weight = weight
        loss, *grads = self([*batch, np.array(weight, np.float32)])
        assert loss is not None
        repeated = grads and self.results and grads[0] is self.results[1]
        return Computed(weight * loss.item(), grads, self._flat if repeated else None)

    def _loss_and_gradients(self) -> Results:
        loss = self._loss(self._tensors)
        if loss.dtype == np.float32:
            cotangent = self._cotangent.reshape(loss.shape)
        else:  # which is not recorded
            cotangent = np.full(loss.shape, self._weight, loss.dtype)
        return [loss.array, *leaf_gradients(loss, cotangent, self._leaves)]

    def arrange(self, results: Results) -> Results:
        """Have the gradients follow each other, so that they are added in one pass."""
        assert isinstance(self.repeat, Recording)
        loss, *grads = results
        self._flat = self.repeat.side_by_side(grads)
        if self._flat is None:
            return results
        ends = np.cumsum([each.size for each in grads if each is not None])
        parts = np.split(self._flat, ends[:-1])
        pairs = zip(parts, self._leaves, strict=True)
        return [loss, *(part.reshape(leaf.shape) for part, leaf in pairs)]


class RepeatedCall:
    """A function of arrays of which no gradient is wanted, for arrays of the same shapes.

    The first call is on the tape, the second is recorded, the third compares, and further ones
    repeat. Where it cannot be recorded, or its repetition differs, `reason` says why, and the
    function itself is called every time.

    Parameters
    ----------
    function
        Gives a tensor for tensors on the CPU: the same operations each time, on the arrays' own
        elements.
    changing
        Gives the arrays that it changes besides, such as those of key/value caches.
    backend
        Where its tensors are; on another one than the CPU, `reason` is given.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        changing: Callable[[], Sequence[Array]] = lambda: (),
        backend: Backend = CPU,
    ) -> None:
        self.function, self.changing = function, changing
        self.reason = None if backend is CPU else _not_here(backend)
        self._device = backend.name
        self._idle = _Idle()

    def __call__(self, *arrays: np.ndarray) -> Array:
        """Return an own copy of the result for these arrays, each call's shapes recorded once."""
        arrays = tuple(map(native, arrays))
        if self.reason is not None or why_on_tape(CPU) is not None:
            return self._on_tape([Tensor(each, device=self._device) for each in arrays])
        key = (CPU.chosen(), *((each.shape, each.dtype) for each in arrays))
        step = self._idle.take(key) or self._step(arrays)
        (result,) = step(arrays)
        assert result is not None
        result = result.copy()
        self.reason = self.reason or step.why_not
        self._idle.give(key, step)
        return result

    def _step(self, arrays: Sequence[np.ndarray]) -> Step:
        inputs = Inputs(CPU, arrays)
        tensors = [tensor_of(CPU, each) for each in inputs.device]
        batch = range(len(arrays))
        compute = lambda: [self._on_tape(tensors)]  # noqa: E731
        return Step(CPU, compute, inputs, batch, changing=self.changing)

    @quiet
    def _on_tape(self, tensors: Sequence[Tensor]) -> Array:
        with no_grad():
            return self.function(*tensors).array
