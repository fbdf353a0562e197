"""The folder of one training run: its checkpoints, its metrics, and the lock on it."""

import contextlib
import difflib
import errno
import fcntl
import itertools
import json
import math
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tinygrad_char.checkpoint import (
    TEMPORARY_PREFIX,
    CheckpointError,
    advice,
    remove_leftovers,
    sync_folder,
    write_atomically,
)
from tinygrad_char.kernels.words import shorten
from tinygrad_char.models.errors import RunError, UsageError
from tinygrad_char.models.schema import LARGEST
from tinygrad_char.regular_file import read_regular

_LOCK = "run.lock"
_PROCESS = "run.pid"
_DAMAGED = "metrics.damaged.jsonl"

# Bytes of a record, of which a sample of text takes the most, and of all of them.
_LONGEST_LINE = 1 << 20
_LONGEST_METRICS = 1 << 30

_LOSSES = ("loss", "lr", "muon_lr", "norm", "train_loss", "validation_loss")

# JSON has no NaN and no infinity: they are written as these strings.
_NOT_FINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


class BrokenLineError(RunError):
    """A line of the metrics is not a record; `fault` says which, and what it is."""

    def __init__(self, fault: str) -> None:
        super().__init__(f"{fault}. Repair or delete that line.")
        self.fault = fault


@dataclass(frozen=True)
class KeptMetrics:
    """What is left of the metrics of a run that goes on."""

    records: int
    remark: str | None
    """What is missing, and why, where something is that should be there."""


class RunFolder:
    """One run's folder. Make one with `create`, `create_numbered` or `open`.

    Attributes
    ----------
    path
        The folder.
    last, best
        Checkpoint of the latest step, and of the lowest validation loss.
    metrics
        JSON Lines, one record for each evaluation, sample, and some of the steps.
    config
        JSON: how the run was started.
    loss_picture
        Picture of the losses.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.last = self.path / "last.safetensors"
        self.best = self.path / "best.safetensors"
        self.metrics = self.path / "metrics.jsonl"
        self.config = self.path / "config.json"
        self.loss_picture = self.path / "loss.png"
        self._must_be_empty = False
        self._made_here = False
        self._metrics_are_new = self._metrics_are_unsynced = True  # as far as is known here

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Make a new folder at `path`, or take an empty one, and check that it can be written to.

        Raises
        ------
        UsageError
            `path` is a file or lies under one, or is a folder with something in it.
        RunError
            It cannot be made or written to.
        """
        folder = cls(path)
        with _reporting("create the run folder", folder.path):
            try:
                folder._made_here = not folder.path.exists()
                _make_folders(folder.path)
            except (FileExistsError, NotADirectoryError) as error:
                raise UsageError(
                    f"{str(folder.path)!r} cannot be a run folder: it, or a part of that path, is "
                    f"a file. Give another --out."
                ) from error
            folder._check_empty()
            folder._probe()
        folder._must_be_empty = True
        return folder

    @classmethod
    def create_numbered(cls, parent: str | os.PathLike[str], name: str) -> "RunFolder":
        """Make a new folder `parent`/`name`, or `name`-2, `name`-3, ... where that is taken.

        Processes that do this at once each get their own.

        Raises
        ------
        UsageError
            `parent` is a file or lies under one.
        RunError
            The folder cannot be made or written to.
        """
        parent = Path(parent)
        with _reporting("create a run folder in", parent):
            try:
                _make_folders(parent)
            except (FileExistsError, NotADirectoryError) as error:
                raise UsageError(
                    f"{str(parent)!r} cannot hold run folders: it, or a part of that path, is a "
                    f"file. Give another --out."
                ) from error
            for number in itertools.count(1):
                folder = cls(parent / (name if number == 1 else f"{name}-{number}"))
                with contextlib.suppress(FileExistsError):
                    folder.path.mkdir()
                    folder._made_here = True
                    break
            try:
                sync_folder(parent)
                folder._probe()
            except OSError:
                # Else each further try would leave one more empty folder.
                with contextlib.suppress(OSError):
                    folder.path.rmdir()
                raise
        folder._must_be_empty = True
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Return the folder of an earlier run, to continue it or to read from it.

        Nothing is written: a read-only folder will do.

        Raises
        ------
        UsageError
            There is no such folder, or no checkpoint in it.
        RunError
            It cannot be read.
        """
        folder = cls(path)
        with _reporting("open the run folder", folder.path):
            if not _exists(folder.path):
                raise _missing(folder.path, "run folder")
            if not folder.path.is_dir():
                raise UsageError(
                    f"{str(folder.path)!r} is a file, expected a run folder. "
                    f"Did you mean {str(folder.path.parent)!r}?"
                )
            if not folder.last.exists() and not folder.best.exists():
                raise UsageError(
                    f"{str(folder.path)!r} holds no checkpoint ({folder.last.name} or "
                    f"{folder.best.name}): it is no run folder, or its run ended before the first "
                    f"checkpoint. Give another folder, or start a run with `tinygrad-char train`."
                )
        return folder

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training in this folder; take it before writing anything there.

        The operating system releases it when the process ends, however it ends. What killed saves
        left in the folder is deleted; and the folder too, if it was made for a run that then wrote
        nothing there.

        Raises
        ------
        RunError
            Another process holds it, the folder cannot be written to, or something else than a
            plain file, such as a link, has one of the names that a run writes to.
        UsageError
            The folder was new, and another run has since used it.
        """
        from filelock import FileLock, Timeout

        self._check_own_files()
        self._check_locks()
        lock, process = FileLock(self.path / _LOCK, timeout=0), os.getpid()
        with _reporting("lock the run folder", self.path):
            try:
                lock.acquire()
            except Timeout as error:
                raise RunError(
                    f"{str(self.path)!r} is in use by {self._holder()}. Wait until it ends or stop "
                    f"it, or train in another folder with --out."
                ) from error
        try:
            with _reporting("write to the run folder", self.path):
                if self._must_be_empty:
                    self._check_empty()
                    self._must_be_empty = False
                remove_leftovers(self.path)
                self._separate_metrics()
                write_atomically(
                    self.path / _PROCESS, str(os.getpid()).encode(), follow_links=False
                )
            try:
                yield
            finally:
                if os.getpid() == process:
                    # A file that stays is overwritten by the next run: no reason to fail now.
                    with contextlib.suppress(OSError):
                        (self.path / _PROCESS).unlink()
                    if self._made_here:
                        self._remove_unused()
        finally:
            if os.getpid() == process:
                lock.release()
            else:  # a forked process that ends does not end its parent's run; nor does its object
                vars(lock)["release"] = lambda force=False: None

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to `metrics`: a flat record of numbers and strings.

        Numbers that are not finite are written as the strings "nan", "inf" and "-inf", and
        `read_metrics` reads these strings back as numbers.

        Raises
        ------
        RunError
            It could not be written; no part of it is left in the file.
        """
        encoded = {key: _encode(value) for key, value in record.items()}
        line = json.dumps(encoded, allow_nan=False).encode() + b"\n"
        with (
            _reporting("write", self.metrics),
            open(self.metrics, "ab", buffering=0, opener=_open_no_link) as file,
        ):
            before = os.fstat(file.fileno()).st_size
            try:
                self._metrics_are_unsynced = True
                written = 0
                while written < len(line):
                    written += file.write(line[written:])
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(before)
                raise

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the records so far; none where there is no file.

        A last line without its newline was being written when the process was killed: it is left
        out.

        Raises
        ------
        RunError
            Any other line is not a record; the message has its number.
        """
        return [record for _, record in self._lines()]

    def sync_metrics(self) -> None:
        """Wait until all records are on disk, as before a checkpoint that counts them is saved.

        Raises
        ------
        RunError
            The disk did not confirm it.
        """
        if not self._metrics_are_unsynced or not self.metrics.exists():
            return
        with _reporting("write", self.metrics):
            with open(self.metrics, "ab", opener=_open_no_link) as file:
                os.fsync(file.fileno())
            if self._metrics_are_new:
                sync_folder(self.path)
        self._metrics_are_new = self._metrics_are_unsynced = False

    def truncate_metrics(self, records: int, step: int | None = None) -> KeptMetrics:
        """Keep what a checkpoint knows of: `records` records, none of a step beyond `step`.

        What the file holds is believed, not the count: fewer are kept where it has fewer, as
        after a power failure, and nothing from the first line on that is not a record. Where
        records after such a line are lost with it, the former file stays beside the new one.

        Raises
        ------
        RunError
            The file cannot be read or written; it is unchanged.
        """
        data = self._read_metrics_file()
        kept: list[bytes] = []
        whole, fault = True, None
        try:
            for line, record in self._records_of(data):
                later = step is not None and record["step"] > step
                whole = whole and len(kept) < records and not later
                if whole:
                    kept.append(line + b"\n")
        except BrokenLineError as error:
            fault = error.fault
        text = b"".join(kept)
        remark = None
        with _reporting("write", self.metrics):
            if fault or len(kept) < records:
                remark = f"{len(kept):,} of {records:,} records of the checkpoint are kept: "
                remark += (
                    f"{fault}, and was cut off"
                    if fault
                    else f"{str(self.metrics)!r} has no others of its steps"
                )
            if fault and len(kept) < records and data[len(text) :].split(b"\n", 1)[1]:
                former = self.path / _DAMAGED
                write_atomically(former, data, follow_links=False)
                remark = f"{remark} with all that follows; the former file is {str(former)!r}"
            if text != data:
                write_atomically(self.metrics, text, follow_links=False)
        return KeptMetrics(len(kept), remark)

    def _lines(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        return self._records_of(self._read_metrics_file())

    def _read_metrics_file(self) -> bytes:
        with _reporting("read", self.metrics), contextlib.suppress(FileNotFoundError):
            return read_regular(self.metrics, _LONGEST_METRICS)
        return b""

    def _records_of(self, data: bytes) -> Iterator[tuple[bytes, dict[str, Any]]]:
        for number, line in enumerate(data.split(b"\n")[:-1], start=1):
            yield line, self._record(number, line)

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        if len(line) > _LONGEST_LINE:
            expected = f"a record of at most {_LONGEST_LINE:,} bytes"
            raise self._broken_line(number, expected, line)
        try:
            record = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise self._broken_line(number, "a JSON record", line) from error
        if not isinstance(record, dict):
            raise self._broken_line(number, "a JSON record", line)
        if "step" not in record:
            raise self._broken_line(number, 'a record with a "step"', line)
        for key, value in record.items():
            if expected := _expected(key, value):
                raise self._broken_line(
                    number, f"a record: {shorten(key)} is {shorten(value)}, not {expected}", line
                )
        return {key: _decode(value) for key, value in record.items()}

    def _broken_line(self, number: int, expected: str, line: bytes) -> BrokenLineError:
        return BrokenLineError(
            f"line {number} of {str(self.metrics)!r} is not {expected}: {shorten(line)}"
        )

    def _check_locks(self) -> None:
        """Refuse a file system without locks, where the library may take one for held, or wait.

        A file of its own is tried, so that nobody else's lock fails meanwhile.
        """
        with _reporting("write to the run folder", self.path):
            trial = tempfile.TemporaryFile(dir=self.path)  # noqa: SIM115
        with trial:
            try:
                fcntl.flock(trial, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(
                    f"{str(self.path)!r} is on a file system without locks ({error.strerror}), "
                    "where two runs could write over each other. Train in a folder on another one "
                    "with --out."
                ) from error

    def _check_own_files(self) -> None:
        """Refuse what a run never makes: a folder from elsewhere may lead out of itself."""
        own = (self.last, self.best, self.metrics, self.config, self.loss_picture)
        with _reporting("look into", self.path):
            for path in (*own, *(self.path / name for name in (_LOCK, _PROCESS, _DAMAGED))):
                try:
                    status = path.lstat()
                except FileNotFoundError:
                    continue
                if not stat.S_ISREG(status.st_mode):
                    kind = "a link" if stat.S_ISLNK(status.st_mode) else "no regular file"
                    raise RunError(
                        f"{str(path)!r} is {kind}; a run keeps plain files under its names, and "
                        "writes to nothing else. Delete it, or copy there what it stands for"
                    )
                # A lock is emptied: with a second name, that would be another file, too.
                if path.name == _LOCK and status.st_nlink > 1:
                    raise RunError(
                        f"{str(path)!r} has other names (it is a hard link), which the lock of a "
                        "run never has. Delete it"
                    )

    def _separate_metrics(self) -> None:
        """Give the metrics a file of their own: one with other names must not grow with the run.

        Backups made of hard links are such.
        """
        with contextlib.suppress(FileNotFoundError):
            if self.metrics.lstat().st_nlink > 1:
                write_atomically(self.metrics, self._read_metrics_file(), follow_links=False)

    def _check_empty(self) -> None:
        # What is left by a run that ended before it wrote anything does not count.
        found = sorted(
            entry.name
            for entry in self.path.iterdir()
            if entry.name not in (_LOCK, _PROCESS) and not entry.name.startswith(TEMPORARY_PREFIX)
        )
        if not found:
            return
        if self.last.exists() or self.best.exists():
            resume = f"tinygrad-char train --resume {shlex.quote(str(self.path))}"
            other = f"Continue that run with `{resume}`, or give"
        else:
            other = "It has no checkpoint to continue from. Give"
        raise UsageError(
            f"the run folder {str(self.path)!r} is not empty (it has {', '.join(found[:3])}"
            f"{', ...' if len(found) > 3 else ''}) and is never overwritten. {other} another --out."
        )

    def _remove_unused(self) -> None:
        # It would be one more empty folder after each try that failed at once.
        # Where the folder itself is gone, that was said already.
        with contextlib.suppress(OSError):
            if [entry.name for entry in self.path.iterdir()] == [_LOCK]:
                (self.path / _LOCK).unlink()
                self.path.rmdir()

    def _probe(self) -> None:
        """Write to the folder: permission bits say little to root, and nothing on a full disk."""
        with tempfile.TemporaryFile(dir=self.path) as file:
            file.write(b"probe")
            file.flush()
            os.fsync(file.fileno())

    def _holder(self) -> str:
        try:
            return f"process {int(read_regular(self.path / _PROCESS, 32))}"
        except (OSError, ValueError):
            return "another process"


def _make_folders(path: Path) -> None:
    """Make a folder and those above it, so that all of them would survive a power failure."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        sync_folder(each.parent)


def resolve_checkpoint(
    path_or_folder: str | os.PathLike[str], which: Literal["best", "last"] = "best"
) -> Path:
    """Return the checkpoint file that is meant: the file itself, or one of a run folder's two.

    A run that was not evaluated yet has no best checkpoint: there the last one is taken.

    Raises
    ------
    UsageError
        There is nothing at `path_or_folder`, or a folder without the checkpoint.
    RunError
        It cannot be read.
    """
    path = Path(path_or_folder)
    with _reporting("open", path):
        if not _exists(path):
            raise _missing(path, "checkpoint or run folder")
        if not path.is_dir():
            return path
    folder = RunFolder.open(path)
    if which == "best" and folder.best.exists():
        return folder.best
    if folder.last.exists():
        return folder.last
    raise UsageError(
        f"{str(path)!r} has no {folder.last.name}, only {str(folder.best)!r}: name that file"
    )


@contextlib.contextmanager
def _naming(action: str, path: Path) -> Iterator[None]:
    """Turn a name that no file can have into an error of who gave it."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise UsageError(
            f"cannot {action} {str(path)!r}: {error.strerror}. {advice(error)}"
        ) from error


def _exists(path: Path) -> bool:
    """Return whether there is something; OSError where one cannot look, which `exists` may hide."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextlib.contextmanager
def _reporting(action: str, path: Path) -> Iterator[None]:
    """Turn what the operating system answers into an error that says what to do."""
    try:
        with _naming(action, path):
            yield
    except CheckpointError as error:
        raise RunError(str(error)) from error
    except OSError as error:
        raise RunError(
            f"cannot {action} {str(path)!r}: {error.strerror or error}. {advice(error)}"
        ) from error


def _missing(path: Path, expected: str) -> UsageError:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings)
    if near:
        hint = f"Did you mean {' or '.join(repr(str(path.parent / name)) for name in near)}?"
    else:
        hint = "Check the name, or start a run with `tinygrad-char train`."
    return UsageError(f"there is no {expected} {str(path)!r}. {hint}")


def _encode(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    return value


def _expected(key: str, value: Any) -> str:
    """Return what a value of a record should be, or nothing where it is that."""
    kind = type(value)
    if key == "step":
        return "" if kind is int and 0 <= value <= LARGEST else "an integer"
    if key in _LOSSES:
        whole = kind is int and abs(value) <= LARGEST
        number = kind is float or whole or (kind is str and value in _NOT_FINITE)
        return "" if number else "a number"
    if key == "sample":
        return "" if kind is str else "a text"
    return "one value" if kind in (dict, list) else ""


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _decode(value: Any) -> Any:
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
