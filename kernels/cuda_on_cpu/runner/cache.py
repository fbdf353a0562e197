"""The folder of compiled kernels: made once, used by any number of processes, never too large.

An entry is a folder, named by a hash of all that goes into it. It is made under another name and
then renamed, so that no process sees half of one. Its time is that of its last use. Where the
entries become too large, those that were not used for longest are removed: by a process that has
the folder's lock, and renamed first; whoever takes an entry into use has the lock for that moment.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tinygrad_char.kernels.cuda_on_cpu.runner.errors import RunnerError

MOST_BYTES = 1 << 30
"""The size beyond which old entries are removed, until half of it is left."""

IN_USE_SECONDS = 3600
"""Entries used within this time stay, since a process may be about to load one."""

UNFINISHED = "-unfinished"


def cache_folder() -> Path:
    """Return the folder of compiled kernels, in the user's cache.

    Raises
    ------
    RunnerError
        This user has no home directory.
    """
    cache_home = os.environ.get("XDG_CACHE_HOME")
    if not cache_home:
        try:
            cache_home = str(Path.home() / ".cache")
        except RuntimeError as error:
            raise RunnerError(
                "there is no home directory to keep compiled kernels in: set XDG_CACHE_HOME to a "
                "folder that can be written to"
            ) from error
    return Path(cache_home) / "tinygrad_char" / "cuda-on-cpu"


def kept(kind: str, ingredients: Sequence[object], make: Callable[[Path], None]) -> Path:
    """Return the entry for these ingredients, which `make` fills unless it exists.

    Raises
    ------
    RunnerError
        The folder cannot be written.
    """
    digest = hashlib.sha256(repr(tuple(ingredients)).encode()).hexdigest()[:24]
    root = cache_folder()
    entry = root / f"{kind}-{digest}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            if entry.is_dir():
                os.utime(entry)
                return entry
        temporary = Path(tempfile.mkdtemp(prefix=f"{kind}-", suffix=UNFINISHED, dir=root))
    except OSError as error:
        raise RunnerError(
            f"compiled kernels cannot be kept in {root} ({error.strerror}): make it "
            "writable, or set XDG_CACHE_HOME to a folder that is"
        ) from error
    try:
        make(temporary)
        try:
            temporary.rename(entry)
        except OSError:
            if not entry.is_dir():  # otherwise another process was first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    remove_old(root)
    return entry


def remove_old(root: Path) -> None:
    """Remove what was not used for longest where the entries are too large together."""
    with _locked(root):
        doomed = [_set_aside(entry) for entry in _too_old(root)]
    for each in doomed:
        shutil.rmtree(each, ignore_errors=True)


def _too_old(root: Path) -> list[Path]:
    now = time.time()
    entries = []
    for entry in root.iterdir():
        if entry.is_symlink() or not entry.is_dir():
            continue
        with suppress(FileNotFoundError):  # unfinished ones come and go without the lock
            size = sum(each.stat().st_size for each in entry.glob("*"))
            entries.append((entry.stat().st_mtime, size, entry))
    total = sum(size for _, size, _ in entries)
    if total <= MOST_BYTES:
        return []
    found = []
    for used, size, entry in sorted(entries):
        if total <= MOST_BYTES // 2 or now - used < IN_USE_SECONDS:
            break
        found.append(entry)
        total -= size
    return found


def _set_aside(entry: Path) -> Path:
    """Give an entry a name by which nobody looks for it."""
    if entry.name.endswith(UNFINISHED):  # left behind by a process that was killed
        return entry
    return entry.rename(entry.with_name(f"{entry.name}-{os.getpid()}{UNFINISHED}"))


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
