"""Words that messages share, and values of the environment that mean something."""

import os
import reprlib
from collections.abc import Sequence


class _Shortener(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        self.maxtuple = self.maxlist

    def repr_int(self, value: int, level: int) -> str:
        # Python refuses to print very long ones.
        return f"a number of {value.bit_length()} bits" if abs(value) >> 256 else str(value)


shorten = _Shortener().repr
"""Return a value's representation for a message."""


class EnvironmentVariableError(ValueError):
    """A variable of the environment has a value that means nothing."""


def choice(variable: str, values: Sequence[str], default: str) -> str:
    """Return the value of a variable, or the default where it is not set, or empty.

    Raises
    ------
    EnvironmentVariableError
        The value is none of these.
    """
    value = os.environ.get(variable) or default
    if value not in values:
        raise EnvironmentVariableError(
            f"{variable}={shorten(value)} in the environment; expected one of "
            f"{', '.join(values)}, or nothing, which means {default}"
        )
    return value


def how_to_install(extra: str) -> str:
    """Return the command that installs one of setup.py's extras: on no index, so from the files."""
    return f'pip install -e ".[{extra}]" in the checkout'
