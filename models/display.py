"""What a person sees while a model trains."""

from __future__ import annotations

import contextlib
import os
import textwrap
import threading
import time
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tinygrad_char.models.console import PlainConsole
from tinygrad_char.models.evaluate import Loss
from tinygrad_char.models.trainer import Update

BETWEEN_PICTURES = 0.1  # seconds between two of the progress bar
SMOOTHING = 0.95  # of the shown training loss and speed, which jump from step to step


class Display:
    """A progress bar on a terminal, and in any case a line for each evaluation.

    Used as a context manager around the training loop.
    """

    def __init__(
        self, console: PlainConsole, steps: int, start: int, characters_per_step: int
    ) -> None:
        self.console = console
        self._per_step = characters_per_step
        self._loss: float | None = None
        self._pace: float | None = None
        self._last = time.perf_counter()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left  {task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            auto_refresh=False,  # by a thread whose failure would show a trace
            speed_estimate_period=600,  # seconds; a step of a large model takes many
        )
        self._task = self._progress.add_task("training", total=steps, completed=start, status="")

        self._done = threading.Event()

    def __enter__(self) -> Self:
        self._progress.start()
        if not self._progress.disable:
            threading.Thread(target=self._refresh, daemon=True).start()
        return self

    def _refresh(self) -> None:
        while not self._done.wait(BETWEEN_PICTURES):
            try:
                self._progress.refresh()
            except OSError:  # the terminal is gone: whoever trains will find out
                return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._progress.stop()

    def stopping(self) -> None:
        """Show that a signal has come. Nothing is printed: a handler may interrupt any output."""
        self._progress.update(self._task, description="stopping (Ctrl-C again: without saving)")

    def leaving(self) -> None:
        """Give the terminal its cursor back, past any output that is being written."""
        if self.console.is_terminal:
            with contextlib.suppress(OSError):
                os.write(self.console.file.fileno(), b"\x1b[?25h\n")

    def resume_clock(self) -> None:
        """Leave the time since the last step out of the speed: it went to something else."""
        self._last = time.perf_counter()

    def update(self, update: Update) -> None:
        """Show one step."""
        now = time.perf_counter()
        self._loss = _smooth(self._loss, update.loss)
        self._pace = _smooth(self._pace, now - self._last)
        self._last = now
        self._progress.update(
            self._task,
            completed=update.step,
            status=f"loss {self._loss:.4f}  {self.speed:,.0f} chars/s",
        )

    @property
    def speed(self) -> float:
        """Characters per second, smoothed."""
        return self._per_step / self._pace if self._pace else 0.0

    def evaluation(self, step: int, train: Loss, validation: Loss, best: bool) -> None:
        """Show the losses of an evaluation."""
        speed = f"  {self.speed:9,.0f} chars/s" if self._pace else ""
        self.console.note(
            f"step {step:6d}  train {train.nats:.4f}  validation {validation.nats:.4f}"
            f"{'  best' if best else '      '}{speed}"
        )

    def sample(self, text: str) -> None:
        """Show a text that the model wrote, set apart from what the program says."""
        indented = textwrap.indent(self.console.shown(text.strip("\n")), "    ")
        self.console.print(Text(f"\n{indented}\n", style="dim"), soft_wrap=True)


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else SMOOTHING * before + (1 - SMOOTHING) * now
