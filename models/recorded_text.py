"""The text that a checkpoint names: opened only where its user has named it, too."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tinygrad_char.models.corpus import BUILT_IN
from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.run_state import TextRecord


def inode(argument: str) -> int | None:
    """Return the number of a regular file on its disk; None where there is none, or a built-in."""
    if argument in BUILT_IN:
        return None
    try:
        status = os.stat(argument)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return (status.st_ino or None) if stat.S_ISREG(status.st_mode) else None


def trusted_argument(path: Path, text: TextRecord) -> str:
    """Return what to give to `load_corpus` for the text of the checkpoint at `path`.

    That is a built-in text, or the very file (the same inode) that was given to the run. Any other
    name is a stranger's: a checkpoint from elsewhere could name any file, or a pipe that never
    ends.

    Raises
    ------
    UsageError
        The text has to be given with --data.
    """
    name = text.argument
    if name in BUILT_IN or (text.inode is not None and inode(name) == text.inode):
        return name
    if not os.path.lexists(name):
        found = f"there is no file {name!r}, which"
    else:
        found = f"{name!r} was not opened: it is not the file that"
    raise UsageError(
        f"{found} {str(path)!r} was trained on as it says. Give the text with `--data FILE`"
    )
