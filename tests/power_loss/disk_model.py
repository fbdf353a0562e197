"""What a disk may hold when the power fails in the middle of some writes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from disk_log import Event

Tree = dict[str, "bytes | Tree"]
"""A folder: its files' bytes and its folders, by name."""


@dataclass
class File:
    """A file: what it holds, what of that is on disk, and each change since then."""

    data: bytes = b""
    synced: bytes = b""
    changes: list[Event] = field(default_factory=list)

    def change(self, event: Event) -> None:
        self.data = changed(self.data, event)
        self.changes.append(event)

    def sync(self) -> None:
        self.synced = self.data
        self.changes.clear()


@dataclass
class Folder:
    """A folder: its names, those that are on disk, and each change of a name since then.

    A change is what names lead to after it: a file, a folder, or nothing.
    """

    names: dict[str, File | Folder] = field(default_factory=dict)
    synced: dict[str, File | Folder] = field(default_factory=dict)
    changes: list[dict[str, File | Folder | None]] = field(default_factory=list)

    def change(self, change: dict[str, File | Folder | None]) -> None:
        update(self.names, change)
        self.changes.append(change)

    def sync(self) -> None:
        self.synced = dict(self.names)
        self.changes.clear()


def changed(data: bytes, event: Event) -> bytes:
    """Return a file's bytes after a write or a cut."""
    if event.kind == "T":
        return data[: event.number].ljust(event.number, b"\0")
    before = data[: event.number].ljust(event.number, b"\0")
    return before + event.data + data[event.number + len(event.data) :]


def update(names: dict[str, File | Folder], change: dict[str, File | Folder | None]) -> None:
    """Carry out a change of names."""
    for name, target in change.items():
        if target is None:
            names.pop(name, None)
        else:
            names[name] = target


class Disk:
    """The folder `root` as the events so far have left it, in memory and on disk."""

    def __init__(self, root: Path, files: Tree) -> None:
        self._base = root.resolve()
        self.root = Folder()
        for name, data in files.items():
            assert isinstance(data, bytes)
            self.root.names[name] = File(data, data)
        self.root.sync()
        self._files: dict[tuple[int, int], File] = {}

    def apply(self, event: Event) -> None:
        """Do what happened."""
        if event.kind == "C":
            folder, name = self._place(event.path)
            self._files[event.file] = File()
            folder.change({name: self._files[event.file]})
        elif event.kind in "WT":
            self._files[event.file].change(event)
        elif event.kind == "S":
            self._files[event.file].sync()
        elif event.kind == "D":
            self._folder(PurePath(event.path)).sync()
        elif event.kind == "M":
            folder, name = self._place(event.path)
            folder.change({name: Folder()})
        elif event.kind == "U":
            folder, name = self._place(event.path)
            folder.change({name: None})
        elif event.kind == "R":
            folder, name = self._place(event.path)
            to, other = self._place(event.second)
            assert to is folder, "files are renamed within a folder only"
            folder.change({other: folder.names[name], name: None})
        else:
            assert event.kind == "P", event

    def survivors(
        self,
        names: Callable[[Folder], dict[str, File | Folder]],
        data: Callable[[File], bytes],
    ) -> Tree:
        """Return what is there after the power is back, by what a disk keeps of each."""

        def tree(folder: Folder) -> Tree:
            return {
                name: tree(each) if isinstance(each, Folder) else data(each)
                for name, each in sorted(names(folder).items())
            }

        return tree(self.root)

    def _folder(self, path: PurePath) -> Folder:
        folder = self.root
        for name in path.relative_to(self._base).parts:
            below = folder.names[name]
            assert isinstance(below, Folder)
            folder = below
        return folder

    def _place(self, path: str) -> tuple[Folder, str]:
        return self._folder(PurePath(path).parent), PurePath(path).name


def synced_names(folder: Folder) -> dict[str, File | Folder]:
    """Nothing but what was synced: names without it are lost."""
    return folder.synced


def all_names(folder: Folder) -> dict[str, File | Folder]:
    """All names, synced or not."""
    return folder.names


def some_names(draw: random.Random) -> Callable[[Folder], dict[str, File | Folder]]:
    """Return a choice of each change of a name since the last sync, whatever became of others."""

    def names(folder: Folder) -> dict[str, File | Folder]:
        kept = dict(folder.synced)
        for change in folder.changes:
            if draw.random() < 0.5:
                update(kept, change)
        return kept

    return names


def dropped(file: File) -> bytes:
    """Nothing but what was synced."""
    return file.synced


def kept(file: File) -> bytes:
    """All that was written."""
    return file.data


def torn(draw: random.Random) -> Callable[[File], bytes]:
    """Return a choice of some first changes since the last sync, and a part of the next one.

    Or the whole length, with zeros in the place of the end: the size was kept, the data not.
    """

    def data(file: File) -> bytes:
        if not file.changes:
            return file.data
        if draw.random() < 0.5:
            cut = draw.randint(min(len(file.synced), len(file.data)), len(file.data))
            return file.data[:cut].ljust(len(file.data), b"\0")
        count = draw.randrange(len(file.changes))
        now = file.synced
        for event in file.changes[:count]:
            now = changed(now, event)
        event = file.changes[count]
        if event.kind == "W":
            part = event._replace(data=event.data[: draw.randrange(len(event.data) + 1)])
            now = changed(now, part)
        return now

    return data


def after_power_loss(disk: Disk, seed: int) -> Iterable[Tree]:
    """Yield what a disk may hold: data dropped, torn or kept, and names synced, some or all."""
    draw = random.Random(seed)
    for data in (dropped, kept, torn(draw), torn(draw)):
        for names in (synced_names, all_names, some_names(draw)):
            yield disk.survivors(names, data)


def write(tree: Tree, folder: Path) -> None:
    """Make a folder hold this."""
    for name, each in tree.items():
        if isinstance(each, bytes):
            (folder / name).write_bytes(each)
        else:
            (folder / name).mkdir()
            write(each, folder / name)
