"""A loss, and a function of arrays, that are recorded on the CPU and then repeated: see step.py."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.autograd import leaf_gradients
from tinygrad_char.kernels.array import Array, native
from tinygrad_char.kernels.backend import CPU, Backend
from tinygrad_char.kernels.cpu.recording import Recording
from tinygrad_char.kernels.recorder import Results
from tinygrad_char.modes import no_grad, quiet
from tinygrad_char.random import DropoutKeys, Stream
from tinygrad_char.step import Inputs, Step, tensor_of, why_on_tape
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


@quiet
def loss_and_gradients(
    loss: Callable[[Any], Tensor], batch: Batch, weight: float, leaves: Sequence[Tensor]
) -> Computed:
    """Return weight * loss(batch), and its gradients."""
    value = loss(batch)
    cotangent = value.backend.xp.full(value.shape, weight, value.dtype)
    return Computed(weight * value.item(), leaf_gradients(value, cotangent, leaves))


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
        Gives the loss, of one element, of a batch: the same operations each time, on the batch's
        own elements, and nothing besides.
    leaves
        The tensors whose gradients are wanted.
    dropout
        The stream of dropout keys that `loss` draws from.
    """

    def __init__(
        self, loss: Callable[[Any], Tensor], leaves: Sequence[Tensor], dropout: Stream
    ) -> None:
        self.loss, self.leaves, self.dropout = loss, leaves, dropout
        away = {each.backend.name for each in leaves if each.backend is not CPU}
        self.reason = f"leaves are on device {', '.join(away)!r}" if away else None
        # By shapes, what the leaves are, and the versions that serve.
        self._idle: dict[Hashable, list[_LossStep]] = defaultdict(list)

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
            return loss_and_gradients(self.loss, batch, weight, self.leaves)
        shapes = tuple((each.shape, each.dtype) for each in batch)
        trained = tuple([each.requires_grad for each in self.leaves])  # quicker than generators
        dtypes = tuple([each.array.dtype for each in self.leaves])
        idle = self._idle[shapes, trained, dtypes, CPU.chosen()]
        try:
            step = idle.pop()
        except IndexError:  # the first of its shape, or all are at work in other threads
            idle.append(_LossStep(self, batch))
            return loss_and_gradients(self.loss, batch, weight, self.leaves)
        computed = step.compute(batch, weight)
        self.reason = self.reason or step.why_not
        return computed._replace(release=lambda: idle.append(step))


class _LossStep(Step):
    """The loss of batches of one shape, and its gradients."""

    def __init__(self, of: RepeatedLoss, batch: Batch) -> None:
        super().__init__(
            CPU,
            self._loss_and_gradients,
            Inputs(CPU, [*batch, np.empty((), np.float32)]),
            keys=lambda: of.dropout.keys,
            needed=range(len(batch)),
            warm=True,
        )
        self._loss, self._leaves = of.loss, of.leaves
        *arrays, self._cotangent = self.inputs.device
        self._batch = [tensor_of(CPU, each) for each in arrays]
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
        loss = self._loss(self._batch)
        if loss.dtype == np.float32:
            cotangent = self._cotangent.reshape(loss.shape)
        else:
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
        self.reason = None if backend is CPU else f"device {backend.name!r} records no calls"
        self._device = backend.name
        self._steps: dict[Hashable, Step] = {}  # by shapes, and the versions that serve

    def __call__(self, *arrays: np.ndarray) -> Array:
        """Return the result's array."""
        arrays = tuple(map(native, arrays))
        if self.reason is not None or why_on_tape(CPU) is not None:
            return self._on_tape([Tensor(each, device=self._device) for each in arrays])
        key = (CPU.chosen(), *((each.shape, each.dtype) for each in arrays))
        step = self._steps.get(key)
        if step is None:
            step = self._steps[key] = self._step(arrays)
        (result,) = step(arrays)
        self.reason = step.why_not
        assert result is not None
        return result.copy()

    def _step(self, arrays: Sequence[np.ndarray]) -> Step:
        inputs = Inputs(CPU, arrays)
        tensors = [tensor_of(CPU, each) for each in inputs.device]
        keys = DropoutKeys(0)  # nothing is dropped
        return Step(
            CPU,
            lambda: [self._on_tape(tensors)],
            inputs,
            keys=lambda: keys,
            changing=self.changing,
            needed=range(len(arrays)),
        )

    @quiet
    def _on_tape(self, tensors: Sequence[Tensor]) -> Array:
        with no_grad():
            return self.function(*tensors).array
