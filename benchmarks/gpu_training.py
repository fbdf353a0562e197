"""Whole training steps on a CUDA device, and a training to its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tinygrad_char.benchmarks.gpu_timing import Case, Row
from tinygrad_char.kernels.backend import Backend
from tinygrad_char.models.batches import (
    RandomBatches,
    Split,
    random_batch,
    split_corpus,
    whole_split,
)
from tinygrad_char.models.build import build_model
from tinygrad_char.models.config import PRESETS, TrainConfig
from tinygrad_char.models.optimizers import build_optimizer, learning_rates, set_rates
from tinygrad_char.modes import no_grad
from tinygrad_char.random import Generator
from tinygrad_char.training_step import TrainingStep

WARM_UP = 3
VOCABULARY = 65
PRECISIONS = ("bf16", "tf32", "float32")
"""What matters most comes first, in case that time runs out."""


class Training:
    """The updates of models/trainer.py's Trainer, with the few packages that a bare machine has."""

    def __init__(self, config: TrainConfig, vocab_size: int, split: Split) -> None:
        self.config, self.split = config, split
        self.generator = Generator(config.seed)
        self.model = build_model(config, vocab_size, self.generator)
        self.optimizer = build_optimizer(config, self.model)
        self.schedule = learning_rates(config)
        self.muon_schedule = learning_rates(config, config.muon_lr)
        self.step = TrainingStep(
            self.loss, self.optimizer, self.generator.dropout, max_norm=config.clip or math.inf
        )
        self.updates = 0
        size = config.gpt.block_size, config.batch_size
        self.batches = RandomBatches(split.train, *size, self.generator.batches)

    def loss(self, x: Any, y: Any) -> Any:
        """Return the mean loss of a batch."""
        return self.model(x, y)[1]

    def update(self) -> float:
        """Make one update and return the loss before it."""
        rates = self.schedule(self.updates), self.muon_schedule(self.updates)
        set_rates(self.optimizer, *rates)
        self.updates += 1
        return self.step.accumulated(self.batches.draw(), self.batches.draw_ahead).loss

    def first_loss(self) -> float:
        """Return the loss of the first batch without dropout, to compare with others' models."""
        batch = first_batch(self.config, self.split)
        self.model.eval()
        with no_grad():
            loss = self.loss(*batch).item()
        self.model.train()
        return float(loss)

    def validation_loss(self) -> float:
        """Return the loss over every target of the validation split."""
        self.model.eval()
        total, count = 0.0, 0
        with no_grad():
            for x, y in whole_split(
                self.split.validation, self.config.gpt.block_size, self.config.batch_size
            ):
                total += self.loss(x, y).item() * y.size
                count += y.size
        self.model.train()
        return total / count


def steps(backend: Backend, quick: bool) -> Iterator[Case]:
    """Yield the mean times of steps in each precision: each operation by itself, and as a graph."""
    count = step_count(backend.name, quick)
    for precision in PRECISIONS:
        atomic = ("graph, atomic",) if precision == "bf16" else ()
        for name in ("graph", *atomic, "eager"):
            config = replace(
                settings(backend.name, precision), deterministic=name != "graph, atomic"
            )

            def step(name: str = name, config: TrainConfig = config) -> Row:
                training = Training(config, VOCABULARY, random_split())
                first_loss = training.first_loss()
                if name == "eager":
                    training.step.reason = "it is timed so"
                row: Row = {"precision": config.precision, "first_loss": first_loss}
                row["seconds"] = mean_seconds(training.update, count)
                if name != "eager" and training.step.reason:
                    row["reason_not_as_graph"] = training.step.reason
                row["products"] = products_of_step(config, VOCABULARY)
                return row

            yield Case(f"{name} {precision}", step)


def step_count(device: str, quick: bool) -> int:
    """Return how many steps are timed."""
    return 2 if device != "cuda" else 20 if quick else 100


def mean_seconds(update: Callable[[], Any], steps: int) -> float:
    """Return the mean time of a step, which ends by reading its loss, after a few others."""
    for _ in range(WARM_UP):
        update()
    started = time.perf_counter()
    for _ in range(steps):
        update()
    return (time.perf_counter() - started) / steps


def products_of_step(config: TrainConfig, vocab_size: int) -> float:
    """Return the products of a step, forward and twice as many backward; the causal half."""
    gpt = config.gpt
    layer = 12 * gpt.n_embd**2 + gpt.block_size * gpt.n_embd
    tokens = config.batch_size * gpt.block_size
    return 3.0 * tokens * (gpt.n_layer * layer + gpt.n_embd * vocab_size)


def training(backend: Backend, quick: bool, tokens: np.ndarray, vocab_size: int) -> Iterator[Case]:
    """Yield all updates of the preset: their time, and the loss over the whole split."""
    config = settings(backend.name, "bf16")
    if quick:
        config = replace(config, steps=min(config.steps, 300))
    split = split_corpus(tokens, config.gpt.block_size)
    yield Case(f"{config.steps} steps, bf16", lambda: train(config, vocab_size, split))


def train(config: TrainConfig, vocab_size: int, split: Split) -> Row:
    """Make all updates of the settings; return the time, and the loss over the whole split."""
    started = time.perf_counter()
    training = Training(config, vocab_size, split)
    loss = math.nan
    for _ in range(config.steps):
        loss = training.update()
    row: Row = {
        "precision": config.precision,
        "steps": config.steps,
        "seconds": time.perf_counter() - started,
        "last_training_loss": loss,
        "validation_loss": training.validation_loss(),
    }
    if training.step.reason:
        row["reason_not_as_graph"] = training.step.reason
    return row


def settings(device: str, precision: str) -> TrainConfig:
    """Return the settings of `lecture-full`; not on a GPU, what the CPU does in seconds."""
    full = replace(PRESETS["lecture-full"], device=device, precision=precision)  # type: ignore[arg-type]
    if device == "cuda":
        return full
    gpt = replace(full.gpt, block_size=8, n_layer=1, n_head=1, n_embd=16)
    return replace(full, gpt=gpt, batch_size=2, steps=4)


def random_split() -> Split:
    """Return random characters, for where no text is needed."""
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 20_000)
    return Split(tokens[:10_000], tokens[10_000:])


def first_batch(config: TrainConfig, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return the first batch of a run."""
    shape = config.gpt.block_size, config.batch_size
    return random_batch(split.train, *shape, Generator(config.seed).batches)
