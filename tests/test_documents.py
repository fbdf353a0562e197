"""What documents say is so: files, links, commands, quoted code, and the width of lines."""

import documents
import pytest
from documents import ROOT

SKIPPED = {".git", ".venv", "venv", "build", "dist", ".hypothesis", ".pytest_cache"}
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not SKIPPED & set(path.relative_to(ROOT).parts) and "egg-info" not in str(path)
)
every = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=[path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
)
ARCHITECTURE = ROOT / "docs" / "architecture.md"


def read(path):
    return path.read_text(encoding="utf-8")


@every
def test_files_that_are_named_or_linked_exist(path):
    if path.name != "CHANGELOG.md":  # which tells of files that were
        assert documents.missing(path) == []


@every
def test_files_and_modules_of_commands_exist(path):
    assert documents.wrong_commands(read(path)) == []


@every
def test_what_is_linked_is_no_part_of_this_machine(path):
    assert not [each for each in documents.links(read(path)) if each.startswith("/")]


def test_the_architecture_is_quoted_as_it_is():
    text = read(ARCHITECTURE)
    quotes = documents.quotes(text)
    assert len(quotes) >= 14
    assert len({path for path, _ in quotes}) >= 12
    assert documents.misquoted(text) == []


def test_the_architecture_is_linked_from_the_first_page():
    assert "docs/architecture.md" in documents.links(read(ROOT / "README.md"))


def test_what_is_wrong_is_seen(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(
        "`kernels/none.py`, `kernels/array.py`, [there](none.md), [here](page.md)\n\n"
        "    pytest tests/none.py\n"
        "    pytest tests/test_documents.py  # this\n"
        "    python -m tinygrad_char.none --fast\n"
        "    python -m tinygrad_char.benchmarks.ops\n\n"
        "```python\ndef   namespace(array: Array) -> ModuleType:\n```\n"
        "```python\ndef none():\n```\n"
        "```python\n>>> 1 + 1\n3\n```\n"
    )
    text = read(path)
    assert documents.missing(path) == ["kernels/none.py", "none.md"]
    wrong = ["pytest tests/none.py", "python -m tinygrad_char.none --fast"]
    assert documents.wrong_commands(text) == wrong
    assert documents.misquoted(text) == [("kernels/array.py", "def none():\n")]
    assert "Got:\n    2" in documents.failures(text)
