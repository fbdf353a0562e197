import json
import math
import os
import resource

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char import checkpoint, safetensors_file
from tinygrad_char.checkpoint import CheckpointError
from tinygrad_char.regular_file import open_regular
from tinygrad_char.safetensors_file import DTYPES, FormatError


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("safetensors")


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def read(path):
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        metadata, entries = safetensors_file.read_header(file, size)
        data = file.tell()
        tensors = safetensors_file.check_tensors(entries, size - data)
        return metadata, {
            n: safetensors_file.read_tensor(file, t, data) for n, t in tensors.items()
        }


def refused(path, content, match):
    path.write_bytes(content)
    with pytest.raises(FormatError, match=match):
        read(path)


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({**tensor(), "more": 1}, "exactly a dtype"),
        ({"dtype": "F32", "shape": [2]}, "exactly a dtype"),
        ([1], "exactly a dtype"),
        (tensor(dtype="F33"), "F33"),
        (tensor(dtype=["F32"]), "never saved"),
        (tensor(shape=(-2,)), "which is none"),
        (tensor(shape=(2.0,)), "which is none"),
        (tensor(shape=(True, 2)), "which is none"),
        (tensor(shape=("2",)), "which is none"),
        (tensor(shape=(1,) * 33), "which is none"),
        (tensor(shape=(10**400,)), "which is none"),
        (tensor(shape=(0, 2**62), offsets=(0, 0)), "too large"),
        (tensor(shape=(2**62, 0), offsets=(0, 0)), "too large"),
        (tensor(shape=(2**32, 2**32), offsets=(0, 0)), "too large"),
        (tensor(shape=(2**40,), offsets=(0, 2**42)), "but it has 8"),
        (tensor(offsets=(0, 4)), "takes 8 bytes"),
        (tensor(offsets=(8, 0)), "takes 8 bytes"),
        (tensor(offsets=(0,)), "expected two"),
        (tensor(offsets=(0, 4, 8)), "expected two"),
        (tensor(offsets=(-8, 0)), "expected two"),
        (tensor(offsets=(4, 12)), "starts at byte 4"),
    ],
)
def test_an_impossible_tensor_is_refused(scratch, entry, match):
    refused(scratch / "a", file_of({"w": entry}, bytes(8)), match)


def test_tensors_that_overlap_or_leave_gaps_are_refused(scratch):
    two = {"a": tensor(), "b": tensor(offsets=(4, 12))}
    refused(scratch / "a", file_of(two, bytes(12)), "'b' starts at byte 4, expected 8")
    two["b"] = tensor(offsets=(12, 20))
    refused(scratch / "a", file_of(two, bytes(20)), "'b' starts at byte 12, expected 8")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"1234567", "7 bytes are too few"),
        ((2**63).to_bytes(8, "little") + b"{}", "its header takes"),
        ((3).to_bytes(8, "little") + b"{}", "its header takes 3 bytes"),
        (file_of(b"[" * 100_000), "not JSON"),
        (file_of(b'{"a":' * 50_000), "not JSON"),
        (file_of(b"1" * 10_000), "not JSON"),
        (file_of(b'{"\xff": 1}'), "not JSON"),
        (file_of(b'{"a": 1, "a": 2}'), "twice"),
        (file_of(b'{"a": [' + b"[]," * 3_000_000 + b"[]]}"), "more than 5,000,000 values"),
        (file_of({"x" * 10**6: tensor(dtype="F33")}), r"tensor 'x{27}\.\.\.x+'"),
        (file_of([1]), "no JSON object"),
        (file_of({"__metadata__": 1}), "not texts by name"),
        (file_of({"__metadata__": {"a": 1}}), "not texts by name"),
        (file_of({"w": tensor("BOOL", (2,), (0, 2))}, b"\1\2"), "neither 0 nor 1"),
    ],
    ids=range(14),
)
def test_other_damage_is_refused(scratch, content, match):
    refused(scratch / "a", content, match)


def test_lists_that_would_not_be_read_are_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_file, "MOST_VALUES", 1000)
    checkpoint.save(tmp_path / "a", {}, {"values": list(range(900))})
    assert checkpoint.load(tmp_path / "a")[1] == {"values": list(range(900))}
    with pytest.raises(CheckpointError, match="more than 1,000 values: store long lists as"):
        checkpoint.save(tmp_path / "b", {}, {"values": list(range(1000))})


@pytest.mark.parametrize("key", ["format", "version", "sha256"])
def test_long_values_of_a_header_are_shortened(tmp_path, key):
    metadata = {"format": "tinygrad_char", "version": "1", "json": "{}", "sha256": "0" * 64}
    metadata[key] = "9" * 10**6
    (tmp_path / "a").write_bytes(file_of({"__metadata__": metadata}))
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(tmp_path / "a")
    assert len(str(error.value)) < 700 + len(str(tmp_path))


def test_a_file_that_is_cut_while_it_is_read_is_refused(tmp_path, monkeypatch):
    """Mapped into memory, it would end the process."""
    path = tmp_path / "a"
    checkpoint.save(path, {"w": np.ones(100_000)}, {})

    def cut(described, metadata):
        os.truncate(path, 1000)

    with pytest.raises(CheckpointError, match="cut short"):
        checkpoint.load(path, cut)


def test_an_error_of_the_disk_is_one_of_the_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    checkpoint.save(path, {"w": np.ones(3)}, {})

    def fail(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(safetensors_file, "read_into", fail)
    with pytest.raises(CheckpointError, match=r"cannot load .*Input/output error"):
        checkpoint.load(path)


def test_a_refused_size_takes_no_memory(tmp_path):
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.write(file_of({"w": tensor(shape=(2**40,), offsets=(0, 2**42))}))
        file.truncate(1 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FormatError, match="but it has"):
        read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


arrays = st.lists(
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 3), max_size=3)), max_size=4
)


@settings(deadline=None, max_examples=60)
@given(arrays)
def test_the_library_of_others_reads_what_is_saved_and_this_what_it_saves(scratch, described):
    path = scratch / "b"
    arrays = {
        str(number): np.ones(shape, DTYPES[dtype])
        for number, (dtype, shape) in enumerate(described)
    }
    checkpoint.save(path, arrays, {"a": 1})
    theirs = dict(safetensors.deserialize(path.read_bytes()))
    assert theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        assert theirs[name]["data"] == array.tobytes()
        assert tuple(theirs[name]["shape"]) == array.shape
    safetensors.numpy.save_file(arrays, path, {"x": "y"})
    metadata, mine = read(path)
    assert metadata == {"x": "y"}
    assert {n: a.tobytes() for n, a in mine.items()} == {n: a.tobytes() for n, a in arrays.items()}


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_what_is_accepted_the_library_of_others_accepts(scratch, data):
    shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
    size = 4 * math.prod(shape) + data.draw(st.sampled_from([0, 0, 0, 1, -4]))
    start = data.draw(st.sampled_from([0, 0, 0, 4, -1]))
    content = file_of(
        {"w": tensor(shape=shape, offsets=(start, start + size))}, bytes(max(size, 0))
    )
    (scratch / "c").write_bytes(content)
    try:
        read(scratch / "c")
    except FormatError:
        with pytest.raises(safetensors.SafetensorError):
            safetensors.deserialize(content)
    else:
        safetensors.deserialize(content)
