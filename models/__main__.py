"""The command `tinygrad-char`, also `python -m tinygrad_char.models`."""

import io
import os
import shutil
import sys

from tinygrad_char.kernels.words import EnvironmentVariableError
from tinygrad_char.models.signals import Interrupts

NARROWEST = 20
"""Columns of a terminal for which help is laid out; tyro takes minutes for some that are less."""


def main() -> None:
    """Run the command line: exit code 0 done, 1 failed, 2 wrong usage, 128 + N after signal N."""
    try:
        interrupts = Interrupts()
        _prepare_output()
        _check_environment()
        from tinygrad_char.models.cli import run  # and NumPy: Ctrl-C is answered by now

        if _computes(sys.argv[1:]):
            from tinygrad_char.models.openblas import restart_with_better_core_type

            restart_with_better_core_type()
        code = run(sys.argv[1:])
        interrupts.finished()
    except EnvironmentVariableError as error:  # of a module that reads it when it is imported
        sys.stderr.write(f"error: {error}\n")
        code = 2
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        code = 130
    sys.exit(code)


def _check_environment() -> None:
    from tinygrad_char.kernels.operations import of_environment
    from tinygrad_char.step import way_of_environment

    of_environment()
    way_of_environment()


def _computes(arguments: list[str]) -> bool:
    return arguments[:1] in (["train"], ["evaluate"]) and not {"-h", "--help"} & set(arguments)


def _prepare_output() -> None:
    """Make every text printable, whatever the terminal's width.

    So it is where a stream is closed or knows too few characters, too.
    """
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
