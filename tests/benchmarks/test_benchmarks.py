import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_char import benchmarks

TEXT = "The quick brown fox jumps over the lazy dog.\n" * 40
TINY = [
    *("--steps=2", "--eval-batches=1", "--n-layer=1", "--n-head=1", "--n-embd=8"),
    *("--block-size=8", "--batch-size=2"),
]
PROGRAMS = [
    path.stem
    for path in sorted(Path(benchmarks.__file__).parent.glob("*.py"))
    if "def main(" in path.read_text()
]


def run(name, *arguments, cwd):
    """Run a benchmark and return its exit code and what it wrote to its two streams."""
    done = subprocess.run(
        [sys.executable, "-m", f"tinygrad_char.benchmarks.{name}", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return "--data=text.txt"


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_benchmark_explains_itself(name, tmp_path):
    code, out, error = run(name, "--help", cwd=tmp_path)
    assert (code, error) == (0, "")
    assert out.startswith("usage: ")


def test_import_time_measures_both_modules_as_often_as_told(tmp_path):
    code, out, error = run("import_time", "--repeat", "2", "--json", cwd=tmp_path)
    assert (code, error) == (0, "")
    values = json.loads(out)
    assert list(values["seconds"]) == ["numpy", "tinygrad_char"]
    for module, seconds in values["seconds"].items():
        assert len(seconds) == 2
        assert min(seconds) > 0
        assert values["medians"][module] == statistics.median(seconds)
    assert values["ratio"] == values["medians"]["tinygrad_char"] / values["medians"]["numpy"]


def test_import_time_is_shown_as_a_table(tmp_path):
    code, out, _ = run("import_time", "--repeat", "1", cwd=tmp_path)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["import", "from", "ratio"]


def test_import_time_wants_something_to_measure(tmp_path):
    code, out, error = run("import_time", "--repeat", "0", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "--repeat is 0; expected at least 1" in error


def test_default_run_trains_each_seed_with_the_options_given(tmp_path, text):
    code, out, error = run("default_run", "--seeds", "1", "2", "--json", text, *TINY, cwd=tmp_path)
    assert (code, error) == (0, "")
    values = json.loads(out)
    assert [(each["seed"], each["steps"]) for each in values["runs"]] == [(1, 2), (2, 2)]
    losses = [each["validation_loss"] for each in values["runs"]]
    assert losses[0] != losses[1]
    assert values["validation_loss"] == pytest.approx(sum(losses) / 2)
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt"}


def test_default_run_is_shown_as_a_table(tmp_path, text):
    code, out, _ = run("default_run", "--seeds", "7", text, *TINY, cwd=tmp_path)
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()] == [["seed", "7"], ["mean", "of"]]


def test_default_run_says_why_a_run_failed(tmp_path, text):
    code, out, error = run("default_run", "--seeds", "1", text, "--steps", "0", cwd=tmp_path)
    assert (code, out) == (1, "")
    assert "steps is 0; expected an integer from 1" in error


def test_default_run_wants_a_seed(tmp_path):
    code, out, error = run("default_run", "--seeds", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "--seeds is empty" in error
