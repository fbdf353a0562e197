"""What benchmarks have in common beside measuring: options, tables and JSON."""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from tinygrad_char.benchmarks.measure import Contender, ContenderError, Contest, Entry, hold
from tinygrad_char.kernels.cpu.cores import available_cores
from tinygrad_char.kernels.words import how_to_install
from tinygrad_char.models.picture import drawing


def check_against(against: str | None) -> None:
    """Raise ValueError where a comparison with PyTorch is asked for, and it is not installed."""
    if against and importlib.util.find_spec("torch") is None:
        raise ValueError(
            "--against torch needs PyTorch, which is not installed: "
            f"{how_to_install('parity')}, or leave the option out"
        )


@dataclass(frozen=True)
class Options:
    """The options of every benchmark that has contenders."""

    against: Annotated[Literal["torch"] | None, tyro.conf.arg(metavar="torch")] = None
    """Measure PyTorch beside ours."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Processors for each side; otherwise PyTorch takes all, and ours what training would."""
    rounds: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Samples of each contender; otherwise what suits the size."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File for the results."""
    chart: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """File for a picture of the results."""

    def __post_init__(self) -> None:
        check_against(self.against)
        if self.threads is not None and not 1 <= self.threads <= available_cores():
            raise ValueError(
                f"--threads is {self.threads}; expected 1 to {available_cores()}, the processors "
                "here"
            )
        if self.rounds is not None and self.rounds < 1:
            raise ValueError(f"--rounds is {self.rounds}; expected at least 1")
        if self.chart and self.chart.suffix != ".png":
            raise ValueError(f"--chart is {self.chart}; expected a name that ends in .png")
        for path in (self.json, self.chart):
            if path and not path.parent.is_dir():
                raise ValueError(f"there is no folder {path.parent} for {path.name}; make it first")


Chosen = TypeVar("Chosen", bound=Options)
Row = dict[str, Any]
Columns = Mapping[str, Callable[[Row], str]]
QUIET = 0.05
"""Beyond this, threads that wait for each other lose many times what others take."""
WIDTH = 140  # of tables that are not shown in a terminal


def parse(options: type[Chosen]) -> Chosen:
    """Return the options of the command line; exit 2 with the reason where they are wrong."""
    name = Path(sys.argv[0]).stem
    return tyro.cli(options, prog=f"python -m tinygrad_char.benchmarks.{name}")


def duration(*seconds: float) -> str:
    """Return one time, or a range, in the unit that suits the last."""
    unit, size = next(
        ((unit, size) for unit, size in (("s", 1.0), ("ms", 1e-3)) if seconds[-1] >= size),
        ("µs", 1e-6),
    )
    return f"{' to '.join(f'{each / size:.3g}' for each in seconds)} {unit}"


def _median(row: Row) -> str:
    return duration(row["seconds"])


def _quartiles(row: Row) -> str:
    return duration(*row["quartiles"])


def _ratio(row: Row) -> str:
    return f"{row['ratio']:.2f}"


def _memory(row: Row) -> str:
    return "" if row["memory_growth"] is None else f"{row['memory_growth'] / 2**20:.0f} MiB"


def _difference(row: Row) -> str:
    return f"{row['difference']:.1e}"


DIFFERENCE: Columns = {"difference": _difference}
TIMES: Columns = {"median": _median, "quartiles": _quartiles, "ratio": _ratio, **DIFFERENCE}
COLUMNS: Columns = {**TIMES, "memory": _memory}


@dataclass
class Report:
    """Collects contests, shows each as it comes, and writes all down at the end."""

    name: str
    options: Options
    bound: float
    """Of the difference of results: see measure.hold."""
    rows: list[Row] = field(default_factory=list)
    libraries: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    """Whatever else belongs into the JSON file."""
    others: float = 0.0
    """The largest part of the processors that others used during a contest."""

    def hold(
        self,
        title: str,
        contenders: Mapping[str, Contender],
        *,
        rounds: int,
        columns: Columns = COLUMNS,
        complete: Callable[[list[Row]], None] | None = None,
        case: Row | None = None,
        **more: Any,
    ) -> list[Row]:
        """Hold a contest, show it as a table, and return its rows, each with its case.

        The options' number of rounds comes before `rounds`. Where results agree, `complete` may
        add to the rows, which `columns` then show. What else is given goes to `measure.hold`.
        Ends the program where a contender fails.
        """
        options = self.options
        try:
            contest = hold(
                contenders,
                bound=self.bound,
                rounds=options.rounds or rounds,
                **{"threads": options.threads, **more},
            )
        except ContenderError as error:
            sys.exit(f"error: {error}")
        self._introduce(contest)
        rows = [
            {**(case or {}), **row}
            for task, entries in contest.entries.items()
            for row in _rows(task, entries, contest.bound)
        ]
        self.rows += rows
        if contest.others is not None:
            self.others = max(self.others, contest.others)
        if contest.agree and complete:
            complete(rows)
        _show(title, rows, columns if contest.agree else DIFFERENCE)
        return rows

    @property
    def agree(self) -> bool:
        """Whether every difference so far is within its bound."""
        return all(row["agrees"] for row in self.rows)

    def finish(self, x: str | None = None, panel: str = "task") -> int:
        """Say whether all results agreed, write the files, and return the exit code.

        The chart has lines over row[x] where x is given, and bars otherwise.
        """
        worst = max(self.rows, key=lambda row: row["difference"] / (row["bound"] or 1))
        verdict = "results agree" if self.agree else "RESULTS DIFFER, so nothing was timed"
        print(
            f"{verdict}: at most {worst['difference']:.2g} ({worst['contender']}, "
            f"{worst['task']}; bound {worst['bound']:g})"
        )
        if self.others > QUIET:
            print(
                f"others used {self.others:.0%} of the processors meanwhile: these figures mean "
                "little; repeat on a quiet machine"
            )
        if self.options.json:
            values = {
                "benchmark": self.name,
                "arguments": [without_folder(each) for each in sys.argv[1:]],
                "machine": machine(),
                "libraries": self.libraries,
                "agree": self.agree,
                "used_by_others": self.others,
                **self.notes,
                "results": self.rows,
            }
            self.options.json.write_text(json.dumps(values, indent=1) + "\n")
        if self.options.chart and self.agree:
            with drawing(self.options.chart, lambda said: print(said, file=sys.stderr)):
                from tinygrad_char.benchmarks import chart

                if x is None:
                    labels = [duration(row["seconds"]) for row in self.rows]
                    chart.draw_bars(self.options.chart, self.name, self.rows, labels)
                else:
                    chart.draw_lines(self.options.chart, self.name, self.rows, x, panel)
        return 0 if self.agree else 1

    def _introduce(self, contest: Contest) -> None:
        """Say what contenders run on that were not yet seen."""
        if not self.libraries:
            found = machine()
            print(f"{found['processor']}, {found['processors']} processors; {found['python']}")
        for found in contest.libraries.values():
            side = "PyTorch" if found["version"].startswith("PyTorch") else "ours"
            if side not in self.libraries:
                self.libraries[side] = found
                print(f"{side}: {', '.join(found.values())}")


def _show(title: str, rows: list[Row], columns: Columns) -> None:
    table = Table(title=title, title_justify="left")
    for heading in ("task", "contender"):
        table.add_column(heading, no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    before = None
    for row in rows:
        if row["task"] != before:
            table.add_section()
        task = "" if row["task"] == before else row["task"]
        table.add_row(task, row["contender"], *(show(row) for show in columns.values()))
        before = row["task"]
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def _rows(task: str, entries: Mapping[str, Entry], bound: float) -> list[Row]:
    """Return a task's entries as plain values."""
    rows: list[Row] = []
    for name, entry in entries.items():
        row: Row = {
            "task": task,
            "contender": name,
            "difference": entry.difference,
            "bound": bound,
            "agrees": entry.difference <= bound,
            "memory_peak": entry.memory and entry.memory.peak,
            "memory_growth": entry.memory and entry.memory.growth,
        }
        if entry.timing:
            first, third = entry.timing.quartiles
            row["seconds"] = entry.timing.median
            row["quartiles"] = [first, third]
            row["samples"] = list(entry.timing.samples)
            row["runs_in_sample"] = entry.timing.runs_in_sample
            row["ratio"] = entry.timing.median / (rows[0]["seconds"] if rows else row["seconds"])
        rows.append(row)
    return rows


def without_folder(argument: str) -> str:
    """Return an argument; of an absolute path only the name, which other machines have too."""
    option, equals, value = argument.rpartition("=")
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)


def machine() -> dict[str, Any]:
    """Return the processor, how many of them may be used, and Python's version."""
    model = ""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "processor": f"{model or platform.processor() or 'processor'} ({platform.machine()})",
        "processors": available_cores(),
        "python": f"Python {platform.python_version()} on {platform.system()}",
    }
