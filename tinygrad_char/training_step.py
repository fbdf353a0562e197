"""A training step that a device records once, as one graph, and repeats: see step.py.

What changes from step to step is in arrays of fixed place: the batches, the learning rates, the
number of steps so far and of dropout calls so far. Nothing in the step may read a value: the
gradients are clipped, and the step counted, on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.kernels import adamw, global_norm
from tinygrad_char.kernels.adamw import FACTORS
from tinygrad_char.kernels.array import Array, native
from tinygrad_char.kernels.cpu.recorder import Results
from tinygrad_char.kernels.cuda.parameters import FlatParameters
from tinygrad_char.kernels.dropout.mask import RecordedKey
from tinygrad_char.kernels.operations import using
from tinygrad_char.optimizer import Optimizer
from tinygrad_char.random import Stream
from tinygrad_char.step import Inputs, Step, tensor_of, why_on_tape
from tinygrad_char.tensor import Tensor

Batch = tuple[np.ndarray, ...]


class StepResult(NamedTuple):
    """The loss before the update, and the norm of its gradient before clipping."""

    loss: float
    norm: float


class TrainingStep:
    """Forward, backward, clipping and the optimizer's update, for one batch after the other.

    Updates of Adam, AdamW, Muon and MuonAdamW can be recorded.

    The first call computes as usual, the second where recordings are made; the third records, the
    fourth compares, and further ones repeat. Every call is one update of the weights. Where a step
    cannot be recorded, or its repetition differs, `reason` says why and calls go on as usual.
    `accumulated` makes one update from several batches, and is recorded in the same way.

    Parameters
    ----------
    loss
        Gives the loss, of one element, of a batch's tensors; the same operations each time. Where
        they cannot be recorded, it is called once more.
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
        self._unreached: list[int] = []
        self._update: _Update | None = None

    @property
    def repeats(self) -> bool:
        """Whether the next call, with a batch of the same shapes, is a repetition."""
        return self._update is not None and self._update.repeats

    def __call__(self, *batch: np.ndarray) -> StepResult:
        """Make one update from a batch; one with a norm that is not finite changes no weight."""
        return self.accumulated([batch])

    def accumulated(
        self, batches: Sequence[Batch], meanwhile: Callable[[], None] = lambda: None
    ) -> StepResult:
        """Make one update from several batches; the loss is the mean of theirs.

        A repetition calls `meanwhile` while the device computes.
        """
        batches = [tuple(map(native, batch)) for batch in batches]
        alone = why_on_tape(self.optimizer.backend) is not None
        if alone or self.reason is not None or not self._computed:
            self._computed = True
            return self._compute(batches)
        update = self._update
        if update is not None and not update.is_of(self.optimizer):
            self._update = None  # to be recorded anew after this step
            return self._compute(batches)
        if update is None or not update.fits(batches):
            if (obstacle := self._obstacle()) is not None:
                self._give_up(obstacle)
                return self._compute(batches)
            update = self._update = _Update(self, batches)
        result = update.make(batches, meanwhile)
        if update.why_not is not None:
            self._give_up(update.why_not)
        return result

    def _give_up(self, reason: str) -> None:
        self.reason, self._update = reason, None
        self.note(f"each operation is launched by itself, not as one graph: {reason}")

    def _compute(self, batches: Sequence[Batch]) -> StepResult:
        optimizer = self.optimizer
        optimizer.zero_grad()
        device = optimizer.backend.name
        value, norm = 0.0, math.nan
        with self.dropout.shards(len(batches)) as shards:
            for batch, keys in zip(batches, shards, strict=True):
                tensors = [Tensor(each, device=device) for each in batch]
                part = self.backward(tensors, keys, 1 / len(batches))
                value += float(part)
        self._unreached = [
            number for number, each in enumerate(optimizer.parameters) if each.grad is None
        ]
        if math.isfinite(value):
            norm = optimizer.step(max_norm=self.max_norm) or 0.0
        return StepResult(value, norm)

    def backward(self, batch: list[Tensor], keys: Any, share: float) -> Array:
        """Add the gradient of a share of a batch's loss to `.grad`; return this share, there."""
        with self.dropout.using(keys):
            loss = self.loss(*batch)
        loss.backward(loss.backend.xp.full(loss.shape, share, loss.dtype))
        return loss.array * share

    def _obstacle(self) -> str | None:
        """Return why steps of this optimizer cannot be recorded, None where they can."""
        optimizer, parameters = self.optimizer, self.optimizer.parameters
        backend = optimizer.backend
        if backend.shards_batches or backend.recorder is None:
            return f"device {backend.name!r} records no updates"
        if not parameters:
            return "all parameters are frozen"
        if not optimizer.recordable:
            return f"{type(optimizer).__name__} has no update that can be recorded"
        if parameters[0].dtype != np.float32:
            return f"parameters are {parameters[0].dtype}, not float32"
        for position, each in enumerate(parameters):
            if not each.requires_grad:
                return f"parameter {position} {each.shape} is frozen"
            if position in self._unreached:
                return f"parameter {position} {each.shape} has no gradient"
            if each.hooks:
                return f"parameter {position} {each.shape} has hooks"
        if (optimizer.updates != optimizer.updates[0]).any():
            return "parameters have had different numbers of updates"
        return None


class RecordedKeys:
    """The keys of dropout calls of which the number before the step is read when it is repeated."""

    def __init__(self, seed: int, recorded: Array) -> None:
        self.seed, self.recorded = seed, recorded
        self.calls = 0

    def next(self) -> RecordedKey:
        """Return the key of the next call, which is counted from the recorded number on."""
        self.calls += 1
        return RecordedKey(self.seed, self.calls, self.recorded)


def _settings(optimizer: Optimizer) -> Any:
    """Return what a recorded update has fixed.

    That is what is frozen, all options but the rates, and which versions of operations serve.
    """
    frozen = [not each.requires_grad for group in optimizer.groups for each in group.members]
    options = [{**group.options, "lr": None} for group in optimizer.groups]
    return frozen, options, optimizer.backend.chosen()


class _Update(Step):
    """An update from arrays of fixed place: forward, backward, clipping and the optimizer's."""

    def __init__(self, step: TrainingStep, batches: Sequence[Batch]) -> None:
        self._step, self._optimizer = step, step.optimizer
        backend, groups = step.optimizer.backend, step.optimizer.groups
        self._flat, self._settings = step.optimizer.flat, _settings(step.optimizer)
        self._seeds = self._seeds_of(len(batches))
        first = 1 + 2 * len(groups)  # of the batches, behind dropout calls, rates and updates
        super().__init__(
            backend,
            self._update,
            Inputs(backend, self._values(batches)),
            range(first, first + sum(map(len, batches))),
            changing=self._changes,
            exact=not backend.chosen().settings.atomics,
        )
        self._calls, *rest = self.inputs.device
        self._rates, rest = rest[: len(groups)], rest[len(groups) :]
        self._counts, rest = rest[: len(groups)], rest[len(groups) :]
        tensors = (tensor_of(backend, each) for each in rest)
        self._batches = [[next(tensors) for _ in batch] for batch in batches]
        self._factors = [backend.xp.zeros(FACTORS, np.float32) for _ in groups]
        self._calls_drawn = 0

    def fits(self, batches: Sequence[Batch]) -> bool:
        """Return whether the places take these batches, and the dropout keys are the same."""
        return (
            [len(batch) for batch in batches] == [len(batch) for batch in self._batches]
            and self.inputs.fit(self._values(batches))
            and self._seeds == self._seeds_of(len(batches))
        )

    def is_of(self, optimizer: Optimizer) -> bool:
        """Return whether the optimizer is still laid out and set as it is recorded."""
        return self._flat is optimizer.flat and self._settings == _settings(optimizer)

    def make(self, batches: Sequence[Batch], meanwhile: Callable[[], None]) -> StepResult:
        """Make an update, count on the host what the device has counted, and read the results."""
        repeats = self.repeats
        (results,) = self(self._values(batches))
        try:
            if repeats:
                meanwhile()
        finally:  # the device has made the update, whatever happens here
            assert results is not None
            loss, norm = self.backend.to_numpy(results).tolist()
            with self._step.dropout.shards(1) as (keys,):
                keys.calls += self._calls_drawn
            if math.isfinite(norm):
                self._optimizer.updates += 1
                for each in self._optimizer.parameters:
                    each.version.value += 1
        return StepResult(loss, norm)

    def _changes(self) -> list[Array]:
        """Return all that an update writes; parameters one by one, so that none hides in others."""
        optimizer = self._optimizer
        parameters = [each.array for each in optimizer.parameters]
        return [*parameters, optimizer.flat_grad, *optimizer.state.values()]

    def _seeds_of(self, batches: int) -> list[int]:
        with self._step.dropout.shards(batches) as shards:
            return [keys.seed for keys in shards]

    def _values(self, batches: Sequence[Batch]) -> list[np.ndarray]:
        """Return what differs from step to step: dropout calls, rates, updates, and batches."""
        optimizer = self._optimizer
        with self._step.dropout.shards(1) as (keys,):
            calls = np.array([keys.calls], np.uint64)
        rates = [np.array([group.options["lr"]], np.float64) for group in optimizer.groups]
        updates = [optimizer.updates[:1] for _ in optimizer.groups]
        return [calls, *rates, *updates, *(each for batch in batches for each in batch)]

    def _update(self) -> Results:
        """Do the whole step on the device; return loss and norm there."""
        optimizer, xp = self._optimizer, self.backend.xp
        optimizer.zero_grad()
        share = 1 / len(self._batches)
        self._calls_drawn = 0
        losses: list[Array] = []
        with using(parameters=FlatParameters(optimizer.flat, optimizer.parameters)):
            for batch, seed in zip(self._batches, self._seeds, strict=True):
                keys = RecordedKeys(seed, self._calls)
                losses.append(self._step.backward(batch, keys, share))
                self._calls_drawn = max(self._calls_drawn, keys.calls)
        loss: Any = sum(losses[1:], start=losses[0])
        norm = self.backend.chosen().kernels[global_norm.forward](optimizer.flat_grad)
        for number in range(len(optimizer.groups)):
            self._update_group(number, norm)
        results = xp.empty(2, np.float64)  # a norm may be beyond float32
        results[:1] = loss.reshape(1)
        results[1:] = norm.reshape(1)
        return [results]

    def _update_group(self, number: int, norm: Array) -> None:
        optimizer = self._optimizer
        group, factors = optimizer.groups[number], self._factors[number]
        self.backend.chosen().kernels[adamw.count_step](
            *(self._counts[number], self._rates[number], norm, factors, self._step.max_norm),
            optimizer.rule(group.options),
        )
        optimizer.update_recorded(group, factors)
