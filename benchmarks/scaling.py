"""What a training step costs as one quantity grows and the others stay, and with which exponent.

Quantities: characters of context (T), channels (C), layers, windows in a batch, processors. The
exponent is the slope of a line fitted by least squares to the logarithms: 1 means that twice as
much takes twice as long. The steps are those of benchmarks/train_step.py, and checked like them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from tinygrad_char.benchmarks.measure import Contender
from tinygrad_char.benchmarks.report import TIMES, Options, Report, Row, parse
from tinygrad_char.benchmarks.train_step import (
    BOUND,
    CHECKED_UPDATES,
    CONFIGS,
    TURN,
    VOCABULARY,
    checked,
    prepare,
    random_split,
)
from tinygrad_char.kernels.cpu.bench import Task
from tinygrad_char.kernels.cpu.cores import available_cores
from tinygrad_char.models.config import TrainConfig

Axis = Literal["T", "C", "layers", "batch", "threads"]
VALUES: dict[str, dict[Axis, list[int]]] = {
    "smoke": {"T": [4, 8], "C": [8, 16], "layers": [1, 2], "batch": [1, 2]},
    "small": {
        "T": [16, 32, 64, 128, 256],
        "C": [32, 64, 128, 256, 384],
        "layers": [1, 2, 4, 8],
        "batch": [2, 6, 12, 24, 48],
    },
}
STARTS = {"smoke": CONFIGS["smoke"], "small": CONFIGS["earlier-small"]}
FIELDS = {"T": "block_size", "C": "n_embd", "layers": "n_layer"}
ROUNDS = {"smoke": 2, "small": 5}


@dataclass(frozen=True)
class Scaling(Options):
    """Time training steps of growing size."""

    size: Literal["smoke", "small"] = "small"
    """What everything starts from: nanoGPT's shape for the CPU, or one that takes seconds."""
    axes: tuple[Axis, ...] = ("T", "C", "layers", "batch", "threads")
    """What grows."""


def grow(config: TrainConfig, axis: Axis, value: int) -> TrainConfig:
    """Return the settings with one quantity changed."""
    if axis == "batch":
        return replace(config, batch_size=value)
    if axis == "threads":
        return config
    shape: dict[str, Any] = {FIELDS[axis]: value}
    return replace(config, gpt=replace(config.gpt, **shape))


def exponent(values: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Return the slope of the least-squares line through (log value, log seconds).

    None where there are not two different values.
    """
    x, y = np.log(values), np.log(seconds)
    x = x - x.mean()
    spread = float(x @ x)
    return float(x @ y) / spread if spread else None


def prepare_steps(configs: dict[str, TrainConfig]) -> dict[str, Task]:
    """Return our updates with each of some settings."""
    return {name: prepare(config)["step"] for name, config in configs.items()}


def main() -> None:
    """Compare, time, fit, and exit 1 where results differ."""
    options = parse(Scaling)
    report = Report("scaling", options, BOUND)

    def hold(axis: Axis, values: list[int], threads: int | None) -> None:
        """Time steps at some values of one quantity."""
        config = STARTS[options.size]
        names = {f"{axis} = {value}": value for value in values}
        configs = {name: grow(config, axis, value) for name, value in names.items()}
        contenders = {"ours": Contender(prepare_steps, (configs,))}
        if options.against:
            from tinygrad_char.benchmarks.torch_models import prepare_training_steps

            pairs = {name: (each, checked(each)) for name, each in configs.items()}
            arguments = (pairs, CHECKED_UPDATES, len(VOCABULARY), random_split())
            contenders["PyTorch"] = Contender(prepare_training_steps, arguments)

        def add_values(rows: list[Row]) -> None:
            for row in rows:
                row["axis"], row["value"] = axis, names[row["task"]]

        report.hold(
            f"{options.size}, but for {axis}",
            contenders,
            rounds=ROUNDS[options.size],
            seconds=TURN,
            columns=TIMES,
            complete=add_values,
            threads=threads,
        )

    for axis in options.axes:
        if axis == "threads":
            for threads in range(1, (options.threads or available_cores()) + 1):
                hold(axis, [threads], threads)
        else:
            hold(axis, VALUES[options.size][axis], options.threads)
    if report.agree:
        report.notes["exponents"] = fit(report.rows)
        show(report.notes["exponents"])
    sys.exit(report.finish(x="value", panel="axis"))


def fit(rows: list[Row]) -> list[Row]:
    """Return the exponent of each quantity for each side; None with a single value."""
    found = []
    for axis, contender in dict.fromkeys((row["axis"], row["contender"]) for row in rows):
        line = [row for row in rows if (row["axis"], row["contender"]) == (axis, contender)]
        slope = exponent([row["value"] for row in line], [row["seconds"] for row in line])
        found.append({"axis": axis, "contender": contender, "exponent": slope})
    return found


def show(exponents: list[Row]) -> None:
    """Print the exponents as a table."""
    table = Table("quantity", "contender", "exponent", title="time grows as", title_justify="left")
    for each in exponents:
        slope = each["exponent"]
        table.add_row(each["axis"], each["contender"], "" if slope is None else f"{slope:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
