"""Ctrl-C and termination during work that must end in an orderly way."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

IMPATIENT = ("SIGINT", "SIGTERM")
"""Signals that a person sends again to have the process end at once."""
STOPPING = (*IMPATIENT, "SIGHUP", "SIGUSR1")
"""Signals that ask for a stop: of a person, of a terminal that closes, and of schedulers."""


class StopRequest:
    """Whether, and by which signal, the process was asked to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Return whether a stop was asked for."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it: 130, 143, 129 or 138."""
        return 128 + (self.signal or 0)


@contextlib.contextmanager
def stop_on_signals(
    notify: Callable[[], None], leave: Callable[[], None] = lambda: None
) -> Iterator[StopRequest]:
    """Turn the first signal of `STOPPING` into a request.

    A second SIGINT or SIGTERM raises SystemExit, and a third one ends the process, after `leave`,
    where that has not come through. Closing a terminal may send SIGHUP twice, and schedulers send
    SIGTERM some time after SIGUSR1: neither hurries what is being saved.

    `notify` is called when the request comes, and like `leave` possibly in the middle of anything:
    they must not write to a stream, which may be in the middle of a write.

    A signal that the process was started to ignore stays ignored, as SIGHUP is under nohup and
    SIGINT where a shell starts a job in the background. Outside the main thread, which alone
    answers signals, no request comes; a forked process answers them as it would have before.
    """
    request = StopRequest()
    impatience = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal impatience
        if os.getpid() != process:  # forked meanwhile: the signal is not about this work
            signal.signal(number, before[number])
            signal.raise_signal(number)
            return
        impatience += number in impatient
        if not request():
            request.signal = number
            notify()
        elif number in impatient and impatience == 2:
            raise SystemExit(128 + number)
        elif number in impatient and impatience > 2:
            leave()
            leave_at_once(number)

    process, impatient = os.getpid(), _known(IMPATIENT)
    before: dict[int, Any] = {}
    if _answers_signals():
        for each in _known(STOPPING):
            if signal.getsignal(each) not in (signal.SIG_IGN, None):
                before[each] = signal.signal(each, handle)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupts:
    """Ctrl-C outside such work: the first one raises KeyboardInterrupt, others end the process.

    So do all after `finished`: what a process does when its work is done is of interest to
    nobody, and an exception there would show a trace.
    """

    def __init__(self) -> None:
        self._done = False
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if usual and _answers_signals():
            signal.signal(signal.SIGINT, self._answer)

    def finished(self) -> None:
        """Let the next one end the process."""
        self._done = True

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if self._done:
            leave_at_once(number)
        self._done = True
        raise KeyboardInterrupt


def leave_at_once(number: int) -> NoReturn:
    """End the process with a signal's exit code, whatever it is in the middle of."""
    os._exit(128 + number)


def _answers_signals() -> bool:
    return threading.current_thread() is threading.main_thread()


def _known(names: tuple[str, ...]) -> list[signal.Signals]:
    """Return those of the signals that this system has."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]
