"""Reading files of which nothing is known but a name: regular ones only, without ever waiting."""

import errno
import os
import stat
from io import FileIO
from pathlib import Path

# Opening a FIFO without it waits for a writer.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)


def open_regular(path: str | os.PathLike[str]) -> FileIO:
    """Open a file for reading, unbuffered; a link to a regular file is one.

    Raises
    ------
    OSError
        It cannot be opened, or is a folder, a FIFO, a device or a socket. These are not opened at
        all: opening alone may wait, or rewind a tape.
    """
    try:
        _check_regular(path, os.stat(path).st_mode)  # noqa: PTH116
    except ValueError as error:  # a NUL, or half a character: no file can have this name
        raise OSError(errno.EINVAL, f"not a possible file name ({error})", repr(path)) from error
    file = FileIO(os.open(path, _FLAGS))
    try:
        _check_regular(path, os.fstat(file.fileno()).st_mode)  # it may be another one by now
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return the content of a regular file, at most `limit` bytes of it.

    Raises
    ------
    OSError
        It cannot be read, or is longer, or no regular file.
    """
    with open_regular(path) as file:
        pieces, left = [], limit + 1
        if os.fstat(file.fileno()).st_size > limit:
            left = 0
        while left and (piece := file.read(left)):
            pieces.append(piece)
            left -= len(piece)
    if not left:
        raise OSError(errno.EFBIG, f"longer than {limit:,} bytes", str(path))
    return b"".join(pieces)


def read_into(file: FileIO, memory: memoryview) -> None:
    """Fill `memory` from the file; EOFError if it ends before."""
    done = 0
    while done < len(memory):
        count = file.readinto(memory[done:])
        if not count:
            raise EOFError(f"it ended {len(memory) - done:,} bytes too early")
        done += count


def _check_regular(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(Path(path)))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(Path(path)))
