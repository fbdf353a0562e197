"""What a backend has to record what is done on its device, and to do it again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.operations import using

R = TypeVar("R")
Results = Sequence[Array | None]


class Keys(Protocol):
    """Where the keys of dropout masks begin: their seed, and how many calls drew one before."""

    seed: int
    calls: int


class Recorded(NamedTuple):
    """What was computed, and what computes it again; or why nothing does.

    `repeat` writes to the same arrays, of whatever the arrays hold that were read. It returns
    whether it went as it did when it was recorded; if not, the results are of no use.
    """

    results: Results
    repeat: Callable[[Keys], bool] | None
    why_not: str | None = None


class Recorder(Protocol):
    """Records what a function does on a device.

    There are three: a program of kernels in C (cpu/recording.py), a CUDA graph (cuda/graph.py),
    and a list of what was done (cuda_on_cpu/device_array.py).
    """

    records_changes: bool
    """Whether what is changed in place is recorded, too."""

    def host_buffer(self, size: int) -> np.ndarray:
        """Return so many bytes of the host, of the memory that the device reads fastest."""

    def warm_up(self, function: Callable[[], R]) -> R:
        """Call the function where recordings are made, and return what it returns.

        So what is made once, such as compiled kernels and handles, is not made in a recording.
        """

    def record(
        self, function: Callable[[], Results], keys: Keys, known: Callable[[], Sequence[Array]]
    ) -> Recorded:
        """Do what the function does, once, and record it.

        `known` gives afterwards the arrays whose content is right before each repetition. Whatever
        the function raises where it is not recorded is raised here.
        """


class Capturing(ABC):
    """A recorder for a device that takes note of calls without making them."""

    records_changes = True

    @abstractmethod
    def warm_up(self, function: Callable[[], R]) -> R:
        """Call the function where recordings are made."""

    @abstractmethod
    def capture(self, function: Callable[[], R]) -> tuple[R, Callable[[], None]]:
        """Return what the function returns, with arrays not filled yet, and what fills them.

        Raises
        ------
        Exception
            Whatever the function, or the device, raises at something that cannot be recorded,
            such as reading a value.
        """

    def record(
        self, function: Callable[[], Results], keys: Keys, known: Callable[[], Sequence[Array]]
    ) -> Recorded:
        """Record what the function does, and do it: as a repetition, or else by calling it."""
        try:
            with using(check=False):  # which would read values
                results, repeat = self.capture(function)
        except Exception as error:  # whatever the device, CuPy or the function's code objects to
            why_not = f"{type(error).__name__}: {error}"
            return Recorded(self.warm_up(function), None, why_not)

        def again(keys: Keys) -> bool:  # which are arrays on the device
            repeat()
            return True

        again(keys)
        return Recorded(results, again)
