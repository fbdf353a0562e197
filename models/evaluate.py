"""The loss of a model on text, deterministically."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_char.models.batches import random_batch, whole_split
from tinygrad_char.models.errors import RunError
from tinygrad_char.modes import no_grad
from tinygrad_char.nn import EvaluationMode, Module
from tinygrad_char.parallel import Workers

Batch = tuple[np.ndarray, np.ndarray]
EVALUATION_SEED = 20150521  # fixed, so that evaluations of all runs use the same windows
# At most in one batch of the evaluation of a whole split.
WHOLE_SPLIT_CHARACTERS = 1 << 12
WHOLE_SPLIT_LOGITS = 1 << 20


class InterruptedEvaluationError(Exception):
    """Raised out of an evaluation that was asked to stop."""


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
    should_stop: Callable[[], bool] = lambda: False,
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
    model: Any,
    tokens: np.ndarray,
    should_stop: Callable[[], bool] = lambda: False,
    workers: Workers | None = None,
) -> Loss:
    """Return the loss over every target of a split, read in windows that do not overlap.

    Raises
    ------
    RunError
        The loss is not a finite number.
    """
    characters = min(WHOLE_SPLIT_CHARACTERS, WHOLE_SPLIT_LOGITS // model.vocab_size)
    batch_size = max(1, characters // model.block_size)
    batches = whole_split(tokens, model.block_size, batch_size)
    loss = mean_loss(model, batches, should_stop, workers)
    if not math.isfinite(loss.nats):
        raise RunError(
            f"the loss on {loss.characters:,} characters is {loss.nats}: these weights are of no "
            "use. Take another checkpoint"
        )
    return loss
