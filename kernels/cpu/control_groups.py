"""What the control groups of this process allow it; containers and batch systems set them.

Linux names a process's groups in /proc/self/cgroup and shows them as folders in /sys/fs/cgroup: in
version 2 of one tree, in version 1 of a tree for each controller, or both side by side. A group's
limit holds for those below it too, so the least on the way up to the root counts. What is not
there, or cannot be read, limits nothing.
"""

import math
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")


def memory_limit() -> float:
    """Return the bytes that this process and those of its groups may have; infinity for no limit.

    They are in memory.max in version 2, in memory.limit_in_bytes in version 1.
    """
    limits = [_number(folder / "memory.max") for folder in _folders("")]
    limits += [_number(folder / "memory.limit_in_bytes") for folder in _folders("memory")]
    return min(limits, default=math.inf)


def processor_limit() -> float:
    """Return the seconds of processors that each second gives them; infinity for no limit.

    They are a quota of each period: both in cpu.max in version 2, in cpu.cfs_quota_us and
    cpu.cfs_period_us in version 1.
    """
    limits = [_ratio(*_words(folder / "cpu.max")) for folder in _folders("")]
    limits += [
        _ratio(*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us"))
        for folder in _folders("cpu")
    ]
    return min(limits, default=math.inf)


def _folders(controller: str) -> Iterator[Path]:
    """Yield the folders of the group and those above it; version 2's for the controller ""."""
    listed = [line.split(":", 2) for line in _read(GROUPS).splitlines()]
    for _, controllers, group in (each for each in listed if len(each) == 3):
        if controller not in controllers.split(","):
            continue
        for tree in (ROOT / controllers, ROOT / (controller or "unified")):
            # The root of a container's tree is its own group, under any name that the host has
            # for it: a folder that is not there has no files, and the walk ends at the root.
            below = Path(group.lstrip("/"))
            if ".." in below.parts:  # a group outside of what is shown here
                below = Path()
            yield from (tree / below, *(tree / each for each in below.parents))


def _ratio(quota: str = "", period: str = "", *rest: str) -> float:
    if not quota.isdecimal() or not period.isdecimal() or rest:  # "max", or -1 in version 1
        return math.inf
    return float(quota) / float(period) if float(period) else math.inf


def _number(path: Path) -> float:
    words = _words(path)
    return float(words[0]) if len(words) == 1 and words[0].isdecimal() else math.inf


def _words(path: Path) -> list[str]:
    return _read(path).split()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
