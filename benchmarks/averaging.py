"""The mean of all positions so far, (B, T, C): the same result in ever better ways.

Python loops over sequences and positions, a product with a lower triangle, the same with weights
by a softmax, as attention has them, and one running sum: in NumPy, and fused in C. Beside them the
time in which as many cores read and write the arrays once, below which nothing can go. Exit code 1
where results differ.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from tinygrad_char.benchmarks.measure import Contender
from tinygrad_char.benchmarks.report import COLUMNS, Options, Report, Row, parse
from tinygrad_char.kernels import running_mean, softmax
from tinygrad_char.kernels.backend import CPU
from tinygrad_char.kernels.cpu.bench import Task
from tinygrad_char.kernels.cpu.cores import available_cores
from tinygrad_char.kernels.operations import Settings
from tinygrad_char.models.memory import keep_freed_memory


class Shape(NamedTuple):
    """Sequences, positions, channels."""

    batch: int
    length: int
    channels: int


SHAPES = {"smoke": Shape(2, 8, 4), "small": Shape(32, 64, 64), "published": Shape(256, 512, 64)}
ROUNDS = {"smoke": 2, "small": 9, "published": 5}
PUBLISHED = {"Python loops": 4.84, "triangular product": 0.0236, "softmax weights": 0.0188}
"""Seconds on another machine, at (256, 512, 64)."""
BOUND = 1e-5
"""Ten times what float32 rounding leaves in sums over 512 positions."""


@dataclass(frozen=True)
class Averaging(Options):
    """Time running means."""

    size: Literal["smoke", "small", "published"] = "published"
    """(2, 8, 4), (32, 64, 64) or (256, 512, 64)."""


def operand(shape: Shape) -> np.ndarray:
    """Return what is averaged."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def prepare_loops(shape: Shape) -> dict[str, Task]:
    """Return a mean for each sequence and each position."""
    x = operand(shape)

    def average() -> np.ndarray:
        y = np.empty_like(x)
        for b in range(shape.batch):
            for t in range(shape.length):
                y[b, t] = x[b, : t + 1].mean(axis=0)
        return y

    return {"mean": Task(average)}


def prepare_product(shape: Shape) -> dict[str, Task]:
    """Return a product with the lower triangle, whose rows add up to 1."""
    keep_freed_memory()
    x = operand(shape)

    def average() -> np.ndarray:
        weights = np.tri(shape.length, dtype=np.float32)
        weights /= weights.sum(axis=1, keepdims=True)
        return weights @ x

    return {"mean": Task(average)}


def prepare_softmax(shape: Shape) -> dict[str, Task]:
    """Return a product with the softmax of equal scores, of which later positions are masked."""
    keep_freed_memory()
    x = operand(shape)

    def average() -> np.ndarray:
        scores = np.zeros((shape.length, shape.length), np.float32)
        mask = softmax.causal_mask(np, shape.length, shape.length)
        return softmax.forward(scores, mask) @ x

    return {"mean": Task(average)}


def prepare_running(shape: Shape, version: str) -> dict[str, Task]:
    """Return the sum so far over the number of positions so far, by a version of the kernel."""
    keep_freed_memory()
    x = operand(shape)
    forward = CPU.under(Settings((("running_mean", version),))).kernels[running_mean.forward]
    return {"mean": Task(lambda: forward(x))}


def prepare_copy(shape: Shape) -> dict[str, Task]:
    """Return what bounds every way: reading an array as large, and writing one."""
    keep_freed_memory()
    x = operand(shape)
    count = min(available_cores(), len(x))
    ends = [len(x) * part // count for part in range(count + 1)]
    first, *others = [slice(begin, end) for begin, end in pairwise(ends)]
    pool = ThreadPoolExecutor(count)

    def copy() -> np.ndarray:
        y = np.empty_like(x)
        begun = [pool.submit(np.copyto, y[part], x[part]) for part in others]
        np.copyto(y[first], x[first])  # one thread for each core, this one among them
        wait(begun)
        return y

    return {"read and write once": Task(copy)}


def add_figures(rows: list[Row], shape: Shape) -> None:
    """Note in each row the published time, and its time over that of reading and writing."""
    copy = next(row["seconds"] for row in rows if row["contender"] == "copy")
    for row in rows:
        published = PUBLISHED.get(row["contender"]) if shape == SHAPES["published"] else None
        row["published_seconds"] = published
        row["times_copy"] = row["seconds"] / copy


def _published(row: Row) -> str:
    return "" if row["published_seconds"] is None else f"{row['published_seconds'] * 1e3:,.1f} ms"


def main() -> None:
    """Compare, time, and exit 1 where results differ."""
    options = parse(Averaging)
    shape = SHAPES[options.size]
    contenders = {}
    if CPU.version_of("running_mean") == "c":
        contenders["fused"] = Contender(prepare_running, (shape, "c"))
    contenders["running sum"] = Contender(prepare_running, (shape, "reference"))
    contenders["softmax weights"] = Contender(prepare_softmax, (shape,))
    contenders["triangular product"] = Contender(prepare_product, (shape,))
    contenders["Python loops"] = Contender(prepare_loops, (shape,))
    if options.against:
        from tinygrad_char.benchmarks.torch_ops import prepare_averaging

        for way in ("cumsum", "softmax", "product"):
            arguments = (operand(shape), way)
            contenders[f"PyTorch, {way}"] = Contender(prepare_averaging, arguments)
    contenders["copy"] = Contender(prepare_copy, (shape,))
    report = Report("averaging", options, BOUND)
    report.hold(
        f"(B, T, C) = {tuple(shape)}; published: on another machine",
        contenders,
        rounds=ROUNDS[options.size],
        columns={
            **COLUMNS,
            "times the copy": lambda row: f"{row['times_copy']:.1f}",
            "published": _published,
        },
        complete=lambda rows: add_figures(rows, shape),
        case={"size": options.size, "shape": list(shape)},
    )
    sys.exit(report.finish())


if __name__ == "__main__":
    main()
