"""Ctrl-C and termination during work that must end in an orderly way."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


class StopRequest:
    """Whether, and by which signal, the process was asked to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Return whether a stop was asked for."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it: 130 or 143."""
        return 128 + (self.signal or 0)


@contextlib.contextmanager
def stop_on_signals(notify: Callable[[], None]) -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request, and a second one into SystemExit.

    `notify` is called when the request comes, possibly in the middle of anything: it must not
    write to a stream, which may be in the middle of a write.
    """
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        if request():
            raise SystemExit(128 + number)
        request.signal = number
        notify()

    before = {each: signal.signal(each, handle) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
