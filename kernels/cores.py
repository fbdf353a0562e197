"""The cores of this machine, and a kernel's work spread over them."""

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

WORTH_SPREADING = 5e6
"""Operations below which a kernel is done sooner than a thread has begun."""


class _ThreadState(threading.local):
    alone = False


_state = _ThreadState()


def available_cores() -> int:
    """Return how many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep the kernels of this thread to one core, since the others have work of their own."""
    before = _state.alone
    _state.alone = True
    try:
        yield
    finally:
        _state.alone = before


def spread(work: Callable[[int, int], None], count: int, operations: float) -> None:
    """Call work(first, last) for ranges that make up 0 to count: on all cores if it is worth it.

    `work` must release the interpreter's lock, and its ranges be independent of each other.
    """
    parts = min(available_cores(), count)
    if parts <= 1 or _state.alone or operations < WORTH_SPREADING:
        work(0, count)
        return
    ends = [count * part // parts for part in range(parts + 1)]
    others = [_pool().submit(work, first, last) for first, last in itertools.pairwise(ends[1:])]
    try:
        work(0, ends[1])
    finally:
        for each in others:
            each.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, available_cores() - 1), "tinygrad-char-kernel")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has no such threads
