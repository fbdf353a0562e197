"""A whole training run: from a text to a folder with a trained model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_char import checkpoint
from tinygrad_char.kernels.devices import get_backend
from tinygrad_char.kernels.operations import described
from tinygrad_char.models.batches import split_corpus
from tinygrad_char.models.build import Loaded, load_checkpoint
from tinygrad_char.models.config import TrainConfig
from tinygrad_char.models.console import PlainConsole
from tinygrad_char.models.corpus import Corpus
from tinygrad_char.models.display import Display
from tinygrad_char.models.errors import RunError, UsageError
from tinygrad_char.models.escape import quoted
from tinygrad_char.models.evaluate import InterruptedEvaluationError, Loss, whole_split_loss
from tinygrad_char.models.generate import Sampling, encode_prompt, generate
from tinygrad_char.models.plot import plot_losses
from tinygrad_char.models.precision import describe_emulation, emulates
from tinygrad_char.models.recorded_text import inode
from tinygrad_char.models.resuming import describe_resumption, settings
from tinygrad_char.models.run_folder import RunFolder
from tinygrad_char.models.run_state import FolderState, ModelRecord
from tinygrad_char.models.signals import StopRequest, stop_on_signals
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.models.trainer import DivergedError, Trainer
from tinygrad_char.random import sampling_streams
from tinygrad_char.step import describe_step, why_on_tape

SAMPLE_LENGTH = 200


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    folder: str
    steps: int
    exit_code: int
    seconds: float
    validation_loss: float | None = None
    bits_per_character: float | None = None
    best_step: int | None = None
    best_validation_loss: float | None = None
    """Over the whole validation split, like `validation_loss`, with the weights of `best_step`."""
    training_loss: float | None = None
    """Of the last step's batch."""


def train(
    config: TrainConfig,
    corpus: Corpus,
    folder: RunFolder,
    console: PlainConsole,
    resumed: Loaded | None = None,
) -> Result:
    """Train in `folder`, whose lock the caller holds, until the last step, a signal, or an error.

    Raises
    ------
    UsageError
        The text is too short, or is not the text that a resumed run was trained on.
    RunError
        The loss diverged, or something could not be written. Checkpoints stay as they are.
    OSError
        The console could not be written to, and no signal had come. Nothing is lost: all is saved
        before it is shown.
    """
    started = time.perf_counter()
    tokenizer = resumed.tokenizer if resumed else CharTokenizer(corpus.content.characters)
    if resumed:
        _check_same_text(resumed, corpus)
    split = split_corpus(tokenizer.encode(corpus.content), config.gpt.block_size)
    trainer = Trainer(config, tokenizer, split, note=console.note)
    if resumed:
        trainer.restore(resumed)
    run = _Run(trainer, corpus, folder, console)
    with np.errstate(all="ignore"), stop_on_signals(run.stopping, run.leaving) as stop:
        run.prepare(resumed)
        try:
            run.introduce(resumed)
            finished = run.steps(stop)
            result = run.finish(stop, started) if finished else None
            return result or run.interrupted(stop, started)
        except DivergedError as error:
            where = f"The checkpoints in {str(folder.path)!r} are as they were"
            raise RunError(f"{error}. {where}") from error
        except OSError:
            if not stop():
                raise
            return run.result(stop.exit_code, started)  # the terminal went, and sent the signal


class _Run:
    """The pieces of one call of `train`."""

    def __init__(
        self, trainer: Trainer, corpus: Corpus, folder: RunFolder, console: PlainConsole
    ) -> None:
        self.trainer, self.corpus, self.folder, self.console = trainer, corpus, folder, console
        self.config, self.note = trainer.config, console.note
        self.start, self.records = trainer.step, 0
        self.last: dict[str, dict[str, Any]] = {}  # the last record that has each loss
        self.text = describe_data(corpus)
        characters = self.config.batch_size * self.config.accumulate * self.config.gpt.block_size
        self.display = Display(console, self.config.steps, trainer.step, characters)

    def stopping(self) -> None:
        self.display.stopping()

    def leaving(self) -> None:
        self.display.leaving()

    def prepare(self, resumed: Loaded | None) -> None:
        """Bring the folder to where the run starts."""
        if resumed:
            kept = self.folder.truncate_metrics(
                resumed.part(FolderState).metrics, self.trainer.step
            )
            self.records = kept.records
            if kept.remark:
                self.note(kept.remark)
            for record in self.folder.read_metrics():
                self.remember(record)
        else:  # from here on, whatever happens leaves a run that can be continued
            self.save(self.folder.last)
        content, remark = settings(self.folder.config, self.config, self.text, self.trainer.step)
        if remark:
            self.note(remark)
        with writing():
            checkpoint.write_atomically(self.folder.config, content, follow_links=False)

    def introduce(self, resumed: Loaded | None) -> None:
        """Say what is trained, on what, where it is kept, and how it differs from before."""
        shape, model = self.config.gpt, self.trainer.model
        size = f"{sum(each.size for each in model.parameters()):,} parameters"
        self.note(
            f"model   GPT of {size} (n_layer {shape.n_layer}, n_head {shape.n_head}, "
            f"n_embd {shape.n_embd}, block_size {shape.block_size})"
            if self.config.model == "gpt"
            else f"model   bigram of {size}"
        )
        self.note(f"text    {self.corpus.name}, {len(self.corpus):,} characters")
        self.note(f"folder  {str(self.folder.path)!r}")
        backend = get_backend(self.config.device)
        if versions := dict(backend.chosen().settings.versions):
            self.note(f"kernels {described(versions)}")
        if versions or why_on_tape(backend):
            self.note(f"steps   {describe_step(backend)}")
        if emulates(self.config):
            self.note(f"slow    {describe_emulation()}")
        if resumed:
            before = resumed.part(ModelRecord).config
            for line in describe_resumption(before, self.config, self.trainer.step):
                self.note(line)
        if self.trainer.step >= self.config.steps:
            self.note(
                f"This run has made its {self.trainer.step:,} steps; for more, add --steps NUMBER."
            )

    def record(self, **values: Any) -> None:
        record = {"step": self.trainer.step, **values}
        self.folder.append_metrics(record)
        self.records += 1
        self.remember(record)

    def remember(self, record: dict[str, Any]) -> None:
        self.last.update((key, record) for key in ("loss", "validation_loss") if key in record)

    def save(self, path: Path) -> None:
        self.folder.sync_metrics()  # the checkpoint counts them
        self.trainer.save(path, data=self.text, metrics=self.records)

    def steps(self, stop: StopRequest) -> bool:
        """Make the remaining updates; return False, with everything saved, if asked to stop."""
        trainer, config = self.trainer, self.config
        with self.display:
            while True:
                last = trainer.step >= config.steps
                if (last or trainer.step % config.eval_every == 0) and not trainer.evaluated:
                    try:
                        self.evaluate(stop)
                    except InterruptedEvaluationError:
                        return self.stop()
                    self.display.resume_clock()
                if last:
                    return True
                if stop():
                    return self.stop()
                update = trainer.update()
                self.remember({"step": update.step, "loss": update.loss})
                self.display.update(update)
                if update.step % config.log_every == 0:
                    self.record(loss=update.loss, **update.rates, norm=update.norm)

    def stop(self) -> bool:
        self.save(self.folder.last)
        return False

    def evaluate(self, stop: StopRequest) -> None:
        """Evaluate, show and record it with a sample if one is due, and save."""
        trainer, every = self.trainer, self.config.sample_every
        train_loss, validation = trainer.evaluate(stop)
        text = None
        if (
            every
            and trainer.step
            and trainer.step % every == 0
            and trainer.step < self.config.steps
        ):
            text = sample_text(trainer, trainer.step)
        best = trainer.note_evaluation(validation)
        self.record(
            train_loss=train_loss.nats,
            validation_loss=validation.nats,
            **({} if text is None else {"sample": text}),
        )
        if best:  # first, so that a last checkpoint never speaks of a best one that is not there
            self.save(self.folder.best)
        self.save(self.folder.last)
        self.display.evaluation(trainer.step, train_loss, validation, best)
        if text is not None:
            self.display.sample(text)

    def finish(self, stop: StopRequest, started: float) -> Result | None:
        """Evaluate on the whole validation split, draw the losses, and show what there is."""
        trainer, config = self.trainer, self.config
        try:
            with self.console.status("evaluating on the whole validation split"):
                with trainer.averaged():
                    final = whole_split_loss(
                        trainer.model, trainer.split.validation, stop, trainer.workers
                    )
                trained = final
                if trainer.average:
                    trained = whole_split_loss(
                        trainer.model, trainer.split.validation, stop, trainer.workers
                    )
                best = final
                if trainer.best_step != trainer.step and self.folder.best.exists():
                    model = load_checkpoint(self.folder.best, config.device).model
                    best = whole_split_loss(model, trainer.split.validation, stop, trainer.workers)
        except InterruptedEvaluationError:
            return None
        self.draw()
        result = self.result(
            0,
            started,
            validation_loss=final.nats,
            bits_per_character=final.bits_per_character,
            best_step=trainer.best_step,
            best_validation_loss=best.nats,
        )
        self.show_final(final, trained, best, result.seconds)
        return result

    def draw(self) -> None:
        plot_losses(self.folder, f"{self.config.model} on {self.corpus.name}", self.note)

    def result(self, exit_code: int, started: float, **losses: Any) -> Result:
        seconds = time.perf_counter() - started
        last = self.last.get("loss", {}).get("loss")
        folder, step = str(self.folder.path), self.trainer.step
        return Result(folder, step, exit_code, seconds, training_loss=last, **losses)

    def show_final(self, final: Loss, trained: Loss, best: Loss, seconds: float) -> None:
        trainer, folder = self.trainer, quoted(self.folder.path)
        self.display.sample(sample_text(trainer, trainer.step))
        self.note(
            f"validation loss {final.nats:.4f} nats ({final.bits_per_character:.4f} bits) per "
            f"character, over the whole split of {final.characters:,} characters"
        )
        if trained is not final:
            self.note(f"with the weights in training, not their mean: {trained.nats:.4f} nats")
        if best is not final:
            self.note(f"with the weights of step {trainer.best_step:,}: {best.nats:.4f} nats")
        self.note(
            f"{trainer.step - self.start:,} steps in {format_seconds(seconds)}; "
            f"checkpoints and loss.png are in {str(self.folder.path)!r}"
        )
        self.note(f'\nWrite with it:  tinygrad-char generate {folder} --prompt "..."')
        self.note(
            f"Train it on:    tinygrad-char train --resume {folder} --steps {2 * trainer.step}"
        )

    def interrupted(self, stop: StopRequest, started: float) -> Result:
        """Show what there is after a stop: the last losses, their picture, what to do with it."""
        folder = quoted(self.folder.path)
        self.draw()
        for key, record in self.last.items():
            what = {"loss": "training loss", "validation_loss": "validation loss"}[key]
            self.note(f"{what} {record[key]:.4f} nats per character at step {record['step']:,}")
        self.note(f"checkpoints and loss.png are in {str(self.folder.path)!r}")
        self.note(f'\nWrite with it:  tinygrad-char generate {folder} --prompt "..."')
        self.note(
            f"stopped at step {self.trainer.step:,}, everything is saved; continue with\n"
            f"  tinygrad-char train --resume {folder}"
        )
        return self.result(stop.exit_code, started)


def sample_text(trainer: Trainer, step: int) -> str:
    """Return a sample that depends on the weights, the seed and the step alone."""
    with trainer.averaged():
        tokens = generate(
            trainer.model,
            encode_prompt("", trainer.tokenizer),
            SAMPLE_LENGTH,
            Sampling(),
            sampling_streams((trainer.config.seed + step) % (1 << 64), 1),
        )
        return trainer.tokenizer.decode([int(each[0]) for each in tokens])


def describe_data(corpus: Corpus) -> dict[str, Any]:
    """Return what a checkpoint keeps of its text: where it was, and how to know it again."""
    return {
        "argument": corpus.argument,
        "characters": len(corpus),
        "sha256": corpus.sha256,
        "inode": inode(corpus.argument),
    }


def _check_same_text(resumed: Loaded, corpus: Corpus) -> None:
    before = resumed.part(FolderState).data
    if before.sha256 != corpus.sha256:
        raise UsageError(
            f"{str(resumed.path)!r} was trained on another text: {before.argument!r} with "
            f"{before.characters:,} characters (SHA-256 {before.sha256[:12]}), but "
            f"{corpus.source!r} has {len(corpus):,} ({corpus.sha256[:12]}). Give that text with "
            "--data, or start a new run without --resume"
        )


def format_seconds(seconds: float) -> str:
    """Return 8.3 s, 2 min 05 s or 3 h 02 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return "{} h {:02d} min".format(*divmod(minutes, 60))


@contextmanager
def writing() -> Iterator[None]:
    """Turn a file that cannot be written into a RunError."""
    try:
        yield
    except checkpoint.CheckpointError as error:
        raise RunError(str(error)) from error
