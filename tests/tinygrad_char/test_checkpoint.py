import errno
import json
import os
import pickle
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from tinygrad_char import checkpoint
from tinygrad_char.checkpoint import CheckpointError, load, remove_leftovers, save, write_atomically

DTYPES = [
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "complex64"),
]
LAYOUTS = {
    "as it is": lambda array: array,
    "transposed": np.transpose,
    "Fortran order": np.asfortranarray,
    "every second backwards": lambda array: array[(..., *[slice(None, None, -2)] * array.ndim)],
    "broadcast": lambda array: np.broadcast_to(array, (2, *array.shape)),
    "read only": lambda array: np.lib.stride_tricks.as_strided(array, writeable=False),
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoint")


@pytest.fixture(scope="module")
def small(scratch):
    path = scratch / "small.safetensors"
    weights = np.arange(3, dtype=np.float32)
    tensors = {"w": weights, "mask": np.array([True, False]), "scalar": np.array(7)}
    save(path, tensors, {"step": 3, "name": "é"})
    return path


@pytest.fixture
def tiny_disk(mounted):
    """Return a folder on a filesystem of 256 KiB of its own."""
    return mounted("size=256k")


def described(tensors):
    return {name: (a.dtype, a.shape, a.tobytes()) for name, a in tensors.items()}


def temporary_files(folder):
    return [entry.name for entry in folder.iterdir() if entry.name.endswith(".tmp")]


def refused(path, data):
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as error:
        load(path)
    assert str(path) in str(error.value)
    return str(error.value)


@st.composite
def arrays(draw):
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    array = draw(hnp.arrays(draw(st.sampled_from(DTYPES)), shape))
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](array)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text()
    | st.sampled_from(["\udcff", "a\ud800", "\x00", "\u2028"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=80)
@given(tensors=st.dictionaries(st.text(max_size=5), arrays(), max_size=4))
def test_arrays_come_back_exactly_and_writable(scratch, tensors):
    path = scratch / "arrays.safetensors"
    save(path, tensors, {})
    loaded, metadata = load(path)
    assert described(loaded) == described(tensors)
    assert metadata == {}
    assert all(array.flags.writeable and array.flags.c_contiguous for array in loaded.values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_exactly(tmp_path, dtype):
    bits = np.arange(64, dtype=np.uint8)
    tensors = {"bits": bits > 9 if dtype == "bool" else bits.view(dtype)}
    save(tmp_path / "a", tensors, {})
    assert described(load(tmp_path / "a")[0]) == described(tensors)


@settings(deadline=None, max_examples=100)
@given(metadata=st.dictionaries(st.text(), json_values, max_size=5))
def test_metadata_comes_back_exactly(scratch, metadata):
    path = scratch / "metadata.safetensors"
    save(path, {}, metadata)

    def canonical(value):
        if isinstance(value, dict):
            return {key: canonical(item) for key, item in value.items()}
        if isinstance(value, list):
            return [canonical(item) for item in value]
        return (type(value), repr(value))

    assert canonical(load(path)[1]) == canonical(metadata)


def test_random_state_of_128_bits_survives(tmp_path):
    state = np.random.default_rng(1).bit_generator.state
    assert state["state"]["state"] > 2**100
    save(tmp_path / "a", {}, {"random": state})
    assert load(tmp_path / "a")[1]["random"] == state


def test_same_content_gives_the_same_bytes_whatever_the_order(tmp_path):
    one, two = np.arange(3), np.arange(4.0)
    save(tmp_path / "a", {"one": one, "two": two}, {"x": 1, "y": 2})
    save(tmp_path / "b", {"two": two, "one": one}, {"y": 2, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_saving_copies_no_contiguous_array(tmp_path):
    import tracemalloc

    tensors = {"w": np.zeros(1_000_000, np.float32)}
    tracemalloc.start()
    save(tmp_path / "a", tensors, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < tensors["w"].nbytes / 4


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(2, ">f4"),
        np.zeros(2, np.complex128),
        np.array(["a"]),
        np.array([None]),
        np.zeros(2, "datetime64[s]"),
        np.zeros(2, [("x", "f4")]),
        [1.0, 2.0],
        np.float32(1),
    ],
    ids=lambda array: str(getattr(array, "dtype", "list")),
)
def test_what_safetensors_cannot_hold_is_refused_by_name(tmp_path, array):
    with pytest.raises(CheckpointError, match=r"'layer\.weight'"):
        save(tmp_path / "a", {"layer.weight": array}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_impossible_tensor_name_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="tensor name"):
        save(tmp_path / "a", {name: np.zeros(1)}, {})


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"betas": (0.9, 0.95)}, r"metadata\['betas'\] is a tuple"),
        ({"a": [{"b": {1, 2}}]}, r"metadata\['a'\]\[0\]\['b'\] is a set"),
        ({"a": {1: 2}}, r"metadata\['a'\] has the key 1"),
        ({"loss": np.float32(1)}, r"metadata\['loss'\] is a float32"),
        ({"path": Path("x")}, "Path"),
        ({"a": "\ud83d\ude00"}, "surrogates"),
        ({"a": 10**5000}, "JSON"),
    ],
)
def test_metadata_that_json_would_change_is_refused(tmp_path, metadata, named):
    with pytest.raises(CheckpointError, match=named):
        save(tmp_path / "a", {}, metadata)
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_contains_itself_is_refused(tmp_path):
    metadata = {}
    metadata["self"] = metadata
    with pytest.raises(CheckpointError, match="JSON"):
        save(tmp_path / "a", {}, metadata)


def test_metadata_longer_than_a_header_may_be_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_LONGEST_HEADER", 500)
    save(tmp_path / "a", {}, {"a": "x" * 200})
    with pytest.raises(CheckpointError, match="at most 500"):
        save(tmp_path / "a", {}, {"a": "x" * 500})


@pytest.mark.parametrize("stage", ["open", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_failed_save_says_why_and_leaves_the_former_file(tmp_path, monkeypatch, stage, code):
    path = tmp_path / "a"
    save(path, {}, {"step": 1})

    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*{"fsync": (os, "fsync")}.get(stage, (Path, stage)), fail)
    with pytest.raises(CheckpointError) as error:
        save(path, {"w": np.zeros(1000)}, {"step": 2})
    monkeypatch.undo()
    message = str(error.value)
    assert str(path) in message
    assert os.strerror(code) in message
    assert "bytes needed" in message
    assert "bytes free" in message
    assert "former file of that name is intact" in message
    assert load(path) == ({}, {"step": 1})
    assert temporary_files(tmp_path) == []


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_interrupt_while_saving_leaves_the_former_file(tmp_path, monkeypatch, stage):
    path = tmp_path / "a"
    save(path, {}, {"step": 1})

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(*{"fsync": (os, "fsync")}.get(stage, (Path, stage)), interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(path, {}, {"step": 2})
    monkeypatch.undo()
    assert load(path) == ({}, {"step": 1})
    assert temporary_files(tmp_path) == []


def test_first_save_that_fails_claims_no_former_file(tmp_path):
    with pytest.raises(CheckpointError, match="Create that folder") as error:
        save(tmp_path / "missing" / "a", {}, {})
    assert "former" not in str(error.value)


@pytest.fixture
def second_sync_fails(monkeypatch):
    """Return what lets the second fsync, which is the folder's, fail with a code."""

    def fail(code):
        synced = []

        def sync(descriptor):
            synced.append(descriptor)
            if len(synced) == 2:
                raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", sync)
        return synced

    return fail


def test_folder_that_cannot_be_synced_is_reported_as_saved_but_unconfirmed(
    tmp_path, second_sync_fails
):
    path = tmp_path / "a"
    second_sync_fails(errno.EIO)
    with pytest.raises(CheckpointError, match="did not confirm"):
        save(path, {}, {"step": 2})
    assert load(path) == ({}, {"step": 2})


def test_folder_that_does_not_offer_sync_is_no_error(tmp_path, second_sync_fails):
    synced = second_sync_fails(errno.EINVAL)
    save(tmp_path / "a", {}, {"step": 2})
    assert len(synced) == 2


def test_full_disk_keeps_the_former_checkpoint(tiny_disk):
    path = tiny_disk / "a"
    save(path, {}, {"step": 1})
    with pytest.raises(CheckpointError, match="No space left on device") as error:
        save(path, {"w": np.ones(100_000)}, {"step": 2})
    assert "Free space" in str(error.value)
    assert load(path) == ({}, {"step": 1})
    assert temporary_files(tiny_disk) == []


def test_read_only_filesystem_keeps_the_former_checkpoint(tiny_disk):
    path = tiny_disk / "a"
    save(path, {}, {"step": 1})
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(CheckpointError, match="Read-only file system"):
        save(path, {}, {"step": 2})
    assert load(path) == ({}, {"step": 1})


def test_limit_on_file_size_keeps_the_former_checkpoint(tmp_path):
    path = tmp_path / "a"
    save(path, {}, {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="ulimit"):
            save(path, {"w": np.ones(100_000)}, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load(path) == ({}, {"step": 1})
    assert temporary_files(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_process_killed_while_saving_leaves_a_whole_checkpoint(tmp_path):
    kills = 25
    # A process of its own forks the savers, so that each starts in a millisecond.
    script = """
import itertools, os, random, signal, sys, time
import numpy as np
from tinygrad_char.checkpoint import load, remove_leftovers, save

path, kills = sys.argv[1], int(sys.argv[2])
random.seed(0)
started = 0
save(path, {}, {"step": 0})
for _ in range(kills):
    child = os.fork()
    if child == 0:
        for step in itertools.count(started + 1):
            save(path, {name: np.full(50_000, step) for name in "ab"}, {"step": step})
    time.sleep(random.uniform(0, 0.04))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    tensors, metadata = load(path)
    assert metadata["step"] >= started, (metadata, started)
    assert all((array == metadata["step"]).all() for array in tensors.values()), metadata
    started = metadata["step"]
    print(started)
remove_leftovers(os.path.dirname(path))
"""
    path = tmp_path / "a"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(kills)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps = [int(line) for line in done.stdout.split()]
    assert len(steps) == kills
    assert steps[-1] > 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_only_files_of_dead_processes_are_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = tmp_path / f".tinygrad_char-{ended.pid}-0123abcd.tmp"
    own = tmp_path / f".tinygrad_char-{os.getpid()}-0123abcd.tmp"
    living = tmp_path / f".tinygrad_char-{os.getppid()}-0123abcd.tmp"
    huge = tmp_path / f".tinygrad_char-{10**30}-0123abcd.tmp"
    others = [tmp_path / ".tinygrad_char-1.tmp", tmp_path / "a.tmp"]
    for path in (dead, own, living, huge, *others):
        path.write_bytes(b"half")
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([living, *others])


def test_leftovers_in_a_missing_folder_are_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="missing"):
        remove_leftovers(tmp_path / "missing")


def test_written_file_replaces_the_former_and_leaves_nothing_else(tmp_path):
    write_atomically(tmp_path / "a", b"one")
    write_atomically(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"one")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(tmp_path / "link", b"two")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"two"


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(CheckpointError, match="cannot save"):
        save(name, {}, {})


def test_a_relative_name_without_a_working_directory_is_refused(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(CheckpointError, match="cannot save 'file'"):
        save("file", {}, {})


def test_folder_or_device_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, Path("/"), tmp_path / "pipe"):
        with pytest.raises(CheckpointError, match="not a regular file"):
            save(path, {}, {})
    assert (tmp_path / "pipe").is_fifo()


@settings(deadline=None, max_examples=400)
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 255))
def test_changed_byte_is_refused_or_changes_nothing(scratch, small, seed, flips):
    data = bytearray(small.read_bytes())
    expected = load(small)
    data[random.Random(seed).randrange(len(data))] ^= flips
    path = scratch / "changed.safetensors"
    path.write_bytes(data)
    try:
        tensors, metadata = load(path)
    except CheckpointError:
        return
    assert described(tensors) == described(expected[0])
    assert metadata == expected[1]


@pytest.mark.parametrize("bit", [0, 5, 7])
def test_change_of_any_byte_that_carries_content_is_refused(scratch, small, bit):
    data = small.read_bytes()
    header_end = 8 + int.from_bytes(data[:8], "little")
    padding = range(8 + len(data[8:header_end].rstrip()), header_end)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << bit
        if position not in padding:
            refused(scratch / "changed.safetensors", changed)


def test_file_cut_at_any_length_is_refused(scratch, small):
    data = small.read_bytes()
    for length in range(1, len(data)):
        reason = refused(scratch / "cut.safetensors", data[:length])
        assert "cut short" in reason


def test_appended_bytes_are_refused(scratch, small):
    assert "altered" in refused(scratch / "longer.safetensors", small.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("part", "other"),
    [
        (b'"k":', b'"q":'),
        (b'"F32"', b'"I32"'),
        (b"[2,3]", b"[3,2]"),
        (b"[2,3]", b"[6]  "),
        (b"0.125", b"0.250"),
    ],
)
def test_header_that_says_something_else_is_refused(tmp_path, part, other):
    save(tmp_path / "a", {"k": np.ones((2, 3), np.float32)}, {"dropout": 0.125})
    data = (tmp_path / "a").read_bytes()
    assert data.count(part) == 1
    assert "SHA-256" in refused(tmp_path / "a", data.replace(part, other))


def test_every_array_starts_at_a_multiple_of_its_item_size(tmp_path):
    tensors = {dtype: np.ones(1, dtype) for dtype in DTYPES}
    for name in ("a", "ab", "abc"):
        save(tmp_path / "a", tensors, {"name": name})
        data = (tmp_path / "a").read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        for dtype, array in tensors.items():
            assert (8 + length + header[dtype]["data_offsets"][0]) % array.itemsize == 0


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="it is a folder"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="too long"):
        load(tmp_path / ("a" * 300))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        load(tmp_path / "pipe")


def test_empty_file_is_refused(tmp_path):
    assert "it is empty" in refused(tmp_path / "a", b"")


def test_safetensors_file_of_another_program_is_refused(tmp_path):
    save_file({"w": np.zeros(3)}, tmp_path / "plain")
    assert "another program" in refused(tmp_path / "a", (tmp_path / "plain").read_bytes())
    save_file({"w": np.zeros(3)}, tmp_path / "torch", metadata={"format": "pt"})
    assert "format='pt'" in refused(tmp_path / "a", (tmp_path / "torch").read_bytes())


def test_newer_version_is_refused(tmp_path, small):
    newer = small.read_bytes().replace(b'"version":"1"', b'"version":"2"')
    assert "Upgrade tinygrad-char" in refused(tmp_path / "a", newer)


@pytest.mark.parametrize("missing", ["json", "sha256"])
def test_header_without_a_part_is_refused(tmp_path, missing):
    header = {"format": "tinygrad_char", "version": "1", "json": "{}", "sha256": ""}
    del header[missing]
    save_file({"w": np.zeros(3)}, tmp_path / "plain", metadata=header)
    assert repr(missing) in refused(tmp_path / "a", (tmp_path / "plain").read_bytes())


def test_dtype_that_is_never_saved_is_refused(tmp_path):
    header = {
        "__metadata__": {"format": "tinygrad_char", "version": "1", "json": "{}", "sha256": ""},
        "w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]},
    }
    encoded = json.dumps(header).encode()
    data = len(encoded).to_bytes(8, "little") + encoded + b"\0\0"
    assert "BF16" in refused(tmp_path / "a", data)


def test_metadata_that_is_not_json_is_refused_even_with_its_own_hash(tmp_path):
    header = {"format": "tinygrad_char", "version": "1", "json": "{"}
    header["sha256"] = checkpoint._digest("{", {})
    save_file({}, tmp_path / "plain", metadata=header)
    assert "not JSON" in refused(tmp_path / "a", (tmp_path / "plain").read_bytes())


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_is_refused_and_not_executed(tmp_path, protocol):
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"), protocol=protocol)
    reason = refused(tmp_path / "a", bomb)
    assert "Nothing in it was executed" in reason
    assert ("a Python pickle" in reason) == (protocol >= 2)
    assert not (tmp_path / "exploded").exists()


def test_files_of_other_programs_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.zeros(3))
    assert "zip archive" in refused(tmp_path / "a", (tmp_path / "a.npz").read_bytes())
    np.save(tmp_path / "a.npy", np.zeros(3))
    assert ".npy" in refused(tmp_path / "a", (tmp_path / "a.npy").read_bytes())
    assert "unknown kind" in refused(tmp_path / "a", b"First Citizen: before we proceed")


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_pytorch_are_named(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.save({"w": torch.zeros(3)}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    reason = refused(tmp_path / "a", (tmp_path / "a.pt").read_bytes())
    assert "PyTorch" in reason
    assert "Nothing in it was executed" in reason
