import os

import pytest

from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.recorded_text import inode, trusted_argument
from tinygrad_char.models.run_state import TextRecord


def record(path, number):
    return TextRecord(str(path), 3, "0" * 64, number)


def test_the_file_that_a_run_was_given_is_trusted(tmp_path):
    path = tmp_path / "text"
    path.write_text("abc")
    assert trusted_argument(tmp_path, record(path, inode(str(path)))) == str(path)
    path.write_text("rewritten in its place")
    assert trusted_argument(tmp_path, record(path, inode(str(path)))) == str(path)


@pytest.mark.parametrize("name", ["shakespeare", "pydoc"])
def test_built_in_texts_are_trusted(tmp_path, name):
    assert inode(name) is None
    assert trusted_argument(tmp_path, record(name, None)) == name


def test_any_other_file_has_to_be_named(tmp_path):
    path, other = tmp_path / "text", tmp_path / "other"
    path.write_text("abc")
    other.write_text("abc")
    for number in (None, 0, inode(str(other))):
        with pytest.raises(UsageError, match=r"was not opened.*--data FILE"):
            trusted_argument(tmp_path, record(path, number))
    known = inode(str(path))
    other.replace(path)
    with pytest.raises(UsageError, match="was not opened"):
        trusted_argument(tmp_path, record(path, known))
    path.unlink()
    with pytest.raises(UsageError, match=r"there is no file .*--data FILE"):
        trusted_argument(tmp_path, record(path, known))


def test_a_fifo_or_device_is_never_trusted(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/zero", tmp_path):
        assert inode(str(path)) is None
        with pytest.raises(UsageError, match="was not opened"):
            trusted_argument(tmp_path, record(path, os.stat(path).st_ino))  # noqa: PTH116
