"""What can go wrong for a person at the terminal, by exit code."""


class UsageError(ValueError):
    """A value that the user gave cannot be used: exit code 2.

    The message names the value, what was expected, and what to do.
    """


class RunError(RuntimeError):
    """The work itself could not be done (a full disk, a loss that is not a number): exit code 1."""
