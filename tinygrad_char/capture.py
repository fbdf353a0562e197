"""A training step that a device records once, as one graph, and replays.

Recorded work gets the same memory each time. So what changes from step to step is in arrays of
fixed place, which one copy fills before a replay: the batches, the learning rates, the number of
steps so far and of dropout calls so far. Nothing in the step may read a value: the gradients are
clipped, and the step counted, on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.kernels import adamw, global_norm
from tinygrad_char.kernels.adamw import FACTORS
from tinygrad_char.kernels.array import Array, native
from tinygrad_char.kernels.backend import Backend
from tinygrad_char.kernels.cuda.operation import ACCESS_BYTES
from tinygrad_char.kernels.cuda.parameters import FlatParameters
from tinygrad_char.kernels.dropout.mask import RecordedKey
from tinygrad_char.kernels.operations import using
from tinygrad_char.optim import Adam, Optimizer
from tinygrad_char.random import Stream
from tinygrad_char.repeating import why_on_tape
from tinygrad_char.tensor import Tensor

Batch = tuple[np.ndarray, ...]


class StepResult(NamedTuple):
    """The loss before the update, and the norm of its gradient before clipping."""

    loss: float
    norm: float


class TrainingStep:
    """Forward, backward, clipping and the update of Adam or AdamW, for one batch after the other.

    The first call computes as usual, the second where recordings are made, the third records;
    from then on each call is one replay. Every call is one update of the weights. Where a step
    cannot be recorded, `reason` says why and calls go on as usual. `accumulated` makes one update
    from several batches, and is recorded in the same way.

    Parameters
    ----------
    loss
        Gives the loss, of one element, of a batch's tensors; the same operations each time.
    optimizer
        Where other options than learning rates change, or what is frozen, it is recorded anew.
    dropout
        The stream of dropout keys that `loss` draws from. Masks are those of unrecorded steps;
        each of several batches has its own part of it, as shards have in `parallel.backward`.
    max_norm
        Largest norm of the gradient; larger ones are scaled down to it.
    note
        Called with `reason` when there is one.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        optimizer: Optimizer,
        dropout: Stream,
        *,
        max_norm: float = math.inf,
        note: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.loss, self.optimizer, self.dropout = loss, optimizer, dropout
        self.max_norm, self.note = max_norm, note
        self.reason: str | None = None
        self._computed = False
        self._recorded: _RecordedStep | None = None

    @property
    def replays(self) -> bool:
        """Whether the next call, with a batch of the same shapes, is a replay."""
        return self._recorded is not None and self._recorded.replay is not None

    def __call__(self, *batch: np.ndarray) -> StepResult:
        """Make one update from a batch; one with a norm that is not finite changes no weight."""
        return self.accumulated([batch])

    def accumulated(
        self, batches: Sequence[Batch], meanwhile: Callable[[], None] = lambda: None
    ) -> StepResult:
        """Make one update from several batches; the loss is the mean of theirs.

        A replay calls `meanwhile` while the device computes.
        """
        batches = [tuple(map(native, batch)) for batch in batches]
        alone = why_on_tape(self.optimizer.backend) is not None
        if alone or self.reason is not None or not self._computed:
            self._computed = True
            return self._compute(batches)
        if self._recorded is not None and not self._recorded.is_of(self.optimizer):
            self._recorded = None  # to be recorded anew after this step
            return self._compute(batches)
        if self._recorded is None or not self._recorded.fits(batches):
            self.reason = self._obstacle()
            if self.reason is None:
                self._recorded = _RecordedStep(self, batches)
                return self._recorded.warm_up(batches)
        elif self._recorded.replay is None:
            self.reason = self._recorded.record()
        if self.reason is not None:
            self._recorded = None
            self.note(f"each operation is launched by itself, not as one graph: {self.reason}")
            return self._compute(batches)
        assert self._recorded is not None
        return self._recorded.run(batches, meanwhile)

    def _compute(self, batches: Sequence[Batch]) -> StepResult:
        optimizer = self.optimizer
        optimizer.zero_grad()
        device = optimizer.backend.name
        value, norm = 0.0, math.nan
        with self.dropout.shards(len(batches)) as shards:
            for batch, keys in zip(batches, shards, strict=True):
                tensors = [Tensor(each, device=device) for each in batch]
                part = self._backward(tensors, keys, 1 / len(batches))
                value += float(part)
        if math.isfinite(value):
            norm = optimizer.step(max_norm=self.max_norm) or 0.0
        return StepResult(value, norm)

    def _backward(self, batch: list[Tensor], keys: Any, share: float) -> Array:
        """Add the gradient of a share of a batch's loss to `.grad`; return this share, there."""
        with self.dropout.using(keys):
            loss = self.loss(*batch)
        loss.backward(loss.backend.xp.full(loss.shape, share, loss.dtype))
        return loss.array * share

    def _obstacle(self) -> str | None:
        """Return why steps of this optimizer cannot be recorded, None where they can."""
        optimizer, parameters = self.optimizer, self.optimizer.parameters
        backend = optimizer.backend
        if backend.recorder is None:
            return f"device {backend.name!r} records nothing"
        if not parameters:
            return "all parameters are frozen"
        if not isinstance(optimizer, Adam):
            return f"{type(optimizer).__name__} has no update that can be recorded"
        if parameters[0].dtype != np.float32:
            return f"parameters are {parameters[0].dtype}, not float32"
        for position, each in enumerate(parameters):
            if not each.requires_grad:
                return f"parameter {position} {each.shape} is frozen"
            if each.grad is None:
                return f"parameter {position} {each.shape} has no gradient"
            if each.hooks:
                return f"parameter {position} {each.shape} has hooks"
        if (optimizer.updates != optimizer.updates[0]).any():
            return "parameters have had different numbers of updates"
        return None


class RecordedKeys:
    """The keys of dropout calls of which the number before the step is read when it is replayed."""

    def __init__(self, seed: int, recorded: Array) -> None:
        self.seed, self.recorded = seed, recorded
        self.calls = 0

    def next(self) -> RecordedKey:
        """Return the key of the next call."""
        self.calls += 1
        return RecordedKey(self.seed, self.calls, self.recorded)


class _Fixed:
    """Arrays of fixed place on the device, side by side, so that one copy fills all of them."""

    def __init__(self, backend: Backend, arrays: Sequence[np.ndarray]) -> None:
        units = [-(-each.nbytes // ACCESS_BYTES) for each in arrays]
        ends = (np.cumsum(units) * ACCESS_BYTES).tolist()
        self._host = backend.recorder.host_buffer(ends[-1])
        self._device = backend.xp.empty(ends[-1], np.uint8)
        self.host, self.device = (
            [
                memory[start : start + each.nbytes].view(each.dtype).reshape(each.shape)
                for each, start in zip(arrays, [0, *ends], strict=False)
            ]
            for memory in (self._host, self._device)
        )

    def fill(self, arrays: Sequence[np.ndarray]) -> None:
        """Give the arrays on the device these values."""
        for target, each in zip(self.host, arrays, strict=True):
            np.copyto(target, each)
        self._device.set(self._host)


def _settings(optimizer: Optimizer) -> Any:
    """Return what a recorded update has fixed.

    That is what is frozen, all options but the rates, and which versions of operations serve.
    """
    frozen = [not each.requires_grad for group in optimizer.groups for each in group.members]
    options = [{**group.options, "lr": None} for group in optimizer.groups]
    return frozen, options, optimizer.backend.chosen()


class _RecordedStep:
    """A step on arrays of fixed place, and what replays it once it is recorded."""

    def __init__(self, step: TrainingStep, batches: Sequence[Batch]) -> None:
        self.step = step
        self.backend = step.optimizer.backend
        groups = step.optimizer.groups
        self.flat, self.settings = step.optimizer.flat, _settings(step.optimizer)
        self.fixed = _Fixed(self.backend, self._changing(batches))
        self.calls, *rest = self.fixed.device
        self.rates, rest = rest[: len(groups)], rest[len(groups) :]
        self.updates, rest = rest[: len(groups)], rest[len(groups) :]
        inputs = map(step.optimizer.parameters[0]._result, rest)
        self.inputs = [[next(inputs) for _ in batch] for batch in batches]
        self.factors = [self.backend.xp.zeros(FACTORS, np.float32) for _ in groups]
        self.seeds = self._seeds()
        self.draws = 0
        self.replay: Callable[[], None] | None = None
        self.results: Array | None = None

    def fits(self, batches: Sequence[Batch]) -> bool:
        """Return whether the fixed arrays take these batches, and the dropout keys are the same."""
        shapes = [[(each.shape, each.dtype) for each in batch] for batch in self.inputs]
        given = [[(each.shape, each.dtype) for each in batch] for batch in batches]
        return shapes == given and self.seeds == self._seeds()

    def is_of(self, optimizer: Optimizer) -> bool:
        """Return whether the optimizer is still laid out and set as it is recorded."""
        return self.flat is optimizer.flat and self.settings == _settings(optimizer)

    def _seeds(self) -> list[int]:
        with self.step.dropout.shards(len(self.inputs)) as shards:
            return [keys.seed for keys in shards]

    def warm_up(self, batches: Sequence[Batch]) -> StepResult:
        """Make an update where recordings are made."""
        self.fixed.fill(self._changing(batches))
        return self._finish(self.backend.recorder.warm_up(self._work))

    def record(self) -> str | None:
        """Record the step; return why that failed, None where it did not."""
        try:
            with using(check=False):
                self.results, self.replay = self.backend.recorder.record(self._work)
        except Exception as error:  # whatever CUDA, CuPy or the model's code objects to
            return f"{type(error).__name__}: {error}"
        return None

    def run(self, batches: Sequence[Batch], meanwhile: Callable[[], None]) -> StepResult:
        """Make an update by a replay."""
        assert self.replay is not None
        assert self.results is not None
        self.fixed.fill(self._changing(batches))
        self.replay()
        try:
            meanwhile()
        finally:  # the device has made the update, whatever happens here
            result = self._finish(self.results)
        return result

    def _changing(self, batches: Sequence[Batch]) -> list[np.ndarray]:
        """Return what differs from step to step: dropout calls, rates, updates, and batches."""
        optimizer = self.step.optimizer
        with self.step.dropout.shards(1) as (keys,):
            calls = np.array([keys.calls], np.uint64)
        rates = [np.array([group.options["lr"]], np.float64) for group in optimizer.groups]
        updates = [optimizer.updates[:1] for _ in optimizer.groups]
        return [calls, *rates, *updates, *(each for batch in batches for each in batch)]

    def _work(self) -> Array:
        """Do the whole step on the device; return loss and norm there."""
        optimizer = self.step.optimizer
        optimizer.zero_grad()
        share = 1 / len(self.inputs)
        self.draws = 0
        losses: list[Array] = []
        with using(parameters=FlatParameters(optimizer.flat, optimizer.parameters)):
            for batch, seed in zip(self.inputs, self.seeds, strict=True):
                keys = RecordedKeys(seed, self.calls)
                losses.append(self.step._backward(batch, keys, share))
                self.draws = max(self.draws, keys.calls)
        loss: Any = sum(losses[1:], start=losses[0])
        norm = self.backend.chosen().kernels[global_norm.forward](optimizer.flat_grad)
        for number in range(len(optimizer.groups)):
            self._update(number, norm)
        results = self.backend.xp.empty(2, np.float64)  # a norm may be beyond float32
        results[:1] = loss.reshape(1)
        results[1:] = norm.reshape(1)
        return results

    def _update(self, number: int, norm: Array) -> None:
        optimizer: Any = self.step.optimizer
        group, factors = optimizer.groups[number], self.factors[number]
        options = {name: group.options[name] for name in ("betas", "weight_decay")}
        options["decoupled"] = optimizer.decoupled
        self.backend.chosen().kernels[adamw.count_step](
            *(self.updates[number], self.rates[number], norm, factors),
            max_norm=self.step.max_norm,
            **options,
        )
        span = slice(optimizer.offsets[group.first], optimizer.offsets[group.last])
        averages = optimizer.state.values()
        parts = (each[span] for each in (optimizer.flat, optimizer.flat_grad, *averages))
        parameter, grad, exp_avg, exp_avg_sq = parts
        self.backend.chosen().kernels[adamw.update_recorded](
            *(parameter, grad, exp_avg, exp_avg_sq, factors), eps=group.options["eps"], **options
        )

    def _finish(self, results: Array) -> StepResult:
        """Read the results and count on the host what the device has counted."""
        loss, norm = self.backend.to_numpy(results).tolist()
        with self.step.dropout.shards(1) as (keys,):
            keys.calls += self.draws
        if math.isfinite(norm):
            self.step.optimizer.updates += 1
            for each in self.step.optimizer.parameters:
                each.version.value += 1
        return StepResult(loss, norm)
