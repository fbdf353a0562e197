"""What can go wrong for a person at the terminal, by exit code."""


class UsageError(Exception):
    """A value that the user gave cannot be used: exit code 2.

    The message names the value, what was expected, and what to do. It is no ValueError: tyro
    takes those for its own, and shows them with names that mean nothing to a user.
    """


class RunError(RuntimeError):
    """The work itself could not be done (a full disk, a loss that is not a number): exit code 1."""
