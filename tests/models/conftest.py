"""A finished run, and a working folder with the text that it learned from."""

import pytest
from tiny_runs import TEXT, train


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
