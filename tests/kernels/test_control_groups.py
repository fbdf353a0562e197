import math
import os
import sys

import pytest

from tinygrad_char.kernels.cpu import control_groups, cores

BEYOND = (1 << 63) - 4096  # how version 1 writes that there is no limit


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return a function that shows this process the given groups, and limits by their files."""

    def show(groups, files):
        (tmp_path / "groups").write_text(groups, encoding="utf-8")
        for name, content in files.items():
            path = tmp_path / "sys" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n", encoding="utf-8")

    monkeypatch.setattr(control_groups, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(control_groups, "ROOT", tmp_path / "sys")
    return show


MEMORY = {
    "no tree": ("0::/a\n", {}, math.inf),
    "no limit": ("0::/a\n", {"a/memory.max": "max"}, math.inf),
    "own group": ("0::/a/b\n", {"a/b/memory.max": "4096", "a/memory.max": "max"}, 4096),
    "group above": ("0::/a/b/c\n", {"a/b/c/memory.max": "8192", "a/memory.max": "4096"}, 4096),
    "no controller below": ("0::/a/b\n", {"a/memory.max": "4096", "a/b/cgroup.procs": ""}, 4096),
    "another group": ("0::/a\n", {"a/memory.max": "9", "b/memory.max": "1"}, 9),
    "root of a container": ("0::/\n", {"memory.max": "4096"}, 4096),
    "name on the host": ("0::/docker/0123\n", {"memory.max": "4096"}, 4096),
    "outside of what is shown": ("0::/../x\n", {"memory.max": "5", "../x/memory.max": "1"}, 5),
    "colon in the name": ("0::/a:b\n", {"a:b/memory.max": "7"}, 7),
    "not a number": ("0::/a\n", {"a/memory.max": "much"}, math.inf),
    "empty": ("0::/a\n", {"a/memory.max": ""}, math.inf),
    "not a list": ("what\n1:\n\n", {"memory.max": "4096"}, math.inf),
    "version 1": (
        "5:memory:/a/b\n1:cpu:/c\n",
        {
            "memory/a/b/memory.limit_in_bytes": BEYOND,
            "memory/a/memory.limit_in_bytes": "4096",
            "cpu/c/memory.limit_in_bytes": "1",
        },
        4096,
    ),
    "version 1 without a limit": ("5:memory:/\n", {"memory/memory.limit_in_bytes": BEYOND}, BEYOND),
    "both versions": (
        "4:cpuset,memory:/a\n0::/b\n",
        {
            "cpuset,memory/a/memory.limit_in_bytes": "4096",
            "unified/b/memory.max": "2048",
        },
        2048,
    ),
}


@pytest.mark.parametrize("kind", MEMORY)
def test_the_least_memory_on_the_way_up_counts(kind, system):
    groups, files, expected = MEMORY[kind]
    system(groups, files)
    assert control_groups.memory_limit() == expected


PROCESSORS = {
    "no tree": ("0::/a\n", {}, math.inf),
    "no limit": ("0::/a\n", {"a/cpu.max": "max 100000"}, math.inf),
    "half": ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 0.5),
    "the least": ("0::/a/b\n", {"a/b/cpu.max": "700 200", "a/cpu.max": "500 100"}, 3.5),
    "damaged": ("0::/a\n", {"a/cpu.max": "1 2 3", "cpu.max": "1 0"}, math.inf),
    "quota alone": ("0::/a\n", {"a/cpu.max": "5"}, math.inf),
    "version 1": (
        "1:cpuacct,cpu:/a/b\n",
        {
            "cpu/a/b/cpu.cfs_quota_us": "-1",
            "cpu/a/b/cpu.cfs_period_us": "100000",
            "cpu/a/cpu.cfs_quota_us": "250000",
            "cpu/a/cpu.cfs_period_us": "100000",
        },
        2.5,
    ),
    "no period": ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "1000"}, math.inf),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_the_least_quota_on_the_way_up_counts(kind, system):
    groups, files, expected = PROCESSORS[kind]
    system(groups, files)
    assert control_groups.processor_limit() == expected


def test_without_groups_nothing_is_limited(system):
    assert control_groups.memory_limit() == math.inf
    assert control_groups.processor_limit() == math.inf


def test_files_that_are_no_texts_limit_nothing(system, tmp_path):
    system("0::/\n", {"cpu.max": ""})
    (tmp_path / "sys/cpu.max").write_bytes(b"\xff\xfe 100")
    (tmp_path / "sys/memory.max").mkdir()
    assert control_groups.memory_limit() == math.inf
    assert control_groups.processor_limit() == math.inf


def test_limits_of_this_process_can_be_read():
    assert control_groups.memory_limit() >= 1 << 20
    assert control_groups.processor_limit() > 0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processors are not chosen here")
@pytest.mark.parametrize(
    ("quota", "allowed", "expected"),
    [
        ("max 100000", 6, 6),
        ("400000 100000", 6, 4),
        ("150000 100000", 6, 2),
        ("10000 100000", 6, 1),
        ("400000 100000", 3, 3),
    ],
)
def test_as_many_cores_as_the_quota_fills(quota, allowed, expected, system, monkeypatch):
    system("0::/a\n", {"a/cpu.max": quota})
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(allowed)))
    monkeypatch.setattr(cores, "_quota", cores._quota.__wrapped__)
    assert cores.available_cores() == expected
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: allowed)
    assert cores.available_cores() == expected
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.available_cores() == 1


def test_the_quota_is_read_once(system, monkeypatch):
    cores._quota.cache_clear()
    system("0::/\n", {"cpu.max": "100000 100000"})
    assert cores._quota() == 1
    system("0::/\n", {"cpu.max": "max 100000"})
    assert cores._quota() == 1
    cores._quota.cache_clear()
    assert cores._quota() == sys.maxsize
    cores._quota.cache_clear()
