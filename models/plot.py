"""The picture of a run's losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinygrad_char.checkpoint import write_atomically
from tinygrad_char.models import picture
from tinygrad_char.models.run_folder import RunFolder


def plot_losses(folder: RunFolder, title: str, notify: Callable[[str], None]) -> None:
    """Draw training and validation loss over steps, from the run's metrics, into loss.png.

    Nothing that goes wrong here raises: `notify` is told.
    """
    with picture.drawing(folder.loss_picture, notify):
        from matplotlib.figure import Figure

        records = folder.read_metrics()
        figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        steps, losses = _column(records, "step", "loss")
        axes.plot(steps, losses, color="0.75", linewidth=0.8, label="training, each batch")
        for key, label in (("train_loss", "training"), ("validation_loss", "validation")):
            axes.plot(*_column(records, "step", key), marker=".", label=label)
        axes.set(xlabel="step", ylabel="loss (nats per character)")
        axes.set_title(**picture.title(title))
        axes.grid(alpha=0.3)
        axes.legend()
        write_atomically(folder.loss_picture, picture.png(figure), follow_links=False)


def _column(records: list[dict[str, Any]], x: str, y: str) -> tuple[list[Any], list[Any]]:
    chosen = [record for record in records if y in record]
    return [record[x] for record in chosen], [record[y] for record in chosen]
