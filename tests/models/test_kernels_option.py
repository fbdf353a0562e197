"""--kernels and --step at the command line: what computes, what is said of it, what is refused."""

import numpy as np
import pytest
from tiny_runs import metrics, train

from tinygrad_char.checkpoint import load
from tinygrad_char.kernels.backend import CPU
from tinygrad_char.kernels.operations import current
from tinygrad_char.models import cli
from tinygrad_char.ops.neural import LayerNorm
from tinygrad_char.step import why_on_tape

LINES = {
    ("--kernels", "layernorm=loops,attention=reference"): [
        "kernels layernorm=loops, attention=reference",
        "steps   each on the tape: layernorm=loops is Python code, which nothing records",
    ],
    ("--kernels", "reference"): ["kernels reference", "steps   each on the tape: "],
    ("--step", "tape"): ["steps   each on the tape: --step tape"],
    ("--step", "recorded"): [],
    (): [],
}


@pytest.mark.parametrize("options", LINES, ids=" ".join)
def test_a_run_says_what_computes_and_learns_the_same(options, tmp_path, capsys):
    assert train(tmp_path / "run", *options) == 0
    said = capsys.readouterr().out.splitlines()
    found = [line for line in said if line.startswith(("kernels", "steps "))]
    assert len(found) == len(LINES[options])
    for line, expected in zip(found, LINES[options], strict=True):
        assert line.startswith(expected)
    assert train(tmp_path / "other") == 0
    ours, plain = (
        [each.get("loss") for each in metrics(tmp_path / name)] for name in ("run", "other")
    )
    assert [each is None for each in ours] == [each is None for each in plain]
    np.testing.assert_allclose(
        [each for each in ours if each], [each for each in plain if each], rtol=1e-5
    )
    assert current() is None
    assert why_on_tape(CPU) is None


def test_on_the_tape_a_backward_pass_is_met_at_every_step_of_a_run(tmp_path, monkeypatch):
    met, before = [], LayerNorm.backward
    monkeypatch.setattr(LayerNorm, "backward", lambda *given: met.append(1) or before(*given))
    assert train(tmp_path / "run", "--step", "tape", "--steps", "9", "--shards", "1") == 0
    assert len(met) == 3 * 9  # two norms in the block, and one behind it


def test_the_choice_is_no_part_of_a_run_that_is_continued(tmp_path):
    assert train(tmp_path / "run", "--kernels", "layernorm=loops", "--step", "tape") == 0
    _, metadata = load(tmp_path / "run" / "last.safetensors")
    assert "loops" not in str(metadata)
    assert "loops" not in (tmp_path / "run" / "config.json").read_text()


def test_generate_and_evaluate_take_versions_too(tmp_path, capsys):
    assert train(tmp_path / "run") == 0
    capsys.readouterr()
    run, text = str(tmp_path / "run"), str(tmp_path / "text.txt")
    for command in (["generate", run, "--length", "20"], ["evaluate", run, "--data", text]):
        shown = []
        for options in ([], ["--kernels", "attention=loops,layernorm=loops,softmax=loops"]):
            assert cli.run([*command, *options]) == 0
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        ("layernorm=loop", "layernorm has no version 'loop'; expected one of reference, loops, c,"),
        ("layernrm=loops", "there is no operation 'layernrm'; expected one of adamw, add,"),
        ("layernorm", "such as layernorm=loops,attention=reference"),
        ("layernorm=cuda", "layernorm=cuda does not compute on device 'cpu'; expected one of"),
    ],
)
@pytest.mark.parametrize("command", ["train", "evaluate", "generate"])
def test_what_does_not_exist_is_wrong_usage(
    command, kernels, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.run([command, "--kernels", kernels]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"error: --kernels is {kernels!r}; ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_another_way_of_steps_is_wrong_usage(tmp_path, capsys):
    assert train(tmp_path / "run", "--step", "slow") == 2
    assert "recorded" in "".join(capsys.readouterr())
