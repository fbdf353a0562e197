"""What the GPU benchmark is made of: cases, and the time of work on a device."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tinygrad_char.kernels.backend import Backend
from tinygrad_char.kernels.cpu.recorder import Capturing
from tinygrad_char.kernels.operations import using

Row = dict[str, Any]

WARM_SECONDS, LONG_SECONDS, MOST_REPEATS = 0.05, 0.002, 200
"""What is done before anything is timed, so that the clocks have risen; the least time between two
events, so that neither their resolution nor the start of a repetition counts; and its limit."""


class Case(NamedTuple):
    """One line of results, and what computes it."""

    name: str
    run: Callable[[], Row]


def recorded_seconds(backend: Backend, compute: Callable[[], Any], rounds: int) -> float:
    """Return the median time of what `compute` does on the device, without Python's.

    It is recorded and repeated, so that no time between launches is counted.
    """
    if not isinstance(backend.recorder, Capturing):
        raise ValueError(f"device {backend.name!r} captures nothing; expected cuda or cuda-on-cpu")
    with using(check=False):
        backend.recorder.warm_up(compute)
        kept, repeat = backend.recorder.capture(compute)
    taken = median_seconds(backend, repeat, rounds)
    del kept
    return taken


def median_seconds(backend: Backend, action: Callable[[], Any], rounds: int) -> float:
    """Return the median time of an action from the device's own clock, after a warm-up."""
    if backend.name != "cuda":
        return statistics.median(host_seconds(action) for _ in range(rounds))
    cuda = backend.xp.cuda

    def sample(repeats: int) -> float:
        start, end = cuda.Event(), cuda.Event()
        start.record()
        for _ in range(repeats):
            action()
        end.record()
        end.synchronize()
        return cuda.get_elapsed_time(start, end) / 1000 / repeats

    return median_of(sample, rounds)


def median_of(sample: Callable[[int], float], rounds: int) -> float:
    """Return the median of samples, each of enough repeats to be long; `sample` takes how many."""
    ready = time.perf_counter() + WARM_SECONDS
    taken = sample(1)
    while time.perf_counter() < ready:
        taken = sample(1)
    repeats = max(1, min(MOST_REPEATS, math.ceil(LONG_SECONDS / max(taken, 1e-7))))
    return statistics.median(sample(repeats) for _ in range(rounds))


def host_seconds(action: Callable[[], Any]) -> float:
    """Return the time of an action that ends when it is done."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
