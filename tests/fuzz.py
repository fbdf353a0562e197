"""Tries what strangers may bring: no trace, no hang, no file touched that is not the run's.

    python tests/fuzz.py            a fixed part, in about three minutes
    python tests/fuzz.py --full     20,000 changed and 2,000 hostile checkpoints, 500 damaged
                                    folders, 2,000 command lines, and 200 of all as processes
    python tests/fuzz.py --only hostile --first 17 --count 1      one case again

A case is a number: from it and the seed follows all that is tried. It runs the command line in this
process, watched: every file that is opened for writing, renamed or deleted is checked, and so are
the files beside the run, the time, the memory, and that what is told is told in words.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "models")]

import fuzz_cases as cases  # noqa: E402

from tinygrad_char.models import cli  # noqa: E402

KINDS = ("bytes", "hostile", "folders", "options", "processes")
FULL = {"bytes": 20_000, "hostile": 2_000, "folders": 500, "options": 2_000, "processes": 200}
PART = {"bytes": 1_500, "hostile": 400, "folders": 150, "options": 400, "processes": 12}
SECONDS = 30  # for one case
STOP_AFTER = 2  # seconds, where a command was told to go on for very long
MEMORY = 700 << 20  # bytes beyond what a process has after its first command
ADDRESSES = 12 << 30  # bytes that a process may map at all
CODES = (0, 1, 2, 130)


@dataclass
class Report:
    """How the cases of one kind went."""

    kind: str
    count: int = 0
    seconds: float = 0.0
    codes: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        codes = ", ".join(f"{count} x {code}" for code, count in sorted(self.codes.items()))
        return (
            f"{self.kind:10} {self.count:6} cases in {self.seconds:6.1f} s: "
            f"{len(self.failures)} failures; exit codes {codes}"
        )


class Watch:
    """Notes what this process writes, renames or deletes outside one folder."""

    def __init__(self, *allowed: str) -> None:
        self.allowed = (os.devnull, *allowed)
        self.folder: str | None = None
        self.strays: list[str] = []
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.folder is None:
            return
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            )
            if writes and isinstance(path, str | bytes):
                self._check(event, os.fsdecode(path), follow=not int(flags) & os.O_NOFOLLOW)
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"):
            for path in arguments[: 2 if event == "os.rename" else 1]:
                if isinstance(path, str | bytes):
                    self._check(event, os.fsdecode(path), follow=event == "os.truncate")
        elif event in ("os.link", "os.symlink"):
            self._check(event, os.fsdecode(str(arguments[1])), follow=False)

    def _check(self, event: str, path: str, follow: bool) -> None:
        folder = self.folder
        self.folder = None  # what follows is not watched
        try:
            place = Path(path)
            real = place.resolve() if follow else place.parent.resolve() / place.name
            if not any(real.is_relative_to(each) for each in (folder, *self.allowed)):
                self.strays.append(f"{event} {str(real)!r}")
        except ValueError:
            pass  # no possible name: nothing is opened either
        finally:
            self.folder = folder


class Sandbox:
    """A working folder with a run in it, and beside it files that are nobody's business."""

    def __init__(self, base: Path, place: Path) -> None:
        self.base = base
        self.work, self.outside = place / "work", place / "outside"
        self.streams = place / "streams"
        self.streams.mkdir(parents=True)

    def prepare(self, shape: str) -> None:
        for folder in (self.work, self.outside):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        (self.outside / "file").write_text('{"step": 1}\n')
        shutil.copytree(self.base / shape / "run", self.work / "run")
        shutil.copyfile(self.base / shape / "text.txt", self.work / "text.txt")
        os.mkfifo(self.work / "fifo")
        self.before = self._state()

    def changes(self) -> str:
        after = self._state()
        return "" if after == self.before else f"changed beside the run: {self.before} {after}"

    def _state(self) -> object:
        paths = [*sorted(self.outside.rglob("*")), self.work / "text.txt"]
        return [(str(each), each.read_bytes(), each.stat().st_mtime_ns) for each in paths]


def command_of(kind: str, number: int, seed: int, sandbox: Sandbox) -> tuple[list[str], bool]:
    """Lay out a case; return its command line, and whether it may have to be stopped."""
    rng = random.Random(f"{kind} {number} {seed}")
    shapes = list(cases.SHAPES)
    sandbox.prepare(shapes[number % len(shapes)])
    run = sandbox.work / "run"
    if kind == "options":
        return cases.any_command(rng)
    name = "run"
    if kind == "folders":
        cases.damage_folder(rng, run, sandbox.outside)
    else:
        path = run / rng.choice(["last.safetensors", "best.safetensors"])
        name = f"run/{path.name}"
        if kind == "bytes":
            path.write_bytes(cases.mutated_bytes(rng, path.read_bytes()))
        else:
            cases.write_hostile(rng, path, path)
    text = ["--data", "text.txt"] if rng.random() < 0.7 else []
    resume = ["train", "--resume", name, "--steps", "5", *text]
    generate = ["generate", name, "--length", "3", "--temperature", rng.choice(["0", "0.8"])]
    commands = [resume, resume, generate, ["evaluate", name, *text]]
    if kind == "folders":
        commands.append(["train", "--data", "text.txt", "--out", "run", *cases.TINY])
    sandbox.before = sandbox._state()
    return rng.choice(commands), False


def try_case(kind: str, number: int, seed: int, sandbox: Sandbox, watch: Watch) -> tuple[int, str]:
    """Run one case in this process; return its exit code and what went wrong."""
    arguments, long = command_of(kind, number, seed, sandbox)
    os.chdir(sandbox.work)
    problem, code = "", -1
    streams = [(sandbox.streams / name).open("w+", encoding="utf-8") for name in ("out", "err")]
    timers = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    stop_at = time.monotonic() + STOP_AFTER
    try:
        with (
            contextlib.redirect_stdout(streams[0]),
            contextlib.redirect_stderr(streams[1]),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("error")
            if long:
                signal.setitimer(signal.ITIMER_REAL, STOP_AFTER)
            watch.folder = str(sandbox.work)
            code = cli.run(list(arguments))
    except KeyboardInterrupt:
        code = 130
        if not long or time.monotonic() < stop_at:
            problem = "interrupted by nobody"
    except BaseException:
        problem = traceback.format_exc()
    finally:
        watch.folder = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, timers)
    said = []
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
            stream.seek(0)
            said.append(stream.read())
        stream.close()
    os.chdir("/")
    if not problem:
        problem = judge(code, said[-1] if said else "")
    problem = problem or "; ".join(watch.strays) or sandbox.changes()
    watch.strays.clear()
    return code, f"{shown(arguments)}: {problem}" if problem else ""


def judge(code: int, errors: str) -> str:
    """Say what is wrong with how a command ended."""
    if "Traceback" in errors or "Warning:" in errors:
        return f"a trace: {errors[-2000:]}"
    if code not in CODES:
        return f"exit code {code}: {errors[-500:]}"
    if code in (1, 2) and "error" not in errors and "--help" not in errors:
        return f"exit code {code} without a word: {errors[-500:]!r}"
    return ""


def shown(arguments: list[str]) -> str:
    return " ".join(each if len(each) < 50 else each[:45] + "..." for each in arguments)


def try_process(number: int, seed: int, sandbox: Sandbox) -> tuple[int, str]:
    """Run one case of any kind as a process of its own."""
    kind = KINDS[number % 4]
    arguments, long = command_of(kind, number, seed, sandbox)
    if any("\0" in each for each in arguments):  # no process can be given it
        return 2, ""
    process = subprocess.Popen(
        [sys.executable, "-m", "tinygrad_char.models", *(os.fsencode(each) for each in arguments)],
        cwd=sandbox.work,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=_limit_child,
    )
    try:
        errors = process.communicate(timeout=10 if long else 2 * SECONDS)[1]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT if long else signal.SIGKILL)
        try:
            errors = process.communicate(timeout=SECONDS)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return -1, f"{shown(arguments)}: it hangs"
    problem = judge(process.returncode, errors.decode(errors="replace")) or sandbox.changes()
    return process.returncode, f"{shown(arguments)}: {problem}" if problem else ""


def _limit_child() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))


def work(kind: str, numbers: range, seed: int, base: Path, place: Path, log: Path) -> None:
    """Run cases one after the other, and log the start and the end of each."""
    with log.open("a") as progress, (place.parent / f"{place.name}.hang").open("w") as hang:
        sandbox, watch = Sandbox(base, place), Watch(os.environ["XDG_CACHE_HOME"])
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sandbox.prepare("gpt")
        os.chdir(sandbox.work)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            cli.run(["train", "--resume", "run", "--steps", "6", "--data", "text.txt"])
            cli.run(["data", "pydoc"])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        for number in numbers:
            progress.write(json.dumps({"start": number}) + "\n")
            progress.flush()
            faulthandler.dump_traceback_later(
                4 * SECONDS if kind == "processes" else SECONDS, exit=True, file=hang
            )
            if kind == "processes":
                code, problem = try_process(number, seed, sandbox)
            else:
                code, problem = try_case(kind, number, seed, sandbox, watch)
            faulthandler.cancel_dump_traceback_later()
            used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
            if used > MEMORY:
                problem += f" it took {used >> 20} MiB"
            progress.write(json.dumps({"end": number, "code": code, "problem": problem}) + "\n")
            progress.flush()
            if used > MEMORY:
                os._exit(3)  # what it took stays counted: go on in a fresh process
    os._exit(0)  # without waiting for threads


def run(kind: str, numbers: range, seed: int = 0, processes: int = 1) -> Report:
    """Try the cases of these numbers, in as many processes at once."""
    report = Report(kind, len(numbers))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        place = Path(os.path.realpath(folder))
        prepare_environment(place)
        (place / "base").mkdir()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            make = multiprocessing.get_context("fork").Process(
                target=cases.base_runs, args=(place / "base",)
            )
            make.start()
            make.join()
        parts = [numbers[first::processes] for first in range(processes)]
        running = [
            _Part(kind, part, seed, place, index) for index, part in enumerate(parts) if part
        ]
        while running:
            time.sleep(0.05)
            running = [each for each in running if not each.finished(report)]
    report.seconds = time.monotonic() - started
    return report


class _Part:
    """Cases that run one after the other in a process, which is started again when it dies."""

    def __init__(self, kind: str, numbers: range, seed: int, place: Path, index: int) -> None:
        self.kind, self.numbers, self.seed, self.place = kind, numbers, seed, place
        self.name, self.restarts = f"part{index}", 0
        self.start()

    def start(self) -> None:
        self.log = self.place / f"{self.name}-{self.restarts}.log"
        target = self.place / f"{self.name}-{self.restarts}"
        self.restarts += 1
        self.process = multiprocessing.get_context("fork").Process(
            target=work,
            args=(self.kind, self.numbers, self.seed, self.place / "base", target, self.log),
        )
        self.process.start()

    def finished(self, report: Report) -> bool:
        if self.process.is_alive():
            return False
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        ends = [each for each in lines if "end" in each]
        for each in ends:
            report.codes[each["code"]] += 1
            if each["problem"]:
                report.failures.append(f"{self.kind} {each['end']}: {each['problem']}")
        done = len(ends)
        if self.process.exitcode == 0:
            return True
        if lines and "start" in lines[-1]:
            done += 1
            hang = self.place / f"{self.name}-{self.restarts - 1}.hang"
            report.failures.append(
                f"{self.kind} {lines[-1]['start']}: the process ended with "
                f"{self.process.exitcode}, {hang.read_text()[-3000:]}"
            )
        elif not lines:
            report.failures.append(f"{self.kind}: the first command failed")
            return True
        self.numbers = self.numbers[done:]
        if not self.numbers:
            return True
        self.start()
        return False


def prepare_environment(place: Path) -> None:
    """Let nothing be downloaded, and no cache be filled, while cases run."""
    import matplotlib.font_manager  # noqa: F401  it fills a cache when first imported

    sys.dont_write_bytecode = True
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        os.environ[name] = "http://127.0.0.1:9"
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    os.environ["COLUMNS"] = "200"
    os.environ.pop("TINYGRAD_CHAR_DATA", None)
    os.environ.pop("TINYGRAD_CHAR_DEVICE", None)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="all cases, in about half an hour")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=KINDS)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    failed = 0
    for kind in options.only:
        count = options.count or (FULL if options.full else PART)[kind]
        numbers = range(options.first, options.first + count)
        report = run(kind, numbers, options.seed, options.processes)
        print(report, flush=True)
        for each in report.failures:
            print(f"  {each}", flush=True)
        failed += len(report.failures)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
