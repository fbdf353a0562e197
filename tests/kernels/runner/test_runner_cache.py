"""Old compiled kernels are removed where there are too many, and none that is in use."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinygrad_char.kernels.cuda_on_cpu.runner import cache

ROOT = Path(__file__).resolve().parents[3]
HOUR = 3600


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "MOST_BYTES", 1000)
    return cache.cache_folder()


def make(number, size=300):
    return cache.kept(
        "kernel", [number], lambda path: (path / "library.so").write_bytes(b"x" * size)
    )


def age(entry, hours):
    then = time.time() - hours * HOUR
    os.utime(entry, (then, then))


def names(folder):
    return sorted(each.name for each in folder.iterdir() if each.name != "lock")


def test_what_was_not_used_for_longest_goes_first(folder):
    entries = [make(number) for number in range(3)]
    for entry, hours in zip(entries, (30, 20, 10), strict=True):
        age(entry, hours)
    assert make(0) == entries[0]  # used: it is no longer the oldest
    last = make(3)
    assert names(folder) == sorted([entries[0].name, last.name])


def test_nothing_goes_while_there_is_room(folder):
    entries = [make(number) for number in range(3)]
    for entry in entries:
        age(entry, 100)
    cache.remove_old(folder)
    assert names(folder) == sorted(each.name for each in entries)


def test_what_was_just_used_stays_however_large_the_folder(folder):
    entries = [make(number, size=900) for number in range(4)]
    assert names(folder) == sorted(each.name for each in entries)


def test_what_a_killed_process_left_goes_too(folder):
    make(0)
    left = folder / "kernel-abc-unfinished"
    left.mkdir()
    (left / "kernel.o").write_bytes(b"x" * 900)
    age(left, 2)
    entry = make(1)
    assert names(folder) == sorted([make(0).name, entry.name])


def test_what_was_removed_is_made_again(folder):
    entry = make(0)
    age(entry, 2)
    make(1, size=900)
    assert not entry.exists()
    assert make(0) == entry
    assert (entry / "library.so").stat().st_size == 300


PROGRAM = """
import random, sys, time, os
from tinygrad_char.kernels.cuda_on_cpu.runner import cache
cache.MOST_BYTES, cache.IN_USE_SECONDS = 2000, 0.2
rng = random.Random(int(sys.argv[1]))
for _ in range(150):
    number = rng.randrange(12)
    content = bytes([number]) * 300
    entry = cache.kept("kernel", [number], lambda path: (path / "x").write_bytes(content))
    assert (entry / "x").read_bytes() == content
    time.sleep(0.002)
"""


def test_processes_may_use_and_remove_at_once(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(seed)], env=environment, stderr=subprocess.PIPE
        )
        for seed in range(3)
    ]
    assert [process.communicate()[1].decode() for process in processes] == [""] * 3
    assert 0 < len(names(folder)) <= 12
