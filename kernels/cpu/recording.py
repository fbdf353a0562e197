"""Memory for results, and the recording of what kernels in C do with it.

A `Recording` is made while ordinary code runs once: each kernel in C that the thread calls becomes
a part of a program (kernels/cpu/program.c), which repeats the calls on the same memory without the
interpreter. What anything else computes, such as NumPy, is not repeated; so a recording serves
where every array in between has come from `empty` here and was written by such kernels.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recorder import Keys, R, Recorded, Results

FLOAT32 = np.dtype(np.float32)
LINE = 64  # bytes of a cache line


class _ThreadState(threading.local):
    recording: Recording | None = None


_state = _ThreadState()


def empty(shape: tuple[int, ...], dtype: np.dtype = FLOAT32) -> np.ndarray:
    """Return an array of any content: of the memory of a recording, where this thread makes one."""
    recording = _state.recording
    return np.empty(shape, dtype) if recording is None else recording.empty(shape, dtype)


class Recorder:
    """Records as a program of kernels in C what a function has them do: see recorder.Recorder."""

    def host_buffer(self, size: int) -> np.ndarray:
        """Return so many bytes, from a cache line's beginning."""
        return aligned(size)

    def warm_up(self, function: Callable[[], R]) -> R:
        """Call the function."""
        return function()

    records_changes = False

    def record(
        self, function: Callable[[], Results], keys: Keys, known: Callable[[], Sequence[Array]]
    ) -> Recorded:
        """Call the function, and make a `Recording` of what it has kernels do."""
        recording = Recording(keys.seed, keys.calls)
        with recording.recorded():
            results = function()
        why_not = recording.obstacle(results, known())
        return Recorded(results, None if why_not else recording, why_not)


class Recording:
    """A program of kernels, and the memory that it works in; to call it repeats the program.

    Parameters
    ----------
    seed, first_call
        What the keys of dropout masks drawn meanwhile have, see kernels/dropout/reference.py.
    """

    def __init__(self, seed: int, first_call: int) -> None:
        self._program = compiled.Program()
        self._begin = seed, first_call
        self._memory: list[np.ndarray] = []
        self._free: list[np.ndarray] = []
        # By address, of what was given out last there: how many calls came before, and its bytes.
        self._given: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._program)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record what this thread does."""
        self._program.begin(*self._begin)
        try:
            _state.recording = self
            yield
        finally:
            _state.recording = None
            self._program.end()

    def __call__(self, keys: Keys) -> bool:
        """Repeat the calls with dropout masks of these keys.

        Returns whether everything that kernels found out about the data, such as whether indices
        lie within a table, was as in the recording; if not, the rest was not computed.
        """
        return self._program.run(keys.seed, keys.calls)

    def obstacle(self, results: Results, known: Sequence[Array]) -> str | None:
        """Return why to repeat the calls does not give the results anew; None where it does.

        `known` are the arrays from outside whose content is right before each repetition.
        """
        if self._program.other_seed:
            return "dropout masks are drawn from another stream"
        for each in self._program.kept:
            if not any(np.may_share_memory(each, other) for other in known):
                return f"an array {each.dtype} {each.shape} is made otherwise"
        for each in results:
            if each is not None and not self.owns(each):
                return f"a result {each.dtype} {each.shape} is made otherwise"
        return None

    def owns(self, array: Array) -> bool:
        """Return whether an array's memory is the recording's."""
        address = address_of(array)
        return any(0 <= address - address_of(each) < max(each.nbytes, 1) for each in self._memory)

    def side_by_side(self, results: Sequence[Array | None]) -> Array | None:
        """Have results follow each other in memory from the next repetition on.

        They are float32, and were held since kernels had them from `empty`. Returns the memory;
        None, and changes nothing, where some have no memory of their own.
        """
        own = [each for each in results if each is not None and self._is_whole(each)]
        addresses = [address_of(each) for each in own]
        if not own or len(own) < len(results) or len(set(addresses)) < len(own):
            return None
        flat = np.empty(sum(each.size for each in own), FLOAT32)
        self._memory.append(flat)
        self._program.borrow(flat)
        to = address_of(flat)
        for address, each in zip(addresses, own, strict=True):
            self._program.move(self._given[address][0], address, to, each.nbytes)
            to += each.nbytes
        return flat

    def _is_whole(self, array: Array) -> bool:
        _, size = self._given.get(address_of(array), (0, -1))
        return array.dtype == FLOAT32 and array.flags.c_contiguous and array.nbytes == size

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array of any content, whose memory is used again once nobody refers to it."""
        chunk = self._take(math.prod(shape) * dtype.itemsize)
        # Not of the chunk itself: NumPy makes views of views refer to the last array only.
        memory: Any = (ctypes.c_char * chunk.nbytes).from_buffer(chunk)  # type: ignore[arg-type]
        array = np.ndarray(shape, dtype, buffer=memory)
        weakref.finalize(array, self._free.append, chunk).atexit = False
        self._given[address_of(array)] = len(self), array.nbytes
        return array

    def _take(self, size: int) -> np.ndarray:
        """Return the smallest free chunk of at least so many bytes and at most twice as many."""
        fitting = [each for each in self._free if size <= each.nbytes <= 2 * size]
        if fitting:
            best = min(reversed(fitting), key=lambda each: each.nbytes)  # used last: in the cache
            self._free[:] = [each for each in self._free if each is not best]
            return best
        chunk = aligned(size)
        self._memory.append(chunk)
        self._program.borrow(chunk)
        return chunk


def aligned(size: int) -> np.ndarray:
    """Return so many bytes of any content, from a cache line's beginning."""
    chunk = np.empty(size + LINE, np.uint8)
    return chunk[-address_of(chunk) % LINE :][:size]


def address_of(array: Any) -> int:
    """Return where an array's first element lies in memory."""
    return array.__array_interface__["data"][0]
