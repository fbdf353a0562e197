"""The header of a safetensors file, as https://huggingface.co/docs/safetensors describes it.

Eight bytes say how long the header is; it is one JSON object, which tells of each tensor its dtype,
its shape and where its bytes begin and end; the bytes of all tensors follow without gaps. Nothing
is believed: every size is compared with the file's before memory is taken for it, and the file is
read, not mapped, since a mapped file that is cut meanwhile ends the process.
"""

import json
import math
from dataclasses import dataclass
from io import FileIO
from typing import Any

import numpy as np

from tinygrad_char.kernels.words import shorten
from tinygrad_char.regular_file import read_into

LONGEST_HEADER = 100_000_000
"""Bytes; the safetensors library refuses to read a longer one."""
MOST_VALUES = 5_000_000
"""Values in a header: parsed, each takes thirty times the three bytes that it may take in it."""
MOST_AXES = 32  # what every version of NumPy takes
LARGEST = (1 << 63) - 1

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
}


class FormatError(ValueError):
    """Bytes that are no safetensors file; the message says what is wrong with them."""


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor; its bytes are [start, end) of those after the header."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(file: FileIO, size: int) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the metadata of a file of `size` bytes, and what it says of each tensor, unchecked.

    Raises
    ------
    FormatError
        There is no such header, or it names something twice.
    """
    if size < 8:
        raise FormatError(f"{size} bytes are too few for the length of a header")
    length = int.from_bytes(_read(file, 8), "little")
    if length > min(size - 8, LONGEST_HEADER):
        raise FormatError(
            f"its header takes {length:,} bytes, but {min(size - 8, LONGEST_HEADER):,} at most"
        )
    text = _read(file, length)
    if too_many_values(text):
        raise FormatError(f"its header has more than {MOST_VALUES:,} values")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise FormatError("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError("the metadata in its header are not texts by name")
    return metadata, header


def too_many_values(header: bytes | bytearray) -> bool:
    """Return whether a header, and JSON in its metadata, has more values than are read."""
    return sum(map(header.count, (b"[", b"{", b","))) > MOST_VALUES


def check_tensors(entries: dict[str, Any], size: int) -> dict[str, TensorInfo]:
    """Return what a header says of each tensor, whose bytes together are `size` bytes.

    Raises
    ------
    FormatError
        It names a dtype that is never saved, an impossible shape, or bytes that do not fit the
        shape, the file or each other.
    """
    tensors = {name: _tensor(name, entry) for name, entry in entries.items()}
    reached = 0
    for name, tensor in sorted(tensors.items(), key=lambda each: (each[1].start, each[1].end)):
        if tensor.start != reached:
            raise FormatError(
                f"tensor {shorten(name)} starts at byte {tensor.start:,}, expected {reached:,}"
            )
        reached = tensor.end
    if reached != size:
        raise FormatError(f"its tensors take {reached:,} bytes, but it has {size:,} for them")
    return tensors


def read_tensor(file: FileIO, tensor: TensorInfo, data: int) -> np.ndarray:
    """Return one tensor of a file whose tensors begin at byte `data`.

    Raises
    ------
    FormatError
        The file has become shorter meanwhile, or a boolean is neither 0 nor 1.
    """
    array = np.empty(tensor.shape, tensor.dtype)
    file.seek(data + tensor.start)
    memory = array.reshape(-1).view(np.uint8)
    try:
        read_into(file, memory.data)
    except EOFError as error:
        raise FormatError(str(error)) from error
    if tensor.dtype == np.bool_ and memory.max(initial=0) > 1:
        raise FormatError("a boolean in it is neither 0 nor 1")
    return array


def _read(file: FileIO, count: int) -> bytearray:
    memory = bytearray(count)
    try:
        read_into(file, memoryview(memory))
    except EOFError as error:
        raise FormatError(str(error)) from error
    return memory


def _tensor(name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(
            f"tensor {shorten(name)} has not exactly a dtype, a shape and data_offsets"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FormatError(
            f"tensor {shorten(name)} has dtype {shorten(dtype)}, which is never saved"
        )
    if not _naturals(shape) or len(shape) > MOST_AXES:
        raise FormatError(f"tensor {shorten(name)} has the shape {shorten(shape)}, which is none")
    if not _naturals(offsets) or len(offsets) != 2:
        raise FormatError(
            f"tensor {shorten(name)} has data_offsets {shorten(offsets)}, expected two"
        )
    item = DTYPES[dtype].itemsize
    # NumPy refuses an axis of 0 beside axes whose product it cannot hold.
    if math.prod(max(each, 1) for each in shape) * item > LARGEST:
        raise FormatError(
            f"tensor {shorten(name)} has the shape {shorten(shape)}, too large for any array"
        )
    start, end = offsets
    if end - start != math.prod(shape) * item:
        raise FormatError(
            f"tensor {shorten(name)} of {dtype} {shape} takes {math.prod(shape) * item:,} bytes, "
            f"but its data_offsets are {shorten(offsets)}"
        )
    return TensorInfo(DTYPES[dtype], tuple(shape), start, end)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(each) is int and 0 <= each <= LARGEST for each in values
    )


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name comes twice in one object")
    return values
