"""Contests: each contender in a process of its own, checked against the first, timed in turn.

Processes of their own keep one side's threads, memory and libraries out of the other's way, and
tell how much memory each took. Timing goes round after round (A, B, A, B, ...), so that whatever
else the machine does hits all alike.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.kernels.cpu.bench import Task
from tinygrad_char.kernels.cpu.cores import available_cores

PAUSE = 0.03  # seconds after which the threads of the side that just ran no longer spin


class ContenderError(RuntimeError):
    """A contender could not do its work."""


class Contender(NamedTuple):
    """A module-level function that returns tasks by name, and its arguments, for a process."""

    prepare: Callable[..., Mapping[str, Task]]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Timing:
    """Seconds of each round; a round's is the mean of several runs where one is too short."""

    samples: tuple[float, ...]
    runs_in_sample: int

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile, by linear interpolation."""
        if len(self.samples) == 1:
            return self.samples[0], self.samples[0]
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return first, third


class Memory(NamedTuple):
    """Bytes resident in a process at most, and by how much that exceeds what imports took."""

    peak: int
    growth: int


@dataclass
class Entry:
    """What was found about one task of one contender."""

    difference: float
    """The largest, from the first contender's result, over that result's largest element."""
    memory: Memory | None
    """After the first run; None where the system does not tell."""
    timing: Timing | None = None
    """None where results did not agree."""


@dataclass
class Contest:
    """The entries by task and contender, and what each contender's process ran on."""

    bound: float
    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)
    libraries: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: float | None = None
    """What part of the machine's processors others used in the meantime; None if unknown."""

    @property
    def agree(self) -> bool:
        """Whether every difference is within the bound."""
        return all(
            entry.difference <= self.bound
            for entries in self.entries.values()
            for entry in entries.values()
        )


def hold(
    contenders: Mapping[str, Contender],
    *,
    bound: float,
    rounds: int,
    threads: int | None = None,
    seconds: float = 0.1,
) -> Contest:
    """Run every task of every contender, compare, and time them if all agree.

    Parameters
    ----------
    bound
        Largest difference that counts as agreement.
    threads
        Processors for each contender; None leaves ours as it is and gives PyTorch all.
    seconds
        How long a sample takes, about; one run where that takes longer.

    Raises
    ------
    ContenderError
        A contender failed, with its traceback.
    """
    contest = Contest(bound)
    from tinygrad_char.models.openblas import VARIABLE, better_core_type

    if better := better_core_type():
        os.environ[VARIABLE] = better  # for the processes; here NumPy is loaded already
    with contextlib.ExitStack() as stack:
        processes = {
            name: stack.enter_context(_process(name, contender, threads))
            for name, contender in contenders.items()
        }
        first: dict[str, list[np.ndarray]] = {}
        turns: list[tuple[str, str, int]] = []
        for name, process in processes.items():
            for task, (duration, memory) in process.ask("first_runs").items():
                results = process.ask("results", task)
                entry = Entry(difference(results, first.setdefault(task, results)), memory)
                contest.entries.setdefault(task, {})[name] = entry
                if duration < seconds:  # the first run was a slow one
                    duration = process.ask("time", task, 2)
                turns.append((task, name, max(1, round(seconds / duration))))
            contest.libraries[name] = process.ask("libraries")
        if contest.agree:
            turns.sort(key=lambda turn: list(contest.entries).index(turn[0]))
            samples: dict[tuple[str, str, int], list[float]] = {turn: [] for turn in turns}
            with _watch(contest, list(processes.values())):
                for _ in range(rounds):
                    for turn in turns:
                        task, name, runs = turn
                        time.sleep(PAUSE)
                        samples[turn].append(processes[name].ask("time", task, runs))
            for (task, name, runs), values in samples.items():
                contest.entries[task][name].timing = Timing(tuple(values), runs)
    return contest


@contextlib.contextmanager
def _watch(contest: Contest, processes: Sequence[_Process]) -> Iterator[None]:
    """Note what part of the processors others used."""

    def others() -> float | None:
        busy = busy_seconds()
        own = [time.process_time(), *(each.ask("busy_seconds") for each in processes)]
        return None if busy is None else busy - sum(own)

    started, before = time.perf_counter(), others()
    yield
    after = others()
    if before is not None and after is not None:
        all_seconds = (time.perf_counter() - started) * (os.cpu_count() or 1)
        contest.others = min(max((after - before) / all_seconds, 0.0), 1.0)


def difference(results: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Return the largest difference of corresponding arrays over the largest expected element.

    Infinite where a shape differs or a number is not finite. Arrays of zeros are compared as they
    are.
    """
    if [each.shape for each in results] != [each.shape for each in expected]:
        return float("inf")
    worst = 0.0
    for result, other in zip(results, expected, strict=True):
        if not result.size:
            continue
        largest = float(np.abs(other).max())
        apart = float(np.abs(result.astype(np.float64) - other).max()) / (largest or 1.0)
        worst = max(worst, apart) if np.isfinite(apart) else float("inf")
    return worst


@dataclass
class _Process:
    name: str
    pipe: Connection

    def ask(self, method: str, *arguments: Any) -> Any:
        try:
            self.pipe.send((method, arguments))
            succeeded, answer = self.pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise ContenderError(
                f"the process of {self.name!r} died; there may be too little memory for this size"
            ) from error
        if not succeeded:
            raise ContenderError(f"{self.name!r} failed:\n{answer}")
        return answer


@contextlib.contextmanager
def _process(name: str, contender: Contender, threads: int | None) -> Iterator[_Process]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, contender, threads))
    process.start()
    theirs.close()
    try:
        yield _Process(name, ours)
    finally:
        ours.close()  # at which the process ends by itself
        process.join()


def _serve(pipe: Connection, contender: Contender, threads: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it
    server: _Server | None = None
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            method, arguments = pipe.recv()
            try:
                server = server or _Server(contender, threads)
                pipe.send((True, getattr(server, method)(*arguments)))
            except Exception:
                pipe.send((False, traceback.format_exc()))


class _Server:
    """Does in a contender's process what the parent asks for."""

    def __init__(self, contender: Contender, threads: int | None) -> None:
        limit_threads(threads)
        self.before = resident()
        self.tasks = contender.prepare(*contender.arguments)
        forget_peak()
        self.last: tuple[str, Any] | None = None

    def first_runs(self) -> dict[str, tuple[float, Memory | None]]:
        """Run every task before results take memory of their own; return seconds and memory."""
        found = {}
        for name, task in self.tasks.items():
            self.last = None
            started = time.perf_counter()
            results = task.run()
            seconds = time.perf_counter() - started
            after = resident()
            memory = None
            if self.before and after:
                memory = Memory(after.peak, after.peak - self.before.now)
            found[name] = seconds, memory
            if task.check is None:
                self.last = name, results
            del results
        return found

    def results(self, name: str) -> list[np.ndarray]:
        """Return what is compared, without another run where the last one was of this task."""
        task = self.tasks[name]
        if task.check is None and self.last is not None and self.last[0] == name:
            results = self.last[1]
        else:
            results = (task.check or task.run)()
        if not isinstance(results, tuple):
            results = (results,)
        return [np.asarray(each) for each in results]

    def time(self, name: str, runs: int) -> float:
        run = self.tasks[name].run
        if runs > 1:
            run()  # so that the processor's caches hold this side's data again
        started = time.perf_counter()
        for _ in range(runs):
            run()
        return (time.perf_counter() - started) / runs

    def busy_seconds(self) -> float:
        return time.process_time()

    def libraries(self) -> dict[str, str]:
        torch: Any = sys.modules.get("torch")
        if torch is None:
            from tinygrad_char.models.doctor import examine

            found = examine()
            return {
                "version": f"NumPy {found['numpy']}",
                "products": f"products by {found['matrix_products']}",
                "kernels": f"kernels {found['kernels']}",
            }
        mkl = "MKL" if torch.backends.mkl.is_available() else "no MKL"
        return {
            "version": f"PyTorch {torch.__version__}",
            "products": f"products by {mkl} and oneDNN, {torch.get_num_threads()} threads",
            "instructions": torch.backends.cpu.get_cpu_capability(),
        }


def limit_threads(threads: int | None) -> None:
    """Let this process use so many processors; None: all, and leave NumPy's library alone."""
    if threads is not None:
        import threadpoolctl

        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        threadpoolctl.threadpool_limits(threads)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads or available_cores())


class Resident(NamedTuple):
    """Bytes of memory that a process has now, and had at most."""

    now: int
    peak: int


def resident(status: Path = Path("/proc/self/status")) -> Resident | None:
    """Return this process's resident memory, None on systems that do not tell it."""
    try:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return Resident(*(int(lines[key].split()[0]) << 10 for key in ("VmRSS", "VmHWM")))
    except (OSError, KeyError):
        return None


def busy_seconds(statistics: Path = Path("/proc/stat")) -> float | None:
    """Return for how long all processors together have been busy, None where it is not told.

    What the host of a virtual machine took for itself counts as busy.
    """
    try:
        line = statistics.read_text().partition("\n")[0].split()
        user, nice, system, _, _, irq, softirq, stolen = map(int, line[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")


def forget_peak(references: Path = Path("/proc/self/clear_refs")) -> bool:
    """Let the peak of resident memory start anew from what is resident; return whether it did."""
    try:
        references.write_text("5")  # as Linux's proc(5) has it
    except OSError:
        return False
    return True
