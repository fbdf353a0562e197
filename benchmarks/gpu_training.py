"""Whole training steps on a CUDA device beside PyTorch's, and a training to its end."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from models.batches import Split, random_batch, whole_split
from models.build import build_model
from models.config import Precision, TrainConfig
from tinygrad_char.autograd import no_grad
from tinygrad_char.capture import TrainingStep
from tinygrad_char.optim import AdamW, decay_groups, warmup_cosine
from tinygrad_char.random import Generator

Row = dict[str, Any]
WARM_UP = 3


class Training:
    """The updates of models.trainer.Trainer, with the few packages that a bare machine has."""

    def __init__(self, config: TrainConfig, vocab_size: int, split: Split) -> None:
        self.config, self.split = config, split
        self.generator = Generator(config.seed)
        self.model = build_model(config, vocab_size, self.generator)
        self.optimizer = AdamW(
            decay_groups(self.model.parameters(), config.weight_decay),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
        )
        self.schedule = warmup_cosine(
            config.lr, config.warmup, config.steps, config.lr * config.min_lr
        )
        self.step = TrainingStep(
            self.loss, self.optimizer, self.generator.dropout, max_norm=config.clip or math.inf
        )
        self.updates = 0

    def loss(self, x: Any, y: Any) -> Any:
        """Return the mean loss of a batch."""
        return self.model(x, y)[1]

    def update(self) -> float:
        """Make one update and return the loss before it."""
        shape = self.config.gpt.block_size, self.config.batch_size
        self.optimizer.set_lr(self.schedule(self.updates))
        self.updates += 1
        return self.step(*random_batch(self.split.train, *shape, self.generator.batches)).loss

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


def steps(
    config: TrainConfig,
    vocab_size: int,
    split: Split,
    count: int,
    precisions: tuple[Precision, ...],
) -> Iterator[Row]:
    """Yield the mean times of steps in each precision: each operation by itself, and as a graph."""
    beside = config.device == "cuda" and importlib.util.find_spec("torch") is not None
    for precision in precisions:
        chosen = replace(config, precision=precision)
        row: Row = {"precision": precision}
        for name in ("eager", "graph"):
            training = Training(chosen, vocab_size, split)
            if name == "eager":
                training.step.reason = "it is timed so"
            for _ in range(WARM_UP):
                training.update()
            started = time.perf_counter()
            for _ in range(count):
                training.update()
            row[f"{name}_seconds"] = (time.perf_counter() - started) / count
            row[f"{name}_reason"] = training.step.reason
            del training
        if beside:
            from benchmarks.gpu_torch import step_seconds

            for name, compiled in (("eager", False), ("compiled", True)):
                taken = step_seconds(chosen, vocab_size, split.train, count, compiled=compiled)
                row[f"pytorch_{name}_seconds"] = taken
                row[f"pytorch_{name}_over_graph"] = taken / row["graph_seconds"]
        yield row


def train(config: TrainConfig, vocab_size: int, split: Split) -> Row:
    """Make all updates of the settings; return the time, and the loss over the whole split."""
    started = time.perf_counter()
    training = Training(config, vocab_size, split)
    loss = math.nan
    for _ in range(config.steps):
        loss = training.update()
    seconds = time.perf_counter() - started
    return {
        "precision": config.precision,
        "steps": config.steps,
        "seconds": seconds,
        "last_training_loss": loss,
        "validation_loss": training.validation_loss(),
        "reason_not_as_graph": training.step.reason,
    }


def smallest(config: TrainConfig) -> TrainConfig:
    """Return the settings shrunk to what the CPU runner does in seconds."""
    gpt = replace(config.gpt, block_size=8, n_layer=1, n_head=1, n_embd=16)
    return replace(config, gpt=gpt, batch_size=2, steps=4)


def random_split(vocab_size: int, size: int) -> Split:
    """Return random characters, for where no text is needed."""
    tokens = np.random.default_rng(0).integers(0, vocab_size, size)
    return Split(tokens[: size // 2], tokens[size // 2 :])
