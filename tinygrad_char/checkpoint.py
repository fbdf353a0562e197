"""Checkpoints: arrays and JSON in one safetensors file, whole or not there at all.

Nothing in such a file can be executed. A SHA-256 over its whole content is kept in its header, so
that an altered file is refused. A file appears under its name only once it is complete and on disk.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import reprlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_char import safetensors_file
from tinygrad_char.regular_file import open_regular
from tinygrad_char.safetensors_file import FormatError, TensorInfo

FORMAT = "tinygrad_char"
VERSION = "1"

# How the names of files that are still being written begin.
TEMPORARY_PREFIX = ".tinygrad_char-"

_DTYPES = {dtype: name for name, dtype in safetensors_file.DTYPES.items()}
_LONGEST_HEADER = safetensors_file.LONGEST_HEADER

_PICKLE = "a Python pickle, as older PyTorch files (.pt, .pth) and .pkl files are"
_OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive, as PyTorch (.pt, .pth) and NumPy (.npz) files are",
    b"\x80\x02": _PICKLE,
    b"\x80\x03": _PICKLE,
    b"\x80\x04": _PICKLE,
    b"\x80\x05": _PICKLE,
    b"\x93NUMPY": "a NumPy array (.npy)",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive",
}

_ADVICE = {
    errno.ENOSPC: "Free space there (old run folders?) or choose a folder on another disk.",
    errno.EDQUOT: "Free some of your quota there or choose a folder on another disk.",
    errno.EFBIG: "Raise the limit on file sizes (`ulimit -f`) or choose another filesystem.",
    errno.EROFS: "Choose a folder on a filesystem that is not read-only.",
    errno.EACCES: "Check the permissions there, or choose another folder.",
    errno.EPERM: "Check the permissions there, or choose another folder.",
    errno.ENOENT: "Create that folder first, or choose one that exists.",
    errno.ENOTDIR: "A part of that path is a file: choose another path.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}

_LEFTOVER = re.compile(re.escape(TEMPORARY_PREFIX) + r"(\d+)-[0-9a-f]{8}\.tmp")

# Two characters in a Python string, but one character once JSON has been read.
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class CheckpointError(RuntimeError):
    """A file could not be saved, or cannot be loaded; the message says why and what to do."""


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    *,
    follow_links: bool = True,
) -> None:
    """Write arrays and metadata to `path` atomically.

    Parameters
    ----------
    path
        Where the file appears. After any failure the former file of that name is untouched.
    tensors
        Arrays of any shape and layout, of the dtypes that safetensors knows, in native byte order.
    metadata
        Dictionaries with string keys, lists, strings, numbers, booleans and None: what JSON gives
        back exactly. Integers may be of any size, floats may be NaN or infinite.
    follow_links
        Whether a link at `path` stays, and the file that it points to is replaced. Where others
        may have put the link there, its target is not theirs to give: then the link is replaced.

    Raises
    ------
    CheckpointError
        A value that would not come back exactly, or a file that could not be written.
    """
    text = _exact_json(metadata)
    arrays = {name: _storable(name, tensors[name]) for name in sorted(tensors)}
    # Widest items first: then every array starts at a multiple of its item size.
    arrays = dict(sorted(arrays.items(), key=lambda pair: -pair[1].itemsize))
    header = _header(text, arrays)
    if len(header) > _LONGEST_HEADER:
        raise CheckpointError(
            f"the metadata and tensor names take {len(header):,} bytes, but a safetensors header "
            f"holds at most {_LONGEST_HEADER:,}: store large values as tensors"
        )
    if safetensors_file.too_many_values(header):
        raise CheckpointError(
            f"the metadata have more than {safetensors_file.MOST_VALUES:,} values: store long "
            f"lists as tensors"
        )
    _publish(
        Path(path),
        [len(header).to_bytes(8, "little"), header, *(_bytes_of(each) for each in arrays.values())],
        8 + len(header) + sum(each.nbytes for each in arrays.values()),
        follow_links,
    )


def _header(text: str, arrays: dict[str, np.ndarray]) -> bytes:
    """Return the header of a file with this metadata and these arrays, one after the other."""
    header: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "version": VERSION,
            "json": text,
            "sha256": _digest(text, arrays),
        }
    }
    offset = 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        header[name] = {
            "dtype": _DTYPES[array.dtype],
            "shape": array.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return encoded + b" " * (-len(encoded) % 8)


def load(
    path: str | os.PathLike[str],
    check: Callable[[Mapping[str, TensorInfo], dict[str, Any]], None] | None = None,
    *,
    external: bool = False,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save` wrote: the arrays, by name in sorted order, and the metadata.

    Parameters
    ----------
    path
        A regular file. It is read once and never mapped into memory.
    check
        Called with the dtype and shape of each tensor and the metadata before memory is taken for
        any tensor, to raise what it likes where they are not what was expected.
    external
        Whether a safetensors file of another program is read too; its metadata are then {}, and
        nothing says whether it was altered.

    Raises
    ------
    CheckpointError
        `path` is missing, cut short, altered, of another program or version, or no safetensors
        file at all. Nothing in a refused file is executed.
    """
    path = Path(path)
    first, size = b"", 0
    with _reading(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(16) or b""
        if not first:
            raise CheckpointError(
                f"cannot load {str(path)!r}: it is empty. Use another checkpoint."
            )
        file.seek(0)
        try:
            header, entries = safetensors_file.read_header(file, size)
            own = not external or header.get("format") == FORMAT
            if own:
                _check_origin(path, {key: text[:64] for key, text in header.items()})
            data = file.tell()
            described = safetensors_file.check_tensors(entries, size - data)
            metadata = _metadata(path, header["json"]) if own else {}
            if check is not None:
                check(described, metadata)
            tensors = {
                name: safetensors_file.read_tensor(file, described[name], data)
                for name in sorted(described)
            }
        except FormatError as error:
            raise _unreadable(path, first, size, error) from error
    if own and (found := _digest(header["json"], tensors)) != header["sha256"]:
        raise _altered(
            path,
            f"its content has SHA-256 {found}, its header says {reprlib.repr(header['sha256'])}",
        )
    return tensors, metadata


def write_atomically(
    path: str | os.PathLike[str], data: bytes, *, follow_links: bool = True
) -> None:
    """Replace the file at `path` by `data`: readers see the former file or the new one, whole.

    Links are treated as in `save`.

    Raises
    ------
    CheckpointError
        The file could not be written; the former one is untouched.
    """
    _publish(Path(path), [data], len(data), follow_links)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Delete the temporary files of saves that were killed.

    Those of other living processes stay. Call it while no other thread saves into `folder`: what
    carries this process's id counts as left by an earlier process that had the same one.

    Raises
    ------
    CheckpointError
        The folder cannot be read, or a file in it cannot be deleted.
    """
    folder = Path(folder)
    try:
        for entry in folder.iterdir():
            match = _LEFTOVER.fullmatch(entry.name)
            if match and not _is_another_living_process(int(match[1])):
                entry.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot delete what interrupted saves left in {str(folder)!r}: {error.strerror}. "
            f"{advice(error)}"
        ) from error


def advice(error: OSError) -> str:
    """Say what a person can do about a file that could not be written."""
    return _ADVICE.get(error.errno or 0, "Check the disk, or choose a folder on another one.")


def _exact_json(metadata: Mapping[str, Any]) -> str:
    try:
        _check_exact(dict(metadata), "metadata")
        return json.dumps(dict(metadata), sort_keys=True)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the metadata cannot be written as JSON: {error}") from error


def _check_exact(value: Any, where: str) -> None:
    """Refuse what JSON would turn into something else, such as tuples and integer keys."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise CheckpointError(
                    f"{where} has the key {key!r}, but JSON keeps only string keys: "
                    f"use {str(key)!r}"
                )
            _check_exact(key, f"the key {key!r} of {where}")
            _check_exact(item, f"{where}[{key!r}]")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_exact(item, f"{where}[{index}]")
    elif isinstance(value, str):
        if pair := _SURROGATE_PAIR.search(value):
            raise CheckpointError(
                f"{where} has the surrogates {pair[0]!r}, which JSON joins into one character: "
                f"write that character"
            )
    elif value is not None and not isinstance(value, (int, float)):
        raise CheckpointError(
            f"{where} is a {type(value).__name__}, which JSON does not give back: use a dict, "
            f"list, str, int, float, bool or None, or save it as a tensor"
        )


def _storable(name: str, array: np.ndarray) -> np.ndarray:
    """Return `array` in C order; the same object where it already is."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"tensor name {name!r} is not valid Unicode: {error}") from error
    if name == "__metadata__":
        raise CheckpointError("tensor name '__metadata__' is reserved by safetensors: rename it")
    if not isinstance(array, np.ndarray):
        raise CheckpointError(
            f"tensor {name!r} is a {type(array).__name__}, expected a NumPy array: convert it"
        )
    if array.dtype not in _DTYPES:
        known = ", ".join(str(dtype) for dtype in _DTYPES)
        raise CheckpointError(
            f"tensor {name!r} has dtype {array.dtype}, which safetensors cannot hold: "
            f"convert it to one of {known}"
        )
    return np.asarray(array, order="C")


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the metadata and of each array's name, dtype, shape and bytes, by sorted name.

    All that is not array bytes comes first, as JSON: it fixes where each array's bytes end, so no
    two different contents give the same input to the hash.
    """
    names = sorted(arrays)
    described = [[name, _DTYPES[arrays[name].dtype], arrays[name].shape] for name in names]
    digest = hashlib.sha256(json.dumps([text, described]).encode())
    for name in names:
        digest.update(_bytes_of(arrays[name]))
    return digest.hexdigest()


def _bytes_of(array: np.ndarray) -> memoryview:
    """Return the bytes of an array in C order, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def _publish(
    path: Path, pieces: Sequence[bytes | memoryview], size: int, follow_links: bool
) -> None:
    """Write `pieces` beside `path`, wait until they are on disk, and rename."""
    try:
        target = Path(os.path.realpath(path if follow_links else path.parent))
    except (OSError, ValueError) as error:  # no working directory, or a NUL in the name
        raise CheckpointError(
            f"cannot save {str(path)!r}: {getattr(error, 'strerror', None) or error}. "
            "Give a name in a folder that exists."
        ) from error
    if not follow_links:
        target /= path.name
    temporary = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(4).hex()}.tmp"
    former = False
    try:
        former = target.exists()
        if former and not target.is_symlink() and not target.is_file():
            raise CheckpointError(
                f"cannot save {str(path)!r}: it exists and is not a regular file. "
                "Choose another name."
            )
        try:
            with temporary.open("xb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            # The first error is the one to report, not that there was nothing to delete.
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise _not_saved(path, target.parent, former, size, error) from error
    try:
        sync_folder(target.parent)
    except OSError as error:
        raise CheckpointError(
            f"saved {str(path)!r} whole, but the disk did not confirm its new name: "
            f"{error.strerror}. Check the disk: after a power failure the former file may be back."
        ) from error


def _not_saved(
    path: Path, folder: Path, former: bool, size: int, error: OSError
) -> CheckpointError:
    try:
        free = f"{shutil.disk_usage(folder).free:,} bytes free there"
    except OSError:
        free = "free space there unknown"
    intact = " The former file of that name is intact." if former else ""
    return CheckpointError(
        f"could not save {str(path)!r} ({size:,} bytes needed, {free}): {error.strerror or error}."
        f"{intact} {advice(error)}"
    )


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Wait until the names in `folder`, new, changed and deleted, would survive a power failure.

    Raises
    ------
    OSError
        The disk did not confirm it.
    """
    if not hasattr(os, "O_DIRECTORY"):  # Windows does not open folders.
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # names may be made in it, but not listed
        os.sync()
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network filesystems do not offer this for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _is_another_living_process(process_id: int) -> bool:
    if process_id == os.getpid():
        return False
    if os.name == "nt":
        # There signal 0 is Ctrl-C; and a file that is being written cannot be deleted anyway.
        return False
    try:
        os.kill(process_id, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what the operating system answers to opening and reading into a CheckpointError."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(
            f"cannot load {str(path)!r}: there is no such file. Check the name."
        ) from error
    except IsADirectoryError as error:
        raise CheckpointError(
            f"cannot load {str(path)!r}: it is a folder. Name the checkpoint file in it."
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"cannot load {str(path)!r}: {error.strerror or error}. "
            "Check the file and its permissions."
        ) from error


def _metadata(path: Path, text: str) -> dict[str, Any]:
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _altered(path, f"its metadata is not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise _altered(path, "its metadata is no JSON object")
    return metadata


def _check_origin(path: Path, header: Mapping[str, str]) -> None:
    written_by = header.get("format")
    if written_by != FORMAT:
        raise CheckpointError(
            f"cannot load {str(path)!r}: it is a safetensors file of another program (its header "
            f"says format={written_by!r}, expected {FORMAT!r}). It has the tensors, which "
            f"safetensors.numpy.load_file reads, but not the configuration, vocabulary and state "
            f"of a run. Use a checkpoint that `tinygrad-char train` wrote."
        )
    if header.get("version") != VERSION:
        raise CheckpointError(
            f"cannot load {str(path)!r}: it has format version {header.get('version')!r}, this "
            f"program reads version {VERSION!r}. Upgrade tinygrad-char, or use another checkpoint."
        )
    for key in ("json", "sha256"):
        if key not in header:
            raise _altered(path, f"its header has no {key!r}")


def _altered(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"cannot load {str(path)!r}: it was altered after it was saved ({reason}). "
        f"Use another checkpoint, or a fresh copy of this one."
    )


def _unreadable(path: Path, first: bytes, size: int, error: FormatError) -> CheckpointError:
    if first[8:9] == b"{" or size <= 8:
        return CheckpointError(
            f"cannot load {str(path)!r}: it was cut short or altered ({size:,} bytes; {error}). "
            f"Use another checkpoint, or a fresh copy of this one."
        )
    kind = next(
        (name for magic, name in _OTHER_FORMATS.items() if first.startswith(magic)),
        "of an unknown kind",
    )
    return CheckpointError(
        f"cannot load {str(path)!r}: it is {kind}, not a safetensors file. Nothing in it was "
        f"executed. Use a checkpoint that `tinygrad-char train` wrote."
    )
