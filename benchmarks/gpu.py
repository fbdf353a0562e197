"""Everything that a machine with a GPU can tell, in one command and in less than ten minutes.

    TINYGRAD_CHAR_DATA=FOLDER python -m tinygrad_char.benchmarks.gpu --json gpu.json

checks every kernel on the device against its reference; measures how fast the device copies and
multiplies, and how near to that each kernel comes; attention beside PyTorch's; training steps of
the preset `lecture-full` beside PyTorch's; trains it to its end on tiny Shakespeare; and the
running mean and attention as loops, as products, and fused. Each part has a process and a time of
its own. The results are written after every row: a part that fails, or that time runs out for,
loses none of the others.

Exit code 1 where a part of ours failed, a check did not pass, two sides that were compared did not
agree, or there is no GPU. Where PyTorch fails, or is not installed, that is said.

Needs the packages that the command line needs, and CuPy and ml_dtypes; PyTorch is optional.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tinygrad_char.benchmarks import gpu_report
from tinygrad_char.benchmarks.gpu_parts import PARTS, Settings
from tinygrad_char.benchmarks.gpu_timing import Row
from tinygrad_char.models.corpus import FOLDER_VARIABLE, SHAKESPEARE_FILE, load_corpus
from tinygrad_char.models.errors import RunError, UsageError

ROOT = Path(__file__).resolve().parents[1]
TAIL, BEGIN, GRACE = 1500, 120, 20
"""The last characters of a failed process that are kept; seconds that one has to begin in, where
PyTorch is first read from a slow disk, say; and to end in."""


class Plan(NamedTuple):
    """The seconds that a part may take in all, and one case of it."""

    part: float
    case: float


PLAN = {
    "machine": Plan(120, 60),
    "compile": Plan(150, 150),
    "checks": Plan(120, 60),
    "ceilings": Plan(40, 20),
    "kernels": Plan(60, 20),
    "attention": Plan(40, 20),
    "steps": Plan(60, 30),
    "PyTorch": Plan(100, 30),
    "training": Plan(120, 120),
    "averaging": Plan(30, 20),
    "attention ladder": Plan(30, 20),
    "PyTorch compiled": Plan(400, 400),
}
"""Limits, not estimates. torch.compile is last and gets what is left: tuning takes minutes."""


def main(arguments: list[str] | None = None) -> int:
    """Run the parts and return the exit code."""
    options = _options(arguments)
    started = time.perf_counter()
    parts = [each for each in options.parts if each != "machine"]
    results: Row = {"machine": {}, "quick": options.quick, "failed": [], "parts": {}}
    try:
        if "training" in parts:
            options.data = find_corpus(options.data)
        write(options.json, results)
    except (RunError, UsageError, OSError) as error:
        return _refuse(str(error))
    deadline = started + 60 * options.minutes
    machine = run_part("machine", options, deadline, show=lambda row: None)
    described = (machine["rows"] or [{}])[0]
    if machine["failed"]:
        return _refuse(machine.get("error") or described.get("error", "the device does not answer"))
    results["machine"] = {name: value for name, value in described.items() if name != "case"}
    for name, value in results["machine"].items():
        print(f"{name:20} {value}")
    for name in parts:
        is_torch = name.startswith("PyTorch")
        if is_torch and importlib.util.find_spec("torch") is None:
            results["parts"][name] = {"rows": [], "error": "PyTorch is not installed"}
            print(f"\n{name}: PyTorch is not installed")
            continue
        print(f"\n{name}", flush=True)
        section: Row = {"rows": []}
        results["parts"][name] = section

        def keep(section: Row = section) -> None:
            write(options.json, results)

        run_part(name, options, deadline, section, keep)
        if section["failed"] and not is_torch:
            results["failed"].append(name)
        print(f"  {len(section['rows'])} rows, {section['seconds']:.1f} s", flush=True)
        write(options.json, results)
    results["seconds"] = time.perf_counter() - started
    results["failed"] += gpu_report.disagreements(results["parts"])
    write(options.json, results)
    print("\n" + gpu_report.table(results))
    print(f"\n{results['seconds']:.0f} s; all of it is in {options.json}")
    if results["failed"]:
        print("failed: " + "; ".join(results["failed"]))
    return 1 if results["failed"] else 0


def _refuse(problem: str) -> int:
    sys.stderr.write(f"error: {problem}\n")
    return 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tinygrad_char.benchmarks.gpu", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--json", type=Path, metavar="FILE", default=Path("gpu.json"), help="file for the results"
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes, rounds and steps")
    parser.add_argument(
        "--device",
        default="cuda",
        choices=("cuda", "cuda-on-cpu"),
        help="cuda-on-cpu tries out the benchmark itself, at the smallest sizes",
    )
    names = [name for name in PARTS if name != "machine"]
    parser.add_argument(
        "--parts", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names)
    )
    parser.add_argument(
        "--data", default="shakespeare", metavar="FILE", help="another text to train on"
    )
    parser.add_argument(
        "--minutes", type=float, default=9.5, help="after which all that is left is given up"
    )
    return parser.parse_args(arguments)


def find_corpus(data: str) -> str:
    """Return what to load the text by, before any time is spent on a device.

    Raises
    ------
    RunError
        It is not here.
    """
    advice = f"set {FOLDER_VARIABLE} to a folder with {SHAKESPEARE_FILE}, or name the other --parts"
    try:
        return load_corpus(data, print).argument
    except ImportError as error:  # what would download it
        raise RunError(f"tiny Shakespeare is not here, to train on: {advice}") from error
    except RunError as error:
        raise RunError(f"{error}\nTo train on it, {advice}") from error


def write(path: Path, results: Row) -> None:
    """Replace the file of results as a whole."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(results, indent=1) + "\n")
    unfinished.replace(path)


def run_part(
    name: str,
    options: argparse.Namespace,
    deadline: float,
    section: Row | None = None,
    keep: Callable[[], None] = lambda: None,
    show: Callable[[Row], None] | None = None,
) -> Row:
    """Run one part, by as many processes as it takes; fill in its section and return it."""
    section = {"rows": []} if section is None else section
    show = show or _show
    rows: list[Row] = section["rows"]
    started = time.perf_counter()
    plan = PLAN[name]
    end = min(deadline, started + plan.part)
    begun = 0
    finished = False
    while not finished and time.perf_counter() < end:
        settings = Settings(name, options.device, options.quick, options.data, skip=begun)
        case: str | None = None
        with _Process(settings) as process:
            for message in process.messages(end, plan.case):
                if "case" in message:
                    case, begun = message["case"], begun + 1
                elif "row" in message:
                    rows.append({"case": case, **message["row"]})
                    case = None
                    show(rows[-1])
                    keep()
                elif "part_error" in message:
                    section.update(message["part_error"])
                    finished = True
                else:
                    finished = True
                if finished:
                    break
            ended = process.end()
        if case is not None:  # it was under way when the process ended
            rows.append({"case": case, "error": ended})
            show(rows[-1])
            keep()
        elif begun == settings.skip and not finished:
            section["error"] = ended
            finished = True
    if not finished:
        section["error"] = f"its time was up after {begun} cases"
    if "error" in section:
        print(f"  failed: {section['error']}")
    section["seconds"] = time.perf_counter() - started
    section["failed"] = "error" in section or any(
        "error" in row or row.get("passed") is False for row in rows
    )
    return section


def _show(row: Row) -> None:
    """Say what went wrong at once, and of the rest only that it goes on."""
    if "error" in row:
        print(f"  {row['case']}: failed: {row['error']}", flush=True)
    elif row.get("passed") is False:
        print(f"  {row['case']}: off by {row['off']:.3g}, allowed {row['allowed']:.3g}")
    elif "seconds" in row:
        print(f"  {row['case']}: {row['seconds']:.4g} s", flush=True)


class _Process:
    """A process that runs the cases of a part."""

    def __init__(self, settings: Settings) -> None:
        self._read, write = os.pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        command = [
            sys.executable,
            "-m",
            "tinygrad_char.benchmarks.gpu_parts",
            settings.to_json(),
            str(write),
        ]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            command,
            stdout=self._output,
            stderr=self._output,
            pass_fds=[write],
            start_new_session=True,  # so that what it starts ends with it
            env={**os.environ, "PYTHONPATH": path},
        )
        os.close(write)
        self._late = ""

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *reason: object) -> None:
        if self._process.poll() is None:
            self._kill()
        os.close(self._read)
        self._output.close()

    def messages(self, end: float, patience: float) -> Iterator[Row]:
        """Yield what the process says until it ends, or is ended because it says nothing."""
        rest, limit = b"", max(BEGIN, patience)
        while True:
            now = time.perf_counter()
            wait = min(end - now, limit)
            if wait <= 0 or not select.select([self._read], [], [], wait)[0]:
                self._late = f"ended after {time.perf_counter() - now:.0f} s without a result"
                self._kill()
                return
            chunk = os.read(self._read, 1 << 16)
            if not chunk:
                return
            limit = patience
            *lines, rest = (rest + chunk).split(b"\n")
            yield from map(json.loads, lines)

    def _kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def end(self) -> str:
        """Wait until the process has ended, but not for long; return how, and its last words."""
        try:
            code = self._process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            self._kill()
            code = -signal.SIGKILL
        how = self._late or (
            f"the process ended by {signal.Signals(-code).name}"
            if code < 0
            else f"the process ended with exit code {code}"
        )
        self._output.seek(0)
        words = self._output.read().decode(errors="replace").strip()[-TAIL:]
        return f"{how}: {words}" if words else how


if __name__ == "__main__":
    sys.exit(main())
