"""A finished run, a working folder with the text that it learned from, and the published text."""

import os
from pathlib import Path

import pytest
from tiny_runs import TEXT, train


@pytest.fixture(scope="session")
def tiny_shakespeare():
    """The text of the published runs."""
    folder = os.environ.get("TINYGRAD_CHAR_DATA")
    if not folder:
        pytest.skip("TINYGRAD_CHAR_DATA names no folder with tinyshakespeare.txt")
    return (Path(folder) / "tinyshakespeare.txt").read_bytes().decode("utf-8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a finished run, which no test changes; its text lies beside it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train(folder) == 0
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return the working folder, with a text in it and nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path
