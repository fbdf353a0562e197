"""The products of linear layers in float32 and in bfloat16, at the sizes of a model, on one core.

What is timed are single calls, in turn, by the CPU time of the thread, and what counts is the least
of many: that says something on a machine that others use, too. Exit code 1 where results differ.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from tinygrad_char.benchmarks.measure import limit_threads
from tinygrad_char.benchmarks.report import check_against
from tinygrad_char.kernels import linear
from tinygrad_char.kernels.array import to_bfloat16
from tinygrad_char.kernels.backend import CPU, status
from tinygrad_char.kernels.operations import Settings

ROUNDS = {"smoke": 2, "small": 60, "medium": 40, "full": 15}
SIZES = {"smoke": (16, 8), "small": (384, 96), "medium": (1024, 128), "full": (1024, 384)}
"""Rows, which are characters of a shard, and channels."""
BOUND = 1e-4
"""Some tens of times what rounding leaves in sums of products, of the largest result."""
BOUND_OF_TORCH = 1e-2
"""The same where results are bfloat16."""


@dataclass(frozen=True)
class Products:
    """Time products."""

    size: Literal["smoke", "small", "medium", "full"] = "medium"
    """Rows and channels: (384, 96), (1024, 128) or (1024, 384)."""
    against: Annotated[Literal["torch"] | None, tyro.conf.arg(metavar="torch")] = None
    """Measure PyTorch beside ours: float32, autocast to bfloat16, and medium precision."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File for the results."""

    def __post_init__(self) -> None:
        check_against(self.against)


class Shape(NamedTuple):
    """A product (rows, depth) (depth, columns), of operands that lie transposed or not."""

    name: str
    rows: int
    depth: int
    columns: int

    @property
    def operations(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.rows * self.depth * self.columns


Task = Callable[[], np.ndarray]


def layers(rows: int, channels: int) -> Iterator[tuple[int, int, int]]:
    """Yield rows, inputs and outputs of the linear layers of a block."""
    for inputs, outputs in ((1, 3), (1, 1), (1, 4), (4, 1)):
        yield rows, inputs * channels, outputs * channels


def tasks(
    sizes: tuple[int, int, int], torch: Any = None
) -> Iterator[tuple[Shape, np.ndarray, dict[str, Task]]]:
    """Yield a layer's products, what they are in float64 of rounded operands, and ways to them."""
    rows, inputs, outputs = sizes
    rng = np.random.default_rng(0)
    x, weight, grad = (
        rng.standard_normal(shape, np.float32)
        for shape in ((rows, inputs), (outputs, inputs), (rows, outputs))
    )
    low_x, low_weight, low_grad = (to_bfloat16(each).astype(float) for each in (x, weight, grad))
    ways = {"float32": CPU.kernels, "bf16": CPU.under(Settings(bf16=True)).kernels}

    def of(operands: tuple[np.ndarray, np.ndarray], call: Callable[[Any], Any]) -> dict[str, Task]:
        found: dict[str, Task] = {way: partial(call, k) for way, k in ways.items()}
        return found | (_of_torch(torch, *operands) if torch else {})

    layer = f"{inputs} x {outputs}"
    yield (
        Shape(f"{layer}, y", rows, inputs, outputs),
        low_x @ low_weight.T,
        of((x, weight.T), lambda k: k[linear.forward](x, weight, None)),
    )
    yield (
        Shape(f"{layer}, dx", rows, outputs, inputs),
        low_grad @ low_weight,
        of((grad, weight), lambda k: k[linear.backward](grad, x, weight, (True, False, False))[0]),
    )
    yield (
        Shape(f"{layer}, dW", outputs, rows, inputs),
        low_grad.T @ low_x,
        of((grad.T, x), lambda k: k[linear.backward](grad, x, weight, (False, True, False))[1]),
    )


def _of_torch(torch: Any, a: np.ndarray, b: np.ndarray) -> dict[str, Task]:
    left, right = torch.from_numpy(a), torch.from_numpy(b)

    def autocast() -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return left @ right

    def medium() -> Any:
        torch.set_float32_matmul_precision("medium")
        try:
            return left @ right
        finally:
            torch.set_float32_matmul_precision("highest")

    return {
        "PyTorch": lambda: left @ right,
        "PyTorch, bf16 autocast": autocast,
        "PyTorch, medium precision": medium,
    }


def least_seconds(found: dict[str, Task], rounds: int) -> dict[str, float]:
    """Return the least CPU time of each task, all having been run in turn."""
    best = dict.fromkeys(found, float("inf"))
    for _ in range(rounds):
        for name, task in found.items():
            begin = time.thread_time()
            task()
            best[name] = min(best[name], time.thread_time() - begin)
    return best


def difference(result: Any, expected: np.ndarray) -> float:
    """Return the largest difference over the largest element."""
    array = result if isinstance(result, np.ndarray) else result.float().numpy()
    return float(abs(array - expected).max() / abs(expected).max())


def main() -> None:
    """Compare, time, and exit 1 where results differ."""
    options = tyro.cli(Products, prog="python -m tinygrad_char.benchmarks.products")
    if CPU.version_of("linear") != "c":
        sys.exit(f"error: {status()}")
    limit_threads(1)
    torch: Any = None
    if options.against:
        import torch

        torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for sizes in layers(*SIZES[options.size]):
        for shape, expected, found in tasks(sizes, torch):
            apart = {name: difference(task(), expected) for name, task in found.items()}
            seconds = least_seconds(found, ROUNDS[options.size])
            rows.append({**shape._asdict(), "seconds": seconds, "difference": apart})
    _show(options.size, rows)
    low = max(row["difference"]["bf16"] for row in rows)
    others = max(max(row["difference"].values()) for row in rows)
    agree = low <= BOUND and others <= BOUND_OF_TORCH
    print(f"results in bf16 differ from float64 of rounded operands by at most {low:.1e}")
    if options.json:
        options.json.write_text(json.dumps({"agree": agree, "results": rows}, indent=1) + "\n")
    sys.exit(0 if agree else 1)


def _show(size: str, rows: list[dict[str, Any]]) -> None:
    names = list(rows[0]["seconds"])
    table = Table("product", *names, "bf16 over float32")
    total = dict.fromkeys(names, 0.0)
    for row in rows:
        shape = Shape(*(row[name] for name in Shape._fields))
        seconds = row["seconds"]
        rates = [f"{shape.operations / seconds[name] / 1e9:.0f}" for name in names]
        table.add_row(shape.name, *rates, f"{seconds['float32'] / seconds['bf16']:.2f}")
        total = {name: total[name] + seconds[name] for name in names}
    times = [f"{total[name] * 1e3:.2f} ms" for name in names]
    table.add_row("all", *times, f"{total['float32'] / total['bf16']:.2f}")
    console = Console(width=120)
    console.print(
        f"{size}: inputs x outputs of a layer, {SIZES[size][0]} rows; GFLOP/s on one core"
    )
    console.print(table)


if __name__ == "__main__":
    main()
