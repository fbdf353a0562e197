"""The cores of this machine, and how many of them a kernel takes."""

import contextlib
import math
import os
import sys
import threading
from collections.abc import Iterator
from functools import cache

from tinygrad_char.kernels.cpu.control_groups import processor_limit

WORTH_SPREADING = 5e5
"""Operations below which a kernel is done before another thread has begun."""


class _ThreadState(threading.local):
    alone = False


_state = _ThreadState()


def available_cores() -> int:
    """Return how many processors this process can keep busy.

    They are those that it may run on; in a control group with less time than theirs only as many
    as its quota fills, the last perhaps in part: of more, the system stops all for a while.
    """
    return max(1, min(allowed_cores(), _quota()))


def allowed_cores() -> int:
    """Return how many processors this process may run on, for however long."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _quota() -> int:
    """Return the processors that the quota fills; read once, since every kernel asks."""
    limit = processor_limit()
    return math.ceil(limit) if math.isfinite(limit) else sys.maxsize


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep the kernels of this thread to one core, since the others have work of their own."""
    before = _state.alone
    _state.alone = True
    try:
        yield
    finally:
        _state.alone = before


def threads_for(operations: float) -> int:
    """Return how many threads a kernel of so many operations runs on, see parallel_for.h."""
    return 1 if operations < WORTH_SPREADING or _state.alone else available_cores()
