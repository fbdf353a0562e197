"""Every fused kernel beside its reference and PyTorch, and beside what the machine can do.

The ceilings are measured in the same run: for kernels bound by memory, a copy that moves as many
bytes; for those bound by arithmetic, a large matrix product. One processor for each side unless
told otherwise, which is what a kernel has in training, where whole shards of a batch run side by
side. Exit code 1 where results differ.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from tinygrad_char.benchmarks.measure import Contender
from tinygrad_char.benchmarks.report import TIMES, Columns, Options, Report, Row, parse
from tinygrad_char.kernels.backend import CPU, references, status
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work
from tinygrad_char.kernels.operations import benches, operations
from tinygrad_char.models.memory import keep_freed_memory

BOUND = 1e-4
"""Some tens of times what float32 rounding leaves in sums over thousands of rows."""
SIZES = {
    "smoke": Dimensions(2, 2, 5, 16, 7, 100, 64),
    "small": Dimensions(6, 4, 64, 128, 65, 804_096, 1024),
    "full": Dimensions(4, 6, 256, 384, 65, 10_788_929, 1024),
    "large": Dimensions(64, 6, 256, 384, 65, 10_788_929, 1024),
}
ROUNDS = {"smoke": 2, "small": 9, "full": 9, "large": 5}


@dataclass(frozen=True)
class Ops(Options):
    """Time each fused kernel."""

    size: Literal["smoke", "small", "full", "large"] = "full"
    """Arrays of a shard of nanoGPT's shapes, small and full, or of a whole batch of the latter."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = 1
    """Processors for each side."""
    only: tuple[str, ...] = ()
    """Some kernels only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.only if name not in fused()]
        if unknown:
            raise ValueError(f"--only {unknown[0]}: {status()}; expected some of these")


def fused() -> list[str]:
    """Return the operations that kernels in C serve."""
    return [name for name in operations() if CPU.version_of(name) == "c"]


CASES: dict[str, Callable[[Any, Dimensions], dict[str, Task]]] = benches("cases")
"""For each kernel, its tasks from an implementation with its reference's signature."""


def work(at: Dimensions) -> Work:
    """Return the least that each task must do, and the matrix product: bytes, or operations."""
    found: Work = {"product": ("operations", 2.0 * at.product**3)}
    for each in benches("work").values():
        found |= each(at)
    return found


def prepare(backend: str, names: list[str], at: Dimensions) -> dict[str, Task]:
    """Return the tasks of some kernels, fused or as references."""
    keep_freed_memory()
    source = CPU if backend == "fused" else references()
    return {
        task: found
        for name in names
        for task, found in CASES[name](source.operation(name), at).items()
    }


def copy_name(amount: float) -> str:
    """Return the name of the copy that reads and writes so many bytes together."""
    return f"copy of {amount / 2:,.0f} bytes"


def prepare_ceilings(amounts: list[float], at: Dimensions) -> dict[str, Task]:
    """Return what bounds every kernel: copies that move so many bytes, and a matrix product."""
    keep_freed_memory()
    square = np.ones((at.product, at.product), np.float32)
    result = np.empty_like(square)
    tasks = {"product": Task(lambda: np.matmul(square, square, out=result), lambda: result[0])}

    def copy(amount: float) -> Task:
        source = np.ones(round(amount / 8), np.float32)
        target = np.empty_like(source)
        return Task(lambda: np.copyto(target, source), lambda: target[:1])

    return {**{copy_name(amount): copy(amount) for amount in amounts}, **tasks}


def add_rates(rows: list[Row], at: Dimensions) -> None:
    """Note in each row what it did in a second, and what part of its ceiling that is."""
    amounts = work(at)
    copies = {copy_name(amount): amount for unit, amount in amounts.values() if unit == "bytes"}
    ceilings: dict[str, float] = {}
    for row in rows:
        task = row["task"]
        row["unit"], amount = amounts.get(task) or ("bytes", copies[task])
        row["per_second"] = amount / row["seconds"]
        row["ceiling"] = copy_name(amount) if row["unit"] == "bytes" else "product"
        ceilings.setdefault(row["ceiling"], row["per_second"])  # the machine comes first
        row["of_ceiling"] = row["per_second"] / ceilings[row["ceiling"]]


def _rate(row: Row) -> str:
    unit = "GB/s" if row["unit"] == "bytes" else "GFLOP/s"
    return f"{row['per_second'] / 1e9:.1f} {unit}"


COLUMNS: Columns = {
    **TIMES,
    "rate": _rate,
    "of ceiling": lambda row: f"{row['of_ceiling']:.0%}",
}


def main() -> None:
    """Compare, time, and exit 1 where results differ."""
    options = parse(Ops)
    if not fused():
        sys.exit(f"error: there is nothing to measure: {status()}")
    at = SIZES[options.size]
    names = [name for name in options.only or fused() if name in CASES]
    amounts = {task: amount for task, amount in work(at).items() if task.split()[0] in names}
    moved = sorted({amount for unit, amount in amounts.values() if unit == "bytes"})
    contenders = {
        "machine": Contender(prepare_ceilings, (moved, at)),
        "fused": Contender(prepare, ("fused", names, at)),
        "reference": Contender(prepare, ("reference", names, at)),
    }
    if options.against:
        from tinygrad_char.benchmarks.torch_ops import prepare_ops

        contenders["PyTorch"] = Contender(prepare_ops, (names, at))
    report = Report("ops", options, BOUND)
    report.hold(
        f"{options.size}: {at.batch} sequences of {at.length}, {at.channels} channels",
        contenders,
        rounds=ROUNDS[options.size],
        columns=COLUMNS,
        complete=lambda rows: add_rates(rows, at),
        case={"size": options.size},
        seconds=0.02,
    )
    sys.exit(report.finish())


if __name__ == "__main__":
    main()
