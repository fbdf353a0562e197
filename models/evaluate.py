"""The loss of a model on text, deterministically."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_char import functional as F
from tinygrad_char.models.batches import OverlappingWindows, random_batch, whole_split
from tinygrad_char.models.errors import RunError
from tinygrad_char.modes import no_grad
from tinygrad_char.nn import EvaluationMode, Module
from tinygrad_char.parallel import Workers

Batch = tuple[np.ndarray, np.ndarray]
ShouldStop = Callable[[], bool]
EVALUATION_SEED = 20150521  # fixed, so that evaluations of all runs use the same windows
# At most in one batch of the evaluation of a whole split.
WHOLE_SPLIT_CHARACTERS = 1 << 12
WHOLE_SPLIT_LOGITS = 1 << 20


class InterruptedEvaluationError(Exception):
    """Raised out of an evaluation that was asked to stop."""


def never() -> bool:
    """Return False: an evaluation goes on to its end."""
    return False


@dataclass(frozen=True)
class Loss:
    """A mean loss over predicted characters."""

    nats: float
    characters: int

    @property
    def bits_per_character(self) -> float:
        """The loss in bits."""
        return self.nats / math.log(2)

    @property
    def perplexity(self) -> float:
        """The number of equally likely characters that would be as hard to guess."""
        return math.exp(self.nats) if self.nats < 700 else math.inf


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Use the model in evaluation mode and without the tape, in this thread and no other one."""
    with EvaluationMode(model).active(), no_grad():
        yield


def mean_loss(
    model: Any,
    batches: Sequence[Batch],
    should_stop: ShouldStop = never,
    workers: Workers | None = None,
) -> Loss:
    """Return the loss over all targets of the batches, in evaluation mode.

    Raises
    ------
    InterruptedEvaluationError
        `should_stop` said so between two batches.
    """

    def summed_loss(batch: Batch) -> tuple[float, int]:
        x, y = batch
        with np.errstate(all="ignore"):
            return model(x, y)[1].item() * y.size, y.size

    return _mean(model, summed_loss, batches, should_stop, workers)


def _mean(
    model: Any,
    summed_loss: Callable[[Any], tuple[float, int]],
    batches: Sequence[Any],
    should_stop: ShouldStop,
    workers: Workers | None,
) -> Loss:
    total, count = 0.0, 0
    with evaluating(model):
        for loss, targets in (workers or Workers(1)).map(summed_loss, batches):
            if should_stop():
                raise InterruptedEvaluationError
            total += loss
            count += targets
    return Loss(total / count, count)


def fixed_batches(tokens: np.ndarray, block_size: int, batch_size: int, count: int) -> list[Batch]:
    """Return `count` random batches that depend on nothing but the arguments."""
    stream = np.random.default_rng(EVALUATION_SEED)
    return [random_batch(tokens, block_size, batch_size, stream) for _ in range(count)]


def whole_split_loss(
    model: Any, tokens: np.ndarray, should_stop: ShouldStop = never, workers: Workers | None = None
) -> Loss:
    """Return the loss over every target of a split, read in windows that do not overlap.

    Raises
    ------
    RunError
        The loss is not a finite number.
    """
    batches = whole_split(tokens, model.block_size, _windows(model))
    return _finite(mean_loss(model, batches, should_stop, workers))


def strided_loss(
    model: Any, tokens: np.ndarray, should_stop: ShouldStop = never, workers: Workers | None = None
) -> Loss:
    """Return the loss over every target of a split, each after half a window of text or more.

    Windows begin every half block_size, and the first half of each but the first is context alone;
    the targets at the very beginning have what text there is. It is lower than `whole_split_loss`,
    whose windows all begin without context, and is not to be compared with it.

    Raises
    ------
    RunError
        The loss is not a finite number.
    """

    def summed_loss(batch: tuple[np.ndarray, np.ndarray, int]) -> tuple[float, int]:
        x, y, context = batch
        with np.errstate(all="ignore"):
            logits = model(x)[0][:, context:]
            counted = y[:, context:]
            return F.cross_entropy(logits, counted).item() * counted.size, counted.size

    batches = OverlappingWindows(tokens, model.block_size, _windows(model))
    return _finite(_mean(model, summed_loss, batches, should_stop, workers))


def _windows(model: Any) -> int:
    """Return how many windows are read at a time."""
    characters = min(WHOLE_SPLIT_CHARACTERS, WHOLE_SPLIT_LOGITS // model.vocab_size)
    return max(1, characters // model.block_size)


def _finite(loss: Loss) -> Loss:
    if not math.isfinite(loss.nats):
        raise RunError(
            f"the loss on {loss.characters:,} characters is {loss.nats}: these weights are of no "
            "use. Take another checkpoint"
        )
    return loss
