"""The replay benchmark as one runs it: tables, results, exit codes."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from tinygrad_char.benchmarks import replay
from tinygrad_char.models.ladder import LADDER
from tinygrad_char.models.replay import RECIPES

TEXT = "hii there, The quick brown fox jumps over the lazy dog.\n" * 30
needs_corpus = pytest.mark.skipif(
    "TINYGRAD_CHAR_DATA" not in os.environ,
    reason="TINYGRAD_CHAR_DATA names no folder with tinyshakespeare.txt",
)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return what runs the benchmark on a small text: its exit code and its two streams."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    tiny = {name: replace_counts(recipe) for name, recipe in RECIPES.items()}
    monkeypatch.setattr(replay, "RECIPES", tiny)

    def run(*arguments):
        data = () if "--data" in arguments else ("--data", "text.txt")
        monkeypatch.setattr(sys, "argv", ["replay", "--jobs", "1", *data, *arguments])
        with pytest.raises(SystemExit) as ended:
            replay.main()
        return ended.value.code, *capsys.readouterr()

    return run


def replace_counts(recipe):
    return replay.replace(recipe, steps=3, batch_size=2, eval_every=2, eval_batches=2)


def publish(monkeypatch, name, rows, sample=None):
    """Publish these rows of a run of the small text."""
    run = {"rows": rows, "sample": sample, "seconds": 12}
    monkeypatch.setattr(
        replay, "published", lambda: {"characters": len(TEXT), "rungs": {name: run}}
    )


def result_of(command, *arguments):
    code, out, error = command("--json", "found.json", *arguments)
    assert error == ""
    (result,) = json.loads(Path("found.json").read_text())["rungs"]
    return code, out, result


def test_every_stage_has_published_numbers():
    assert set(replay.published()["rungs"]) == set(RECIPES) > set(LADDER)
    assert set(replay.BOUNDS) < set(RECIPES)


def test_another_text_is_replayed_without_comparison(command):
    code, out, result = result_of(command, "--stage", "bigram")
    assert code == 0
    assert [row["step"] for row in result["rows"]] == [0, 2]
    assert all(set(row) == {"step", "train", "validation"} for row in result["rows"])
    assert len(result["sample"]) == 501
    assert "1 runs in" in out


def test_rows_within_their_bounds(command, monkeypatch):
    _, _, result = result_of(command, "--stage", "mha")
    rows = [[row["step"], row["train"], row["validation"]] for row in result["rows"]]
    publish(monkeypatch, "mha", rows[:1], result["sample"].replace("\n", "\n\n"))
    code, out, result = result_of(command, "--stage", "mha")
    assert (code, result["within_bounds"], result["sample_equal"]) == (0, True, True)
    assert result["rows"][0]["difference"] == 0
    assert "published" not in result["rows"][1]
    assert "published 12 s on a GPU machine" in out
    assert "sample of 500 characters: equal" in out


@pytest.mark.parametrize(("by", "expected"), [(9e-5, 0), (-1.1e-4, 1)])
def test_a_row_beyond_its_bound(command, monkeypatch, by, expected):
    _, _, result = result_of(command, "--stage", "bigram")
    rows = [[row["step"], row["train"], row["validation"] + by] for row in result["rows"]]
    publish(monkeypatch, "bigram", rows)
    code, out, result = result_of(command, "--stage", "bigram")
    assert (code, result["within_bounds"]) == (expected, not expected)
    assert result["largest_part_of_bound"] == pytest.approx(abs(by) / 1e-4)
    assert out.endswith("NOT WITHIN BOUNDS\n" if expected else "all within bounds\n")


def test_another_sample_is_beyond_the_bounds(command, monkeypatch):
    publish(monkeypatch, "bigram", [], "another text")
    code, out, _ = command("--stage", "bigram")
    assert code == 1
    assert "sample of 500 characters: DIFFERENT" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seed", "42"],
        ["--without-final-newline"],
        ["--optimizer", "adam"],
        ["--lr", "0.5"],
    ],
)
def test_another_run_than_the_published_one_is_not_compared(command, monkeypatch, arguments):
    publish(monkeypatch, "bigram", [[0, 99.0, 99.0], [2, 99.0, 99.0]])
    _, _, same = result_of(command, "--stage", "bigram")
    code, _, other = result_of(command, "--stage", "bigram", *arguments)
    assert (code, same["within_bounds"], other["within_bounds"]) == (0, False, True)
    assert other["rows"][-1]["validation"] != same["rows"][-1]["validation"]


@pytest.mark.parametrize("build", ["default", "mkl"])
def test_text_of_a_cpu_differs_from_that_of_a_gpu(command, build):
    _, _, gpu = result_of(command, "--stage", "bigram")
    _, _, cpu = result_of(command, "--stage", "bigram", "--build", build)
    assert gpu["rows"] == cpu["rows"]
    assert gpu["sample"] != cpu["sample"]


@pytest.mark.parametrize(
    ("name", "step", "bound"),
    [
        ("bigram", 0, 1e-4),
        ("mha", 4999, 1e-4),
        ("ffn", 1000, 5e-4),
        ("ffn", 1200, 3e-3),
        ("blocks3", 200, 1e-4),
        ("blocks3", 400, 6e-2),
        ("lnorm", 0, 1e-4),
        ("lnorm", 200, 3e-4),
        ("lnorm", 4999, 1e-2),
        ("scaled", 0, 6e-4),
    ],
)
def test_bounds(name, step, bound):
    assert replay.bound_of(name, step) == bound


def whole_ladder(swapped=False):
    names = list(LADDER)
    final = {name: replay.published()["rungs"][name]["rows"][-1] for name in names}
    if swapped:
        final["lnorm"], final["resid"] = final["resid"], final["lnorm"]
    return [
        {"rung": name, "rows": [{"step": final[name][0], "validation": final[name][2]}]}
        for name in names
    ]


def test_the_final_order_of_a_whole_ladder_is_checked(capsys):
    assert replay.check_order(whole_ladder())
    assert "from best to worst: lnorm, resid, ffn, mha, blocks3, head" in capsys.readouterr().out
    assert not replay.check_order(whole_ladder(swapped=True))
    assert replay.check_order(whole_ladder(swapped=True)[:-1])


def test_several_runs_at_a_time_give_the_results_of_one_at_a_time(tmp_path):
    tiny = replay.Replay(stage=("bigram", "head"), steps=(1,), jobs=1)
    one = list(replay.replayed(tiny, TEXT))
    two = list(replay.replayed(replay.replace(tiny, jobs=2), TEXT))
    assert [each["rung"] for each in one] == ["bigram", "head"]
    for left, right in zip(one, reversed(two), strict=True):
        assert {**left, "seconds": None} == {**right, "seconds": None}


def test_the_notebook_takes_lengths_and_rates(command):
    code, out, error = command(
        *("--notebook", "--steps", "2", "3", "--lr", "0.01", "0.001", "--build", "mkl"),
        *("--samples", "4", "5", "--optimizer", "adam", "--seed", "42"),
    )
    assert (code, error) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"length of the text in characters: {len(TEXT)}"
    assert lines[-1].startswith("BatchNorm (n    ) row 0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "attention"], "no stage 'attention'; there are bigram, emblinear"),
        (["--against", "numpy"], "--against numpy; expected torch"),
        (["--against", "torch", "--stage", "last"], "--against torch has bigram"),
        (["--steps", "0"], "expected at least 1"),
        (["--steps", "1", "2"], "several --steps or --lr are for --notebook"),
        (["--notebook", "--lr", "1", "2"], "expected as many, or one --lr"),
        (["--data", "nothing.txt"], "nothing.txt"),
    ],
)
def test_wrong_usage(command, arguments, message):
    code, out, error = command(*arguments)
    assert (code, out) == (2, "")
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_against_torch_shows_both_ratios(command):
    code, out, result = result_of(command, "--stage", "ffn", "--against", "torch")
    assert code == 0
    for style in ("notebook", "batched"):
        assert result[f"torch_{style}_seconds"] > 0
        assert f"PyTorch, {style}" in out


@needs_corpus
def test_the_published_text_is_compared(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["replay", "--stage", "bigram", "--steps", "1"])
    with pytest.raises(SystemExit) as ended:
        replay.main()
    assert ended.value.code == 0
    assert "4.7305 4.7241" in capsys.readouterr().out
