"""Speed and digits of this checkout beside another one, task for task, in turn.

Each checkout's code runs in a process of its own. Results are compared first, and told apart from
equal ones to the last bit. Times are those of all processors together (CPU time), since others on
the machine disturb them less than the clock; the ratio of the smallest times is what to trust on a
busy machine. Exit code 1 where a ratio of medians exceeds `--limit`, or results differ by more
than rounding.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from tinygrad_char.benchmarks import checkout
from tinygrad_char.benchmarks.import_time import IMPORTS, PROGRAM, run
from tinygrad_char.benchmarks.measure import ContenderError, difference
from tinygrad_char.benchmarks.report import WIDTH, duration, machine
from tinygrad_char.benchmarks.train_step import CONFIGS, Size

Kind = Literal["step", "train", "generate", "ops", "tape", "sums", "import"]
BOUND = 1e-4
"""Of the difference of results, over the largest element: rounding, after a few updates."""


@dataclass(frozen=True)
class Compare:
    """Time two checkouts in turn."""

    other: Annotated[Path, tyro.conf.Positional]
    """Folder of the other checkout, its C extension built."""
    tasks: tuple[Kind, ...] = ("step", "train", "generate", "ops", "tape", "sums", "import")
    """What is timed."""
    sizes: tuple[Size, ...] = ("lecture", "earlier-small")
    """Presets of steps and generation, as they are here; kernels take small, or smoke where that is
    all."""
    rounds: int = 15
    """Samples of each side."""
    seconds: float = 0.2
    """CPU time of a sample, about; one run where that takes longer."""
    limit: float | None = None
    """Largest ratio of medians that passes."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File for the results."""

    def __post_init__(self) -> None:
        if not (self.other / "tinygrad_char" / "__init__.py").is_file():
            raise ValueError(f"{str(self.other)!r} is not a checkout: it has no tinygrad_char")
        if self.rounds < 1:
            raise ValueError(f"--rounds is {self.rounds}; expected at least 1")
        if not 0 < self.seconds < float("inf"):
            raise ValueError(f"--seconds is {self.seconds}; expected a number above 0")


@dataclass
class Side:
    """A checkout and the process that runs its code."""

    folder: Path
    process: subprocess.Popen[str]

    def ask(self, *request: Any) -> Any:
        """Return the answer to a request.

        Raises
        ------
        ContenderError
            The process has ended; what it said stands on the error stream.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise ContenderError(f"the process of {str(self.folder)!r} failed at {request}")
        return json.loads(answer)

    def results(self, task: str) -> list[np.ndarray]:
        """Return the arrays that are compared."""
        texts = self.ask("results", task)
        return [np.load(io.BytesIO(base64.b64decode(each)), allow_pickle=False) for each in texts]

    def import_seconds(self) -> float:
        """Return the CPU time that a new process takes to import the package."""
        program = PROGRAM.replace("perf_counter", "process_time").format(IMPORTS["tinygrad_char"])
        start = f"import sys; sys.path.insert(0, {str(self.folder)!r}); "
        return run(start + program)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Side]:
    """Run a checkout's process while the context lasts."""
    command = [sys.executable, checkout.__file__, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Side(folder, process)
        assert process.stdin is not None
        process.stdin.close()  # at which it ends by itself


def settings(config: Any) -> dict[str, Any]:
    """Return the settings that differ from their defaults, which earlier versions know, too."""
    return {
        each.name: settings(value) if is_dataclass(value) else value
        for each in fields(config)
        if (value := getattr(config, each.name)) != default_of(each)
    }


def default_of(setting: Field[Any]) -> Any:
    """Return the value of a setting that none is given for."""
    if setting.default_factory is not MISSING:
        return setting.default_factory()
    return setting.default


def prepare(side: Side, options: Compare) -> list[str]:
    """Let a side make its tasks and return their names."""
    names: list[str] = []
    for kind in options.tasks:
        if kind in ("step", "train", "generate"):
            for size in options.sizes:
                names += side.ask("prepare", kind, size, settings(CONFIGS[size]))
        elif kind in ("ops", "sums"):
            smoke = set(options.sizes) == {"smoke"}
            names += side.ask("prepare", kind, "smoke" if smoke else "small")
        elif kind == "tape":
            names += side.ask("prepare", kind)
    return names


def compare(sides: tuple[Side, Side], options: Compare) -> list[dict[str, Any]]:
    """Return a row for each task that both sides have."""
    ours, others = (prepare(side, options) for side in sides)
    names = [name for name in ours if name in others]
    rows: list[dict[str, Any]] = []
    for name in names:
        here, there = (side.results(name) for side in sides)
        equal = [a.tobytes() for a in here] == [b.tobytes() for b in there]
        rows.append({"task": name, "equal": equal, "difference": difference(here, there)})
    if "import" in options.tasks:
        rows.append({"task": "import", "equal": True, "difference": 0.0})
    for row in rows:
        name = row["task"]
        runs = 1
        if name != "import":
            for side in sides:
                side.ask("time", name, 2)  # the first runs are slow ones
            runs = max(1, round(options.seconds / max(sides[0].ask("time", name, 2), 1e-7)))
        samples: tuple[list[float], list[float]] = ([], [])
        for turn in range(options.rounds):
            for index in (0, 1) if turn % 2 else (1, 0):
                side = sides[index]
                seconds = side.import_seconds() if name == "import" else None
                samples[index].append(seconds or side.ask("time", name, runs))
        row |= dict(zip(("here", "there"), samples, strict=True))
        row["ratio"] = statistics.median(samples[0]) / statistics.median(samples[1])
        row["ratio_of_smallest"] = min(samples[0]) / min(samples[1])
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(title="CPU time, median (smallest)", title_justify="left")
    table.add_column("task", no_wrap=True)
    for heading in ("here", "there", "ratio", "of smallest", "results"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        times = [
            f"{duration(statistics.median(row[side]))} ({duration(min(row[side]))})"
            for side in ("here", "there")
        ]
        found = "equal" if row["equal"] else f"{row['difference']:.1e}"
        ratios = [f"{row[key]:.3f}" for key in ("ratio", "ratio_of_smallest")]
        table.add_row(row["task"], *times, *ratios, found)
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def main() -> None:
    """Compare, time, and exit 1 where a limit is exceeded."""
    options = tyro.cli(
        Compare,
        prog="python -m tinygrad_char.benchmarks.compare",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    here = Path(__file__).resolve().parent.parent
    try:
        with serve(here) as ours, serve(options.other.resolve()) as other:
            rows = compare((ours, other), options)
    except ContenderError as error:
        sys.exit(f"error: {error}")
    found = machine()
    print(f"{found['processor']}, {found['processors']} processors; {found['python']}")
    show(rows)
    if options.json:
        options.json.write_text(json.dumps({"machine": found, "results": rows}, indent=1) + "\n")
    slow = [row for row in rows if options.limit and row["ratio"] > options.limit]
    differ = [row for row in rows if row["difference"] > BOUND]
    for row in differ:
        print(f"{row['task']}: results differ by {row['difference']:.1e} (bound {BOUND:g})")
    for row in slow:
        print(f"{row['task']}: {row['ratio']:.3f} times the other's time (limit {options.limit:g})")
    sys.exit(1 if slow or differ else 0)


if __name__ == "__main__":
    main()
