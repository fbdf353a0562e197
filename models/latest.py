"""Which run is meant where none is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tinygrad_char.models.errors import UsageError
from tinygrad_char.regular_file import open_regular
from tinygrad_char.safetensors_file import read_header


def latest_run(parent: str) -> Path:
    """Return the run folder under `parent` that was saved last, of those with a step made.

    Where no run has made a step, the last one of all.

    Raises
    ------
    UsageError
        There is none.
    """
    found = []
    for checkpoint in Path(parent).glob("*/last.safetensors"):
        try:
            found.append((checkpoint.stat().st_mtime, checkpoint))
        except OSError:  # a link to nothing, or deleted meanwhile
            continue
    if not found:
        raise UsageError(
            f"no run under {parent}/ here: give a run folder or a checkpoint, or make one with "
            "`tinygrad-char train`"
        )
    newest = [checkpoint for _, checkpoint in sorted(found, reverse=True)]
    return next((each for each in newest if steps_made(each) != 0), newest[0]).parent


def steps_made(checkpoint: Path) -> int | None:
    """Return the number of steps that a checkpoint's header tells; None where it tells none.

    Nothing is checked here but that it can be read: `load_checkpoint` does, and says what is wrong.
    """
    try:
        with open_regular(checkpoint) as file:
            metadata, _ = read_header(file, os.fstat(file.fileno()).st_size)
        step = json.loads(metadata["json"])["step"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return step if isinstance(step, int) else None
