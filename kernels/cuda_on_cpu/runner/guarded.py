"""Copies of a launch's arrays with unused memory around each.

Arrays may be neighbours, such as two parameters in one flat buffer. An access past the end of one
would then look like an access to the other.
"""

from collections.abc import Sequence

import numpy as np

from tinygrad_char.kernels.cuda.launcher import Argument

GUARD_BYTES = 64 * 1024
ALIGNMENT = 256
"""Copies keep their addresses modulo this: no kernel accesses wider pieces at once."""


class GuardedArguments:
    """The arguments of a launch with each array replaced by a guarded copy.

    Arrays that overlap still do, in one copy.
    """

    def __init__(self, arguments: Sequence[Argument]) -> None:
        self._originals = [each for each in arguments if isinstance(each, np.ndarray)]
        self._spans = _joined([(_address(each), each.nbytes) for each in self._originals])
        self._memory = {begin: _guarded(begin, size) for begin, size in self._spans}
        for each in self._originals:
            np.copyto(self._copy(each), each)
        self.arguments = [
            self._copy(each) if isinstance(each, np.ndarray) else each for each in arguments
        ]

    def copy_back(self) -> None:
        """Copy what the kernel has written to the launch's own arrays."""
        for each in self._originals:
            if each.flags.writeable:
                np.copyto(each, self._copy(each))

    def _copy(self, array: np.ndarray) -> np.ndarray:
        address = _address(array)
        begin = max(each for each, _ in self._spans if each <= address)
        memory = self._memory[begin][address - begin :][: array.nbytes]
        return memory.view(array.dtype).reshape(array.shape)


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans of addresses (begin, size) with those that overlap made one."""
    joined: list[tuple[int, int]] = []
    for begin, size in sorted(spans):
        if joined and begin < sum(joined[-1]):
            first, known = joined[-1]
            joined[-1] = (first, max(known, begin + size - first))
        else:
            joined.append((begin, size))
    return joined


def _guarded(address: int, size: int) -> np.ndarray:
    """Return `size` bytes at an address like the given one, in the middle of unused memory."""
    memory = np.zeros(GUARD_BYTES + ALIGNMENT + size + GUARD_BYTES, np.uint8)
    skip = GUARD_BYTES + (address - _address(memory) - GUARD_BYTES) % ALIGNMENT
    return memory[skip : skip + size]
