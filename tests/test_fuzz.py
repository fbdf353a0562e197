"""A fixed part of what `python tests/fuzz.py --full` tries, and that it would find something."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import Watch, judge

CASES = {"bytes": 500, "hostile": 150, "folders": 60, "options": 150, "processes": 8}


@pytest.mark.parametrize("kind", CASES)
def test_nothing_that_strangers_bring_gives_a_trace_or_hangs_or_leads_astray(kind):
    """In a process of its own, since the cases run in forks of it."""
    program = Path(__file__).with_name("fuzz.py")
    done = subprocess.run(
        [sys.executable, str(program), "--only", kind, "--count", str(CASES[kind])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{CASES[kind]} cases" in done.stdout
    assert " 0 failures" in done.stdout
    assert " x 1" in done.stdout  # exit codes: not all are accepted


@pytest.mark.parametrize(
    ("code", "errors", "found"),
    [
        (0, "", ""),
        (2, "error: steps is 0", ""),
        (2, "For full helptext, run tinygrad-char train --help", ""),
        (0, "Traceback (most recent call last):", "a trace"),
        (0, "x.py:3: RuntimeWarning: overflow", "a trace"),
        (1, "", "without a word"),
        (-11, "", "exit code -11"),
        (3, "error: x", "exit code 3"),
    ],
)
def test_a_bad_end_is_found(code, errors, found):
    said = judge(code, errors)
    assert found in said
    assert bool(said) == bool(found)


def test_files_that_are_touched_outside_the_run_are_found(tmp_path):
    inside, outside = tmp_path.resolve() / "inside", tmp_path.resolve() / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside / "through")
    watch = Watch()
    watch.folder = str(inside)
    try:
        (inside / "a").write_text("a")
        (inside / "a").read_text()
        assert watch.strays == []
        (inside / "link").write_text("a")
        (outside / "b").write_text("b")
        (outside / "b").read_text()
        (outside / "b").rename(outside / "c")
        os.truncate(outside / "c", 0)
        (outside / "c").unlink()
        (inside / "link").unlink()  # the link alone
    finally:
        watch.folder = None
    found = [each.split("'")[0].strip() for each in watch.strays]
    assert found == ["open", "open", "os.rename", "os.rename", "os.truncate", "os.remove"]
