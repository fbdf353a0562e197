import os
import socket
import time

import pytest

from tinygrad_char.regular_file import open_regular, read_into, read_regular


@pytest.fixture
def fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_a_file_and_a_link_to_it_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "file", 3) == read_regular(tmp_path / "link", 9) == b"abc"


def test_what_never_ends_is_refused_without_waiting(tmp_path, fifo):
    (tmp_path / "link").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        started = time.monotonic()
        for path in (fifo, tmp_path / "link", tmp_path / "socket", "/dev/stdin", "/dev/null"):
            if not os.path.isfile(path):  # noqa: PTH113
                with pytest.raises(OSError, match="not a regular file"):
                    open_regular(path)
        assert time.monotonic() - started < 1


def test_a_file_that_becomes_a_fifo_before_it_is_opened_is_refused(tmp_path, fifo, monkeypatch):
    (tmp_path / "file").touch()
    regular = os.stat(tmp_path / "file")  # noqa: PTH116
    monkeypatch.setattr(os, "stat", lambda path: regular)
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(fifo)


def test_folders_missing_files_and_impossible_names_are_refused(tmp_path):
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing")
    for name in ("a\0b", "\ud800"):
        with pytest.raises(OSError, match="not a possible file name"):
            open_regular(name)


def test_a_longer_file_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"abcd")
    with pytest.raises(OSError, match="longer than 3 bytes"):
        read_regular(tmp_path / "file", 3)
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 40)
    started = time.monotonic()
    with pytest.raises(OSError, match="longer than"):
        read_regular(tmp_path / "holes", 1 << 39)
    assert time.monotonic() - started < 1


def test_a_file_that_ends_early_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    with (
        open_regular(tmp_path / "file") as file,
        pytest.raises(EOFError, match="2 bytes too early"),
    ):
        read_into(file, memoryview(bytearray(5)))
