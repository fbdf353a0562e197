"""What a command does to the files of a folder, in order, seen by a library preloaded into it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("disk_log.c")
ROOT = Path(__file__).resolve().parents[2]


class Event(NamedTuple):
    """One thing that happened; which fields mean something depends on the kind.

    C a file was made, T cut or grown to `number` bytes, W written at `number`, S synced; D a
    folder was synced, M made; R a name was changed, U deleted; P something was printed.
    """

    kind: str
    file: tuple[int, int]
    number: int
    path: str
    second: str
    data: bytes


def unavailable() -> str | None:
    """Return why nothing can be seen on this machine, or None."""
    if sys.platform != "linux":
        return "the library that is preloaded is written for Linux"
    return None if shutil.which("cc") else "there is no C compiler"


def build(folder: Path) -> Path:
    """Compile the library into a folder and return its path."""
    library = folder / "disk_log.so"
    command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run([*command, "-lpthread"], check=True)
    return library


def run(library: Path, log: Path, root: Path, arguments: list[str], kill_after: int = 0) -> int:
    """Run the command in `root`; return its exit code. `kill_after` events it is killed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LD_PRELOAD": str(library),
        "DISK_LOG": str(log),
        "DISK_LOG_ROOT": str(root.resolve()),
    }
    if kill_after:
        environment["DISK_LOG_KILL"] = str(kill_after)
    return subprocess.run(
        [sys.executable, "-m", "tinygrad_char.models", *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        check=False,
    ).returncode


def read(log: Path) -> list[Event]:
    """Return the events of a log; their paths are absolute."""
    data = log.read_bytes()
    events = []
    position = 0
    while position < len(data):
        end = data.index(b"\n", position)
        kind, device, inode, number, *sizes = data[position:end].decode().split()
        position = end + 1
        pieces = []
        for size in map(int, sizes):
            pieces.append(data[position : position + size])
            position += size
        file = (int(device), int(inode))
        path, second = (os.fsdecode(each) for each in pieces[:2])
        events.append(Event(kind, file, int(number), path, second, pieces[2]))
    return events
