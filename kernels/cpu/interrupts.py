"""Ctrl-C in commands that measure and compile: one line, wherever it comes."""

import sys
from types import TracebackType


def answer_interrupts() -> None:
    """Have the command that Python is about to run by `-m` end at Ctrl-C with exit code 130.

    To be called by the package that the command is in, so that it holds while the command imports
    what it needs, too. Where Python runs anything else, nothing is done.
    """
    if sys.argv[:1] == ["-m"]:  # as it is while Python looks for the module that it was given
        sys.excepthook = _end


def _end(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("\ninterrupted\n")
        raise SystemExit(130)
    sys.__excepthook__(kind, value, trace)
