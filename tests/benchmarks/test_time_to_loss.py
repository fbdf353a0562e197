"""Seconds to a loss: what is measured when, and what is said of it."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
from test_cpu_benchmarks import run

from tinygrad_char.benchmarks import time_to_loss
from tinygrad_char.benchmarks.time_to_loss import Curve, Point, arithmetic
from tinygrad_char.models.batches import Split
from tinygrad_char.models.config import TrainConfig
from tinygrad_char.models.evaluate import whole_split_loss
from tinygrad_char.models.gpt import GPT, GPTConfig
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.models.trainer import Trainer
from tinygrad_char.random import Generator

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)
TEXT = "the quick brown fox jumps over the lazy dog; " * 30
TOKENIZER = CharTokenizer("".join(sorted(set(TEXT))))
RECIPE = GPTConfig(
    block_size=8, n_layer=2, n_head=2, n_embd=8, bias=False, tied=True, positions="rotary",
    convolution=4,
)  # fmt: skip
CONFIG = TrainConfig(gpt=RECIPE, steps=7, batch_size=2, warmup=2, lr=1e-2)


def split():
    tokens = TOKENIZER.encode(TEXT)
    return Split(tokens[:900], tokens[900:])


def curve(*losses, contender="ours"):
    points = [Point(10 * n, n / 2, float(n), loss) for n, loss in enumerate(losses, start=1)]
    return Curve(contender, 7, points, 1000, 64, 1e6)


def test_a_loss_is_reached_at_the_first_measurement_at_or_below_it():
    found = curve(2.0, 1.7, 1.8, 1.6)
    assert found.reached(1.7).step == 20
    assert found.reached(1.75).step == 20
    assert found.reached(1.65).step == 40
    assert found.reached(1.5) is None
    assert found.best.loss == 1.6


@pytest.mark.parametrize("in_torch", [False, pytest.param(True, marks=needs_torch)])
def test_a_run_is_measured_on_its_grid_and_both_clocks_go_on(in_torch, capsys, monkeypatch):
    if in_torch:
        from tinygrad_char.benchmarks import torch_models

        monkeypatch.setattr(torch_models, "fastest", lambda *_: "sdpa")  # compiling takes a minute
    found = time_to_loss.follow(
        time_to_loss.Run("tiny", CONFIG, split(), TOKENIZER, 40.0, True, None, in_torch)
    )
    assert [each.step for each in found.points] == [2, 4, 6, 7]
    seconds = [each.seconds for each in found.points]
    assert seconds == sorted(seconds)
    assert all(0 < each.seconds < each.all_seconds for each in found.points)
    assert found.points[-1].loss < found.points[0].loss
    assert found.characters == 16
    assert "step 7 of 7" in capsys.readouterr().err
    assert found.strided > 0


def test_ours_is_the_trainer_s_loss_on_the_whole_split(capsys):
    run = time_to_loss.Run("x", CONFIG, split(), TOKENIZER, 100.0, False, None, False)
    trainer = Trainer(CONFIG, TOKENIZER, split())
    for _ in range(CONFIG.steps):
        trainer.update()
    found = time_to_loss.follow(run)
    assert found.points[-1].loss == whole_split_loss(trainer.model, split().validation).nats
    assert found.strided is None
    assert found.parameters == trainer.model.num_parameters()


@needs_torch
@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "muon", "muon_weight_decay": 0.5, "decayed": "embeddings", "ema": 0.9}],
)
def test_torch_trains_the_same_model_by_the_same_steps(changes):
    from tinygrad_char.benchmarks.torch_models import TorchTrainer, split_loss

    config = replace(CONFIG, **changes)
    theirs = TorchTrainer(config, len(TOKENIZER), split(), "sdpa")
    theirs.warm_up()
    ours = Trainer(config, TOKENIZER, split())
    for _ in range(CONFIG.steps):
        mine, (loss, norm) = ours.update(), theirs.update()
        assert mine.loss == pytest.approx(loss, rel=2e-5)
        assert mine.norm == pytest.approx(norm, rel=1e-2)
    with ours.averaged(), theirs.averaged():
        expected = whole_split_loss(ours.model, split().validation).nats
        assert split_loss(theirs.plain, split().validation) == pytest.approx(expected, rel=1e-4)


@needs_torch
@pytest.mark.parametrize(
    "shape", [RECIPE, replace(RECIPE, qk_norm=True, positions="learned", norm="rmsnorm")]
)
def test_torch_reads_the_same_model_with_and_without_a_cache(shape):
    import torch

    from tinygrad_char.benchmarks.torch_models import Cache, TorchGPT

    model = GPT(shape, 11, generator=Generator(0))
    rng = np.random.default_rng(0)
    for each in model.parameters():
        each.data = rng.normal(0, 0.3, each.shape).astype(np.float32)
    theirs = TorchGPT(shape, 11).eval()
    theirs.load(model)
    x = rng.integers(0, 11, (2, 8))
    expected = model(x)[0].detach().numpy()
    with torch.no_grad():
        np.testing.assert_allclose(theirs(torch.from_numpy(x)).numpy(), expected, atol=1e-5)
        caches = [Cache(shape, 2) for _ in theirs.blocks]
        parts = [theirs(torch.from_numpy(x[:, part]), cache=caches).numpy() for part in PARTS]
    np.testing.assert_allclose(np.concatenate(parts, 1), expected, atol=1e-5)


PARTS = (slice(0, 3), *(slice(t, t + 1) for t in range(3, 8)))


def test_arithmetic_counts_what_a_step_multiplies():
    gpt = GPTConfig(block_size=4, n_layer=2, n_head=1, n_embd=8, tied=True)
    config = TrainConfig(gpt=gpt, batch_size=3, accumulate=2)
    weights = 2 * (3 * 64 + 64 + 8 * 64) + 5 * 8
    assert arithmetic(config, 5) == 24 * (6 * weights + 6 * 2 * 4 * 8)


@pytest.mark.parametrize(
    ("part", "trained", "end"), [("validation", 900, 1000), ("held-out", 810, 900)]
)
def test_what_is_trained_on_and_measured_on(part, trained, end):
    split = time_to_loss.parts(np.arange(1000), 8, part)
    np.testing.assert_array_equal(split.train, np.arange(trained))
    np.testing.assert_array_equal(split.validation, np.arange(trained, end))


def test_held_out_settings_never_see_the_validation_split(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a" * 810 + "b" * 90 + "c" * 100)
    options = ["--presets", "tiny", "--steps", "2", "--seeds", "3", "--grid", "100"]
    options += ["--data", str(text), "--n-layer", "1", "--n-embd", "8", "--block-size", "4"]
    losses = {}
    for part in ("held-out", "validation"):
        files = ["--part", part, "--json", "found.json", "--chart", "found.png", "--strided"]
        code, out, _ = run("time_to_loss", *options, *files, cwd=tmp_path)
        assert code == 0
        assert "seconds of training to a loss" in out
        assert "strided, last" in out
        values = json.loads((tmp_path / "found.json").read_text(), parse_constant=pytest.fail)
        assert values["part"] == part
        assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG\r\n")
        losses[part] = values["curves"][0]["points"][-1]["loss"]
    assert losses["held-out"] < 1.5 < losses["validation"] * 1.5  # three letters are known to exist
    assert losses["held-out"] != losses["validation"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--grid", "0"], "--grid is 0"),
        (["--seeds"], "seeds"),
        (["--json", "no/folder/x.json"], "there is no folder"),
        (["--chart", "x.jpg"], "--chart"),
        (["--presets", "huge"], "huge"),
        (["--n-embd", "7"], "n_embd 7 is not divisible"),
        (["--against", "torch", "--accumulate", "2"], "accumulate 2 and precision float32"),
    ],
)
def test_bad_options_are_named(options, said, tmp_path):
    code, _, error = run("time_to_loss", *options, cwd=tmp_path)
    assert code == 2
    assert said in error
