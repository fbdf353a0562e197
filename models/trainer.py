"""One model in training: its updates, its evaluations, and its whole state."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tinygrad_char import checkpoint, parallel
from tinygrad_char.averaging import WeightAverage
from tinygrad_char.checks import NonFiniteError
from tinygrad_char.kernels.devices import get_backend
from tinygrad_char.models.batches import RandomBatches, Split, cut_batch
from tinygrad_char.models.build import (
    MODEL_PREFIX,
    OPTIMIZER_PREFIX,
    TRAINING_PREFIX,
    Loaded,
    build_model,
    check_finite,
)
from tinygrad_char.models.config import TrainConfig
from tinygrad_char.models.errors import RunError
from tinygrad_char.models.evaluate import Loss, ShouldStop, fixed_batches, mean_loss, never
from tinygrad_char.models.memory import check_memory
from tinygrad_char.models.optimizers import build_optimizer, learning_rates, set_rates
from tinygrad_char.models.run_state import TrainerState
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.modes import detect_nonfinite
from tinygrad_char.parallel import Workers
from tinygrad_char.random import Generator
from tinygrad_char.repeated import RepeatedLoss
from tinygrad_char.training_step import TrainingStep


class DivergedError(RunError):
    """The loss or the gradient is not finite."""


@dataclass(frozen=True)
class Update:
    """What one update of the weights was like."""

    step: int
    loss: float
    norm: float
    rates: dict[str, float]
    """Learning rates by the names of their settings: lr, and with Muon muon_lr."""


class Trainer:
    """A model, its optimizer and its random streams, at some step of a run.

    Attributes
    ----------
    step
        Number of updates made.
    best_loss, best_step
        Lowest validation loss of an evaluation so far, and the step it was at.
    evaluated
        Whether the evaluation at this step has been made, where there is one.
    workers
        The threads that compute, by default one for each core. How many makes no difference to
        any result.
    average
        The running mean of the weights, if there is one.
    loss
        The loss of a shard, whose operations are repeated without the tape where they can be.
    recorded
        The step as one CUDA graph, on devices that record; `note` is told where that fails.
    """

    def __init__(
        self,
        config: TrainConfig,
        tokenizer: CharTokenizer,
        split: Split,
        threads: int | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.config, self.tokenizer, self.split = config, tokenizer, split
        backend = get_backend(config.device)
        check_memory(config, len(tokenizer), backend.in_host_memory)
        self.generator = Generator(config.seed)
        self.model = build_model(config, len(tokenizer), self.generator)
        self.workers = Workers(threads if backend.shards_batches else 1)
        self.shards = config.shards if backend.shards_batches else 1
        self.optimizer = build_optimizer(config, self.model)
        self.average = WeightAverage(self.optimizer, config.ema) if config.ema else None
        self.schedule = learning_rates(config)
        self.muon_schedule = learning_rates(config, config.muon_lr)
        self.recorded = None
        if not backend.shards_batches:
            self.recorded = TrainingStep(
                lambda x, y: self.model(x, y)[1],
                self.optimizer,
                self.generator.dropout,
                max_norm=config.clip or math.inf,
                note=note,
            )
        self.loss = RepeatedLoss(
            lambda shard: self.model(*shard)[1], self.optimizer.parameters, self.generator.dropout
        )
        self.step = 0
        self.best_loss, self.best_step = math.inf, 0
        self.evaluated = False
        size = (config.gpt.block_size, config.batch_size)
        self._batches = RandomBatches(split.train, *size, self.generator.batches)
        self._fixed = [fixed_batches(part, *size, config.eval_batches) for part in split]

    def update(self) -> Update:
        """Make one update from `accumulate` random batches.

        Raises
        ------
        DivergedError
            The loss or the norm of the gradient is not finite. The weights and the random streams
            are as before, and the message names the first operation that went wrong.
        """
        before = self.generator.get_state()
        rates = {"lr": self.schedule(self.step)}
        if self.config.optimizer == "muon":
            rates["muon_lr"] = self.muon_schedule(self.step)
        set_rates(self.optimizer, **rates)
        if self.recorded:
            count = self.config.accumulate
            loss, norm = self.recorded.accumulated(
                self._batches.draw(count), meanwhile=lambda: self._batches.draw_ahead(count)
            )
        else:
            loss, norm = self._backward(), math.nan
            if math.isfinite(loss):
                norm = self.optimizer.step(max_norm=self.config.clip or math.inf) or 0.0
        if not math.isfinite(norm):
            what, value = ("norm of the gradient", norm) if math.isfinite(loss) else ("loss", loss)
            self.generator.set_state(before)
            error = self._diverged(what, value, self._backward)
            self.generator.set_state(before)
            raise error
        self.step += 1
        if self.average:
            self.average.update(self.step)
        self.evaluated = False
        return Update(self.step, loss, norm, rates)

    def _backward(self) -> float:
        config = self.config
        self.optimizer.zero_grad()
        shards = []
        for batch in self._batches.draw(config.accumulate):
            shards += cut_batch(*batch, self.shards)
        return parallel.backward(
            self.loss,
            shards,
            [len(x) / (config.batch_size * config.accumulate) for x, _ in shards],
            self.optimizer.parameters,
            workers=self.workers,
            dropout=self.generator.dropout,
            flat_grad=self.optimizer.flat_grad,
        )

    def _diverged(self, what: str, value: float, repeat: Callable[[], object]) -> DivergedError:
        cause = "every operation gave finite values when it was repeated"
        try:
            with detect_nonfinite():
                repeat()
        except NonFiniteError as error:
            cause = str(error)
        return DivergedError(
            f"the {what} is {value} at step {self.step}: {cause}. Try a lower --lr, a longer "
            "--warmup or a smaller --clip"
        )

    def evaluate(self, should_stop: ShouldStop = never) -> tuple[Loss, Loss]:
        """Return the losses on the fixed batches of the training and the validation split.

        Raises
        ------
        InterruptedEvaluationError
            `should_stop` said so.
        DivergedError
            A loss is not finite; the message names the first operation that went wrong.
        """
        with self.averaged():
            train, validation = (
                mean_loss(self.model, batches, should_stop, self.workers) for batches in self._fixed
            )
            parts = zip(("training", "validation"), (train, validation), self._fixed, strict=True)
            for name, loss, batches in parts:
                if not math.isfinite(loss.nats):
                    raise self._diverged(
                        f"{name} loss", loss.nats, partial(mean_loss, self.model, batches)
                    )
        return train, validation

    def averaged(self) -> AbstractContextManager[None]:
        """Have the mean of the weights in the model, where there is one, while the context lasts.

        It is what is evaluated, and what a checkpoint has as the model.
        """
        return self.average.in_place() if self.average else nullcontext()

    def note_evaluation(self, validation: Loss) -> bool:
        """Remember that this step was evaluated; return whether its loss is the lowest so far."""
        self.evaluated = True
        best = validation.nats < self.best_loss
        if best:
            self.best_loss, self.best_step = validation.nats, self.step
        return best

    def save(self, path: Any, **more: Any) -> None:
        """Write the whole state, and further metadata, as a checkpoint; RunError if it fails."""
        state = {
            OPTIMIZER_PREFIX + name: array for name, array in self.optimizer.state_dict().items()
        }
        if self.average:  # copies, since the mean takes their place
            state |= {name: each.copy() for name, each in self._weights(TRAINING_PREFIX).items()}
        with self.averaged():
            self._write(path, {**self._weights(MODEL_PREFIX), **state}, more)

    def _weights(self, prefix: str) -> dict[str, np.ndarray]:
        return {
            prefix + name: tensor.backend.to_numpy(tensor.array)
            for name, tensor in self.model.state_dict().items()
        }

    def _write(self, path: Any, tensors: dict[str, np.ndarray], more: dict[str, Any]) -> None:
        metadata = {
            "config": self.config.to_json(),
            "vocabulary": self.tokenizer.characters,
            "step": self.step,
            "random": self.generator.get_state(),
            "best_loss": self.best_loss,
            "best_step": self.best_step,
            "evaluated": self.evaluated,
            **more,
        }
        try:
            checkpoint.save(path, tensors, metadata, follow_links=False)
        except checkpoint.CheckpointError as error:
            raise RunError(str(error)) from error

    def restore(self, loaded: Loaded) -> None:
        """Go on exactly where the run stood that wrote this checkpoint; RunError if impossible."""
        state = loaded.part(TrainerState)
        for name in ("optimizer", "decayed"):
            mine, before = (getattr(each, name) for each in (self.config, loaded.config))
            if mine != before:
                raise RunError(
                    f"{str(loaded.path)!r} cannot be continued: {name} is {mine!r}, but the "
                    f"checkpoint's is {before!r}, whose state is of other parameters"
                )
        moments, trained = (
            {
                name.removeprefix(prefix): array
                for name, array in loaded.tensors.items()
                if name.startswith(prefix)
            }
            for prefix in (OPTIMIZER_PREFIX, TRAINING_PREFIX)
        )
        check_finite(loaded.path, {**moments, **trained})
        try:
            weights = {name: tensor.array for name, tensor in loaded.model.state_dict().items()}
            self.model.load_state_dict(weights)
            if self.average:  # which begins with the weights where the run had none before
                self.average.flat[...] = self.optimizer.flat
            if trained:
                self.model.load_state_dict(trained)
            self.optimizer.load_state_dict(moments)
        except ValueError as error:
            raise RunError(f"{str(loaded.path)!r} cannot be continued: {error}") from error
        updates, squares = moments["updates"], moments["exp_avg_sq"]
        if ((updates < 0) | (updates > state.step)).any() or (squares < 0).any():
            raise RunError(
                f"{str(loaded.path)!r} cannot be continued: the optimizer's state has numbers of "
                f"updates outside 0 to {state.step}, or negative squares"
            )
        self.generator.set_state(loaded.metadata["random"])
        self.step = state.step
        self.best_loss, self.best_step = state.best_loss, state.best_step
        self.evaluated = state.evaluated
