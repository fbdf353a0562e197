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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array

FLOAT32 = np.dtype(np.float32)
LINE = 64  # bytes of a cache line


class _ThreadState(threading.local):
    recording: Recording | None = None


_state = _ThreadState()


def empty(shape: tuple[int, ...], dtype: np.dtype = FLOAT32) -> np.ndarray:
    """Return an array of any content: of the memory of a recording, where this thread makes one."""
    recording = _state.recording
    return np.empty(shape, dtype) if recording is None else recording.empty(shape, dtype)


class Recording:
    """A program of kernels, and the memory that it works in.

    Parameters
    ----------
    compiled
        The extension tinygrad_char.kernels.cpu._c.
    seed, first_call
        What the keys of dropout masks drawn meanwhile have, see kernels/dropout/reference.py.
    places
        Arrays that `empty` is to give out, by how many it gave out before.

    Attributes
    ----------
    given
        The addresses of the memory that was given out, in order.
    """

    def __init__(
        self,
        compiled: ModuleType,
        seed: int,
        first_call: int,
        places: Mapping[int, np.ndarray] = {},
    ) -> None:
        self._program = compiled.Program()
        self._begin = seed, first_call
        self._places = places
        self._memory: list[np.ndarray] = []
        self._free: list[np.ndarray] = []
        self.given: list[int] = []
        for each in places.values():
            self._program.borrow(each)

    def __len__(self) -> int:
        return len(self._program)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record what this thread does."""
        self._program.begin(*self._begin)
        _state.recording = self
        try:
            yield
        finally:
            _state.recording = None
            self._program.end()

    def run(self, seed: int, first_call: int) -> bool:
        """Repeat the calls with dropout masks of these keys.

        Returns whether everything that kernels found out about the data, such as whether indices
        lie within a table, was as in the recording; if not, the rest was not computed.
        """
        return self._program.run(seed, first_call)

    def external(self) -> list[Array]:
        """Return the arrays that kernels were given and that have not come from `empty`."""
        return list(self._program.kept)

    def owns(self, array: Array) -> bool:
        """Return whether an array's memory is the recording's, or one of the places."""
        address = address_of(array)
        return any(
            0 <= address - address_of(each) < max(each.nbytes, 1)
            for each in (*self._memory, *self._places.values())
        )

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array of any content, whose memory is used again once nobody refers to it."""
        place = self._places.get(len(self.given))
        if place is not None:
            array = place.reshape(shape)
        else:
            chunk = self._take(math.prod(shape) * dtype.itemsize)
            # Not of the chunk itself: NumPy makes views of views refer to the last array only.
            memory: Any = (ctypes.c_char * chunk.nbytes).from_buffer(chunk)  # type: ignore[arg-type]
            array = np.ndarray(shape, dtype, buffer=memory)
            weakref.finalize(array, self._free.append, chunk).atexit = False
        self.given.append(address_of(array))
        return array

    def _take(self, size: int) -> np.ndarray:
        """Return the smallest free chunk of at least so many bytes and at most twice as many."""
        fitting = [each for each in self._free if size <= each.nbytes <= 2 * size]
        if fitting:
            best = min(reversed(fitting), key=lambda each: each.nbytes)  # used last: in the cache
            self._free[:] = [each for each in self._free if each is not best]
            return best
        chunk = np.empty(size + LINE, np.uint8)
        chunk = chunk[-address_of(chunk) % LINE :][:size]
        self._memory.append(chunk)
        self._program.borrow(chunk)
        return chunk


def address_of(array: Any) -> int:
    """Return where an array's first element lies in memory."""
    return array.__array_interface__["data"][0]
