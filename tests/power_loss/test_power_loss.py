"""A seeded part of what `python tests/crash_enumeration.py` goes through, and its own tests."""

import random
import sys
from pathlib import Path

import disk_log
import pytest
from disk_log import Event
from disk_model import Disk, after_power_loss

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crash_enumeration import fault, moments, record

pytestmark = pytest.mark.skipif(
    disk_log.unavailable() is not None, reason=str(disk_log.unavailable())
)
MOMENTS = 24


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("histories")
    return folder, *record(folder)


def test_a_run_goes_on_from_whatever_a_disk_holds_after_a_power_loss(histories):
    folder, expected, logs = histories
    every = list(moments(folder, logs, seed=1))
    assert len(every) > 200
    for moment in random.Random(1).sample(every, MOMENTS):
        assert fault(moment, expected) is None, moment.where


def without(events, kind, name):
    return [each for each in events if (each.kind, Path(each.path).name) != (kind, name)]


@pytest.mark.parametrize(
    ("kind", "name"), [("S", "metrics.jsonl"), ("D", "short"), ("D", "runs"), ("M", "short")]
)
def test_a_sync_that_is_left_out_is_found(kind, name, histories):
    folder, expected, [(history, events, _), _] = histories
    if kind == "M":  # a checkpoint's own sync
        temporary = {e.path for e in events if e.kind == "R" and e.second.endswith("safetensors")}
        fewer = [e for e in events if e.kind != "S" or e.path not in temporary]
    else:
        fewer = without(events, kind, name)
    assert len(fewer) < len(events)
    every = moments(folder, [(history, fewer, 0)], seed=1)
    assert any(fault_or_refusal(each, expected) for each in every if each.said)


def fault_or_refusal(moment, expected):
    try:
        return fault(moment, expected)
    except Exception as error:  # a checkpoint that cannot be read
        return str(error)


def write_event(number, data):
    return Event("W", (0, 1), number, "/r/a", "", data)


def test_what_a_disk_may_hold():
    disk = Disk(Path("/r"), {})
    for event in (
        Event("C", (0, 1), 0, "/r/a", "", b""),
        write_event(0, b"one"),
        Event("S", (0, 1), 0, "/r/a", "", b""),
    ):
        disk.apply(event)
    assert {repr(each) for each in after_power_loss(disk, 0)} == {"{}", "{'a': b'one'}"}
    disk.apply(Event("D", (0, 9), 0, "/r", "", b""))
    assert {repr(each) for each in after_power_loss(disk, 0)} == {"{'a': b'one'}"}
    disk.apply(write_event(3, b"two"))
    seen = {each["a"] for seed in range(40) for each in after_power_loss(disk, seed)}
    assert seen == {b"one", b"onet", b"onetw", b"onetwo", b"one\0\0\0", b"onet\0\0", b"onetw\0"}
    disk.apply(Event("T", (0, 1), 2, "/r/a", "", b""))
    disk.apply(Event("R", (0, 0), 0, "/r/a", "/r/b", b""))
    names = {tuple(each) for seed in range(20) for each in after_power_loss(disk, seed)}
    assert names == {("a",), ("b",)}
    assert {"a": b"on"} in [each for seed in range(40) for each in after_power_loss(disk, seed)]


def test_what_a_process_does_to_files_is_seen(tmp_path, monkeypatch):
    library = disk_log.build(tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    program = tmp_path / "program" / "tinygrad_char"
    program.mkdir(parents=True)
    (program / "__init__.py").touch()
    (program / "models.py").write_text(
        "import os\n"
        "from pathlib import Path\n"
        "with open('a', 'wb') as file:\n"
        "    file.write(b'abc')\n"
        "    file.flush()\n"
        "    os.fsync(file.fileno())\n"
        "os.mkdir('f')\n"
        "os.truncate('a', 1)\n"
        "os.rename('a', 'f/b')\n"
        "with open('f/b', 'ab') as file: file.write(b'd')\n"
        "open('f/b', 'wb').close()\n"
        "here = os.open('f', os.O_RDONLY)\n"
        "os.fsync(here)\n"
        "os.unlink('b', dir_fd=here)\n"
        "os.rmdir('f')\n"
        "open('/dev/null', 'wb').write(b'x')\n"
        "os.write(1, b'said')\n"
    )
    monkeypatch.setattr(disk_log, "ROOT", program.parent)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    log = tmp_path / "log"
    assert disk_log.run(library, log, root, []) == 0

    def name(path):
        return Path(path).name

    seen = [
        (each.kind, each.number, *filter(None, (name(each.path), name(each.second), each.data)))
        for each in disk_log.read(log)
    ]
    assert seen == [
        ("C", 0, "a"),
        ("W", 0, "a", b"abc"),
        ("S", 0, "a"),
        ("M", 0, "f"),
        ("T", 1, "a"),
        ("R", 0, "a", "b"),
        ("W", 1, "b", b"d"),
        ("T", 0, "b"),
        ("D", 0, "f"),
        ("U", 0, "b"),
        ("U", 0, "f"),
        ("P", 0, b"said"),
    ]
    assert disk_log.run(library, tmp_path / "short", root, [], kill_after=2) == -9
    assert [each.kind for each in disk_log.read(tmp_path / "short")] == ["C", "W"]
