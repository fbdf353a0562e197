"""Training on CUDA devices, as far as a machine without one can show it."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from tinygrad_char.kernels import backend
from tinygrad_char.kernels.backend import DeviceError
from tinygrad_char.models import cli
from tinygrad_char.models.batches import Split
from tinygrad_char.models.build import load_checkpoint
from tinygrad_char.models.config import TrainConfig
from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.generate import Sampling, generate
from tinygrad_char.models.gpt import GPTConfig
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.models.trainer import DivergedError, Trainer
from tinygrad_char.random import sampling_streams

TOKENS = np.random.default_rng(0).integers(0, 30, 400)
SPLIT = Split(TOKENS[:300], TOKENS[300:])
TOKENIZER = CharTokenizer("".join(map(chr, range(40, 70))))
CONFIG = TrainConfig(
    gpt=GPTConfig(8, 1, 2, 16, dropout=0.1, bias=True, activation="gelu", tied=True),
    batch_size=4,
    steps=20,
    warmup=2,
    eval_batches=1,
)
pytestmark = pytest.mark.usefixtures("on_cpu")


def trained(device, precision="float32", steps=5, **changes):
    notes = []
    config = replace(CONFIG, device=device, precision=precision, **changes)
    trainer = Trainer(config, TOKENIZER, SPLIT, note=notes.append)
    updates = [trainer.update() for _ in range(steps)]
    return trainer, [each.loss for each in updates], [each.norm for each in updates], notes


@pytest.mark.parametrize(
    ("precision", "losses_apart", "norms_apart"),
    # A product's operand is rounded by 2^-24, 2^-11 or 2^-8 of itself.
    [("float32", 2e-6, 2e-5), ("tf32", 1e-4, 5e-4), ("bf16", 1e-3, 5e-3)],
)
def test_recorded_training_is_that_of_the_cpu(precision, losses_apart, norms_apart):
    trainer, losses, norms, notes = trained("cuda-on-cpu", precision)
    reference, expected_losses, expected_norms, _ = trained("cpu")
    np.testing.assert_allclose(losses, expected_losses, rtol=losses_apart)
    np.testing.assert_allclose(norms, expected_norms, rtol=norms_apart)
    assert trainer.recorded.repeats
    assert trainer.generator.batches.get_state() == reference.generator.batches.get_state()
    assert notes == []
    assert reference.recorded is None
    assert all(each.dtype == np.float32 for each in trainer.model.parameters())
    assert trainer.evaluate()[1].nats == pytest.approx(
        reference.evaluate()[1].nats, rel=losses_apart
    )


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_training_with_atomic_additions_is_that_without(precision, on_cpu, monkeypatch):
    _, expected_losses, expected_norms, _ = trained("cuda-on-cpu", precision, steps=6)
    executor = on_cpu.device.launcher.executor
    run, names = executor.run, []
    monkeypatch.setattr(
        executor, "run", lambda launch: (names.append(launch.kernel.function), run(launch))
    )
    trainer, losses, norms, notes = trained("cuda-on-cpu", precision, steps=6, deterministic=False)
    assert trainer.recorded.repeats  # where sums begin at zero each time
    assert notes == []
    apart = 1e-6 if precision == "float32" else 1e-3  # what is added up is rounded but once
    np.testing.assert_allclose(losses, expected_losses, rtol=apart)
    np.testing.assert_allclose(norms, expected_norms, rtol=10 * apart)
    assert {"embedding_backward_atomic", "attention_backward_atomic"} <= set(names)
    assert not {"embedding_backward", "attention_backward_queries"} & set(names)
    names.clear()
    trained("cuda-on-cpu", precision, steps=1)  # another model, with settings of its own
    assert not {"embedding_backward_atomic", "attention_backward_atomic"} & set(names)


def test_activations_are_bfloat16_and_the_loss_is_not():
    trainer, *_ = trained("cuda-on-cpu", "bf16", steps=0)
    x, y = TOKENS[:8][None], TOKENS[1:9][None]
    logits, loss = trainer.model(x, y)
    assert logits.dtype.name == "bfloat16"
    assert loss.dtype == np.float32
    loss.backward()
    assert {each.grad.dtype.name for each in trainer.model.parameters()} == {"float32"}


def test_a_checkpoint_of_bfloat16_is_used_on_the_cpu_in_float32(tmp_path):
    trainer, *_ = trained("cuda-on-cpu", "bf16", steps=2)
    path = tmp_path / "last.safetensors"
    trainer.save(path, data={}, metrics=0)
    texts = []
    for device in ("cuda-on-cpu", "cpu"):
        loaded = load_checkpoint(path, device)
        assert loaded.model.low_precision == (device != "cpu")
        streams = sampling_streams(1, 1)
        written = generate(loaded.model, TOKENS[:3], 10, Sampling(temperature=0), streams)
        texts.append([int(each[0]) for each in written])
    assert texts[0][:3] == texts[1][:3]
    other = Trainer(replace(CONFIG, device="cuda-on-cpu", precision="bf16"), TOKENIZER, SPLIT)
    other.restore(load_checkpoint(path))
    assert [other.update() for _ in range(4)][-1] == [trainer.update() for _ in range(4)][-1]


def test_accumulated_batches_are_recorded_together():
    trainer, losses, norms, notes = trained("cuda-on-cpu", accumulate=2, shards=3)
    assert trainer.recorded.repeats
    assert notes == []
    _, expected_losses, expected_norms, _ = trained("cpu", accumulate=2, shards=1)
    np.testing.assert_allclose(losses, expected_losses, rtol=2e-6)
    np.testing.assert_allclose(norms, expected_norms, rtol=2e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_divergence_is_told_with_the_weights_as_they_were(accumulate):
    trainer, *_ = trained("cuda-on-cpu", steps=4, accumulate=accumulate)
    trainer.model.norm.weight.array[...] = np.inf
    before = trainer.optimizer.flat.get(), trainer.generator.get_state()
    with pytest.raises(DivergedError, match="the loss is nan at step 4: forward of layernorm"):
        trainer.update()
    np.testing.assert_array_equal(trainer.optimizer.flat.get(), before[0])
    assert trainer.generator.get_state() == before[1]


def test_tf32_is_for_cuda_devices():
    with pytest.raises(UsageError, match="precision tf32 is for CUDA devices; expected float32, b"):
        replace(CONFIG, precision="tf32")
    with pytest.raises(UsageError, match="precision is 'fp8'; expected one of float32, tf32, bf16"):
        replace(CONFIG, device="cuda", precision="fp8")


def test_bfloat16_needs_its_package(monkeypatch):
    backend.bfloat16.cache_clear()
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(DeviceError, match="pip install ml_dtypes"):
        backend.bfloat16()


def test_the_environment_chooses_the_device(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TINYGRAD_CHAR_DEVICE", "cuda-on-cpu")
    text = tmp_path / "text.txt"
    text.write_text("abc def\n" * 20)
    options = ["--block-size", "4", "--n-layer", "1", "--n-head", "1", "--n-embd", "16"]
    options += ["--steps", "4", "--batch-size", "1", "--eval-batches", "1", "--json"]
    arguments = ["train", "--data", str(text), "--out", str(tmp_path / "run"), *options]
    assert cli.run(arguments) == 0
    loaded = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert loaded.config.device == "cuda-on-cpu"
    assert cli.run(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("TINYGRAD_CHAR_DEVICE", "gpu")
    assert cli.run(["train"]) == 2
    assert (
        "TINYGRAD_CHAR_DEVICE='gpu' in the environment; expected one of cpu, cuda"
        in capsys.readouterr().err
    )
