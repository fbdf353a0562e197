"""Variables of the environment, of which each has a few values that mean something."""

import os
from collections.abc import Sequence

from tinygrad_char.kernels.shorten import shorten


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
