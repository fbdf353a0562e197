"""The page of each operation: there is one, its numbers are right, and what it names exists."""

import re
from pathlib import Path

import documents
import pytest

from tinygrad_char.benchmarks.ops import fused
from tinygrad_char.kernels.backend import status
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cuda.launcher import sources
from tinygrad_char.kernels.operations import operations

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ["Backward", "What is saved", "By hand", "Where it is", "Papers"]
rooms = pytest.mark.parametrize("room", operations().values(), ids=list(operations()))


def page(room):
    return (room.folder / "README.md").read_text(encoding="utf-8")


@rooms
def test_every_operation_has_a_page_of_the_same_parts(room):
    text = page(room)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    beginning, _, _ = text.partition("\n## ")
    assert "```math" in beginning
    for part in text.split("\n## "):
        assert len(part.strip().splitlines()) > 2, part


@rooms
def test_the_numbers_are_those_that_the_reference_prints(room):
    text = page(room)
    assert re.search(rf"^>>> from tinygrad_char.kernels import {room.name}$", text, re.MULTILINE)
    assert documents.failures(text, room.name) == ""


def test_a_wrong_number_is_seen():
    text = page(operations()["softmax"])
    assert "0.625" in text
    assert "0.626" in documents.failures(text.replace("0.625", "0.626"))


@rooms
def test_every_file_of_the_room_is_linked_and_every_link_leads_somewhere(room):
    path = room.folder / "README.md"
    assert documents.missing(path) == []
    files = {each.name for each in room.folder.iterdir() if each.is_file()}
    linked = set(documents.links(page(room)))
    assert files - linked - {"__init__.py", "README.md"} == set()


@rooms
def test_classes_are_in_the_files_that_are_named(room):
    rows = re.findall(r"^\| \[.*?\]\((.*?)\) \| its place on the tape: (.*) \|$", page(room), re.M)
    for link, names in rows:
        code = (room.folder / link).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^class {name}\b", code, re.MULTILINE), name


@rooms
def test_commands_test_time_and_compile_the_operation(room):
    text = page(room)
    assert documents.wrong_commands(text) == []
    on_cuda = f"tests/kernels/cuda/test_cuda_{room.name}.py"
    tests = [f"tests/kernels/test_{room.name}.py", *[on_cuda] * (ROOT / on_cuda).exists()]
    kernels = {each.stem for each in sources()}
    said = {
        words[2] if words[0] == "python" else "pytest": words for words in documents.commands(text)
    }
    assert said.pop("pytest")[1:] == tests
    compile_command = said.pop("tinygrad_char.kernels.cuda.compile", None)
    if compile_command is not None:
        assert set(compile_command[3:]) <= kernels
    assert (room.name in kernels) <= (compile_command is not None)
    timed = said.pop("tinygrad_char.benchmarks.ops", None)
    assert said == {}
    assert (timed is not None) == ("c" in room.versions)
    if timed is not None:
        assert timed[3:] == ["--only", room.name]
        if compiled is None:
            pytest.skip(status())
        assert room.name in fused()


@rooms
def test_mathematics_is_closed_and_lines_are_short(room):
    text = page(room)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert text.count("```") % 2 == 0
    assert prose.count("$") % 2 == 0
    assert all(each.count("$") % 2 == 0 for each in prose.split("\n\n"))
    # GitHub takes Markdown's escapes out of mathematics in lines, and knows no operatorname
    assert not [each for each in re.findall(r"\$[^$]*\$", prose) if re.search(r"\\[,;{}!]", each)]
    assert r"\operatorname" not in text
    for block in re.findall(r"```math\n(.*?)```", text, re.DOTALL):
        assert block.count("{") == block.count("}")
        assert block.count(r"\begin") == block.count(r"\end")
    lines = [each for each in text.splitlines() if not each.startswith(("| ", "    "))]
    assert max(map(len, lines)) <= 100
