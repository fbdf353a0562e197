import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import read_terminal
from tiny_runs import TEXT, TINY, start

from tinygrad_char.models.console import PlainConsole
from tinygrad_char.models.escape import escaped, quoted, write

HOSTILE = "a\x1b]0;title\x07\x1b[31mred\x9b2J\u202eright\u2066\u061c\x7f\r\x00[bold]b[/bold]:smile:"
OBEYED = {*map(chr, [*range(9), *range(11, 32), *range(0x7F, 0xA0)])} | set(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


@given(st.text(st.characters(exclude_categories=())))
def test_what_a_terminal_would_obey_is_escaped_and_the_rest_left(text):
    shown = escaped(text)
    assert not OBEYED & set(shown)
    expected = (ch.encode("unicode_escape").decode() if ch in OBEYED else ch for ch in text)
    assert shown == "".join(expected)
    assert escaped(shown) == shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "shown"), [(io.StringIO, HOSTILE), (Terminal, escaped(HOSTILE))]
)
def test_only_a_terminal_gets_it_escaped(stream, shown):
    written = stream()
    write(written, HOSTILE)
    assert written.getvalue() == shown
    written = stream()
    PlainConsole(file=written, force_terminal=written.isatty(), color_system=None).note(HOSTILE)
    # Rich leaves out of its output, everywhere, the signs that ring a bell or move the cursor.
    kept = shown if stream is Terminal else HOSTILE.translate(dict.fromkeys([7, 8, 11, 12, 13]))
    assert written.getvalue() == kept + "\n"


@pytest.mark.parametrize(
    "name", ["runs/a", "a b", "it's", "a\x1b[31mb", "\u202e'\\", "caf\udce9\n"]
)
def test_a_quoted_name_is_what_bash_reads(name):
    assert escaped(quoted(name)) == quoted(name)
    bash = ["bash", "-c", f"printf %s {quoted(name)}"]
    try:
        done = subprocess.run(bash, capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("there is no bash here")
    assert done.stdout == os.fsencode(name)


def test_printable_names_are_quoted_for_every_shell():
    for name in ("runs/a", "a b", "it's", "\u6587"):
        assert quoted(name) == shlex.quote(name)


def on_a_terminal(*arguments, cwd):
    """Run the command with both streams on one terminal; return its exit code and what it shows."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
    here, there = pty.openpty()
    environment = {"TERM": "xterm", "COLUMNS": "200", "NO_COLOR": "1"}
    process = start(*arguments, cwd=cwd, stdout=there, stderr=there, env=environment)
    os.close(there)
    shown = read_terminal(here)
    return process.wait(), shown.replace("\r\n", "\n")


NAME = "x\x1b[35m\u202e[red]"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder with a text and a run whose names and vocabulary hold what a terminal obeys."""
    folder = tmp_path_factory.mktemp("hostile")
    text = TEXT + "\x1b[35m\u202e\x9b\x07\r\n" * 40
    (folder / f"{NAME}.txt").write_text(text, encoding="utf-8", newline="")
    program = [sys.executable, "-m", "tinygrad_char.models"]
    command = [*program, "train", "--data", f"{NAME}.txt", *TINY]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    return folder


RUN = f"runs/small-{NAME}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", f"{NAME}.txt"],
        ["data", f"{NAME}.tx"],
        ["data", f"{NAME}.txt", "--json"],
        ["data", f"{NAME}.txt", f"{NAME}.txt"],
        ["data", ".", "--bogus", NAME],
        [NAME],
        ["generate", RUN, "--temperature", "100", "--length", "300"],
        ["generate", RUN, "--temperature", "100", "--length", "300", "--samples", "2"],
        ["generate", "--temperature", "100", "--length", "50", "--json"],
        ["generate", RUN, "--prompt", NAME],
        ["generate", RUN, "--prompt", NAME + "\x05", "--unknown", "skip"],
        ["generate", "--length", NAME],
        ["generate", "--stop", NAME, "--unknown", NAME],
        ["generate", f"{RUN}x"],
        ["generate", f"{RUN}/config.json"],
        ["evaluate", RUN],
        ["evaluate"],
        ["evaluate", RUN, "--json"],
        ["train", "--resume", RUN, "--steps", "6", "--sample-every", "1", "--eval-every", "1"],
        ["train", "--resume", RUN, "--data", "pydoc"],
        ["train", "--out", RUN, "--data", f"{NAME}.txt"],
        ["train", "--out", f"{NAME}.txt/run", "--data", f"{NAME}.txt"],
    ],
    ids=lambda arguments: " ".join(arguments[:3]).replace(NAME, "NAME"),
)
def test_nothing_of_others_reaches_a_terminal_raw(arguments, hostile):
    code, shown = on_a_terminal(*arguments, cwd=hostile)
    assert code in (0, 1, 2)
    assert "Traceback" not in shown
    assert "\x1b[35m" not in shown
    assert not set("\u202e\x9b\x07") & set(shown)


def test_a_file_gets_the_text_as_it_is(hostile):
    process = start("generate", "--temperature", "100", "--length", "500", cwd=hostile)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert "\x1b" in out
    assert "\\x1b" not in out
