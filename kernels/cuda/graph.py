"""Recording what is done on a GPU as one CUDA graph, which repeats it with a single call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from tinygrad_char.kernels.cpu.recorder import Capturing, R

Allocator = Callable[[int], Any]


class Recorder(Capturing):
    """Records what a function does on the device.

    Recorded work keeps its addresses, so its memory is a pool of its own, which nothing else is
    given parts of. `cupy` is the module; `allocator` gives that of a pool.
    """

    def __init__(self, cupy: Any, allocator: Callable[[Any, Any], Allocator]) -> None:
        self._cupy = cupy
        self._allocator = allocator
        self._places: dict[int, tuple[Any, Allocator]] = {}

    def warm_up(self, function: Callable[[], R]) -> R:
        """Call the function where recordings are made.

        So kernels are compiled, handles made and memory taken: none of it could be recorded.
        """
        with self._recording_stream() as stream:
            result = function()
            stream.synchronize()
        return result

    def capture(self, function: Callable[[], R]) -> tuple[R, Callable[[], None]]:
        """See Capturing. Repetitions go to the stream that is current then."""
        with self._recording_stream() as stream:
            stream.begin_capture()
            try:
                result = function()
            except BaseException:
                with suppress(Exception):  # of the capture, which the first error has ended
                    stream.end_capture()
                raise
            graph = stream.end_capture()
        return result, graph.launch

    def host_buffer(self, size: int) -> np.ndarray:
        """Return so many bytes of the host, of memory that the device reads at once (pinned)."""
        return np.frombuffer(self._cupy.cuda.alloc_pinned_memory(size), np.uint8, size)

    @contextmanager
    def _recording_stream(self) -> Iterator[Any]:
        cuda = self._cupy.cuda
        device = cuda.runtime.getDevice()
        if device not in self._places:
            pool = cuda.MemoryPool()
            stream = cuda.Stream(non_blocking=True)
            self._places[device] = (stream, self._allocator(self._cupy, pool))
        stream, allocator = self._places[device]
        cuda.get_current_stream().synchronize()  # of what the function will read
        with cuda.using_allocator(allocator), stream:
            yield stream
