"""The benchmarks with contenders, each at its smallest size, as one runs them."""

import importlib.util
import json
import math
import subprocess
import sys

import pytest

from benchmarks import train_step
from benchmarks.measure import resident
from tinygrad_char.parallel import available_cores

AGAINST = pytest.param(
    ("--against", "torch"),
    id="against torch",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
    ),
)
ALONE = pytest.param((), id="alone")
EVERY = pytest.mark.parametrize("against", [ALONE, AGAINST])


def run(name, *arguments, cwd, program=("-m", "benchmarks.{}")):
    """Run a benchmark and return its exit code and what it wrote to its two streams."""
    done = subprocess.run(
        [sys.executable, *(each.format(name) for each in program), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def measure(name, *arguments, cwd):
    """Run a benchmark at size smoke, check what all have in common, and return its JSON."""
    files = ("--json", "found.json", "--chart", "found.png")
    code, out, error = run(name, "--size", "smoke", *files, *arguments, cwd=cwd)
    assert (code, error) == (0, "")
    assert (cwd / "found.png").read_bytes().startswith(b"\x89PNG\r\n")
    values = json.loads((cwd / "found.json").read_text(), parse_constant=pytest.fail)
    assert values["benchmark"] == name
    assert values["arguments"] == ["--size", "smoke", *files, *arguments]
    assert values["machine"]["processors"] == available_cores()
    expected = {"ours", "PyTorch"} if "torch" in arguments else {"ours"}
    assert set(values["libraries"]) == expected
    assert all(values["machine"][key] in out for key in ("processor", "python"))
    assert values["agree"] is True
    assert "results agree: at most" in out
    check_rows(values["results"])
    return values


def check_rows(rows):
    first = {}
    for row in rows:
        assert 0 <= row["difference"] <= row["bound"] < math.inf
        assert row["agrees"] is True
        low, high = row["quartiles"]
        assert 0 < min(row["samples"]) <= low <= row["seconds"] <= high <= max(row["samples"])
        case = tuple((key, row[key]) for key in row if key in ("task", "length", "axis", "value"))
        assert row["ratio"] == row["seconds"] / first.setdefault(case, row["seconds"])
        if resident() is not None:
            assert row["memory_peak"] >= row["memory_growth"]


def contenders(values):
    return list(dict.fromkeys(row["contender"] for row in values["results"]))


@EVERY
def test_train_step(against, tmp_path):
    styles = ("--styles", "sdpa", "heads") if against else ()
    values = measure("train_step", *against, *styles, cwd=tmp_path)
    torch = ["PyTorch, sdpa", "PyTorch, heads"] if against else []
    assert contenders(values) == ["ours", *torch]
    assert {row["task"] for row in values["results"]} == {"step"}


@EVERY
def test_attention(against, tmp_path):
    values = measure("attention", *against, cwd=tmp_path)
    ours = ["ours", "ours, one thread"][: available_cores()]
    others = ["whole matrices", "Python loops", *(["PyTorch, sdpa"] if against else [])]
    assert contenders(values) == [*ours, *others]
    rows = values["results"]
    assert {row["task"] for row in rows} == {"forward", "forward and backward"}
    assert {tuple(row["shape"]) for row in rows} == {(2, 2, 8, 8), (2, 2, 13, 8)}
    assert all(row["length"] == row["shape"][2] for row in rows)


@EVERY
def test_generate(against, tmp_path):
    values = measure("generate", *against, cwd=tmp_path)
    torch = ["PyTorch, with cache", "PyTorch, without cache"] if against else []
    assert contenders(values) == ["ours", *torch]
    for row in values["results"]:
        assert row["difference"] == row["bound"] == 0
        assert row["characters_per_second"] == row["length"] / row["seconds"]


def test_options_choose_rounds_threads_and_batch(tmp_path):
    options = ("--rounds", "3", "--threads", "1", "--batch-size", "1")
    values = measure("train_step", *options, cwd=tmp_path)
    assert [len(row["samples"]) for row in values["results"]] == [3]
    assert values["results"][0]["batch_size"] == 1
    assert "1 thread" in values["libraries"]["ours"]["products"]


WRONG_BOUND = """
import sys, benchmarks.{0} as benchmark
if __name__ == "__main__":
    benchmark.BOUND = -1.0
    sys.argv[0] = "{0}.py"
    benchmark.main()
"""


def test_results_that_differ_are_not_timed_and_exit_with_1(tmp_path):
    (tmp_path / "program.py").write_text(WRONG_BOUND.format("train_step"))
    code, out, error = run(
        *("train_step", "--size", "smoke", "--json", "found.json", "--chart", "found.png"),
        cwd=tmp_path,
        program=("program.py",),
    )
    assert (code, error) == (1, "")
    assert "RESULTS DIFFER" in out
    values = json.loads((tmp_path / "found.json").read_text())
    assert values["agree"] is False
    assert [row["agrees"] for row in values["results"]] == [False]
    assert "seconds" not in values["results"][0]
    assert not (tmp_path / "found.png").exists()


def test_without_pytorch_the_comparison_exits_with_2(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["train_step.py", "--against", "torch"])
    with pytest.raises(SystemExit) as end:
        train_step.main()
    assert end.value.code == 2
    error = capsys.readouterr().err.replace("│", " ")
    assert "--against torch needs PyTorch, which is not installed" in " ".join(error.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threads", "0"), "--threads is 0; expected 1 to"),
        (("--rounds", "0"), "--rounds is 0; expected at least 1"),
        (("--chart", "picture.jpg"), "expected a name that ends in .png"),
        (("--json", "nowhere/found.json"), "there is no folder nowhere"),
        (("--batch-size", "0"), "--batch-size is 0; expected at least 1"),
        (("--size", "huge"), "huge"),
        (("--against", "numpy"), "numpy"),
    ],
)
def test_wrong_usage_exits_with_2(arguments, message, tmp_path):
    code, out, error = run("train_step", *arguments, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert message in " ".join(error.replace("│", " ").split())
