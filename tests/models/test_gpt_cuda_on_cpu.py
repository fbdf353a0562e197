"""A GPT trained through the CUDA kernels, executed on the CPU, is the one of the CPU engine."""

import numpy as np
import pytest

from tinygrad_char.kernels.backend import CPU
from tinygrad_char.kernels.cuda_on_cpu.runner import CpuExecutor
from tinygrad_char.kernels.devices import get_backend
from tinygrad_char.kernels.operations import using
from tinygrad_char.models.gpt import GPT, GPTConfig
from tinygrad_char.optim import AdamW, decay_groups
from tinygrad_char.random import Generator

VOCABULARY = 29


def train(device, steps, config, batch=3, length=13):
    """Return losses, norms, the last step's gradients and the weights, by name."""
    generator = Generator(7)
    model = GPT(config, VOCABULARY, generator=generator).to(device)
    optimizer = AdamW(decay_groups(model.parameters(), 0.1), lr=1e-2)
    rng = np.random.default_rng(0)
    losses, norms = [], []
    for _ in range(steps):
        x, y = rng.integers(0, VOCABULARY, (2, batch, length))
        optimizer.zero_grad()
        loss = model(x, y)[1]
        loss.backward()
        assert loss.device == device
        losses.append(loss.item())
        norms.append(optimizer.step(max_norm=0.5))
    to_numpy = get_backend(device).to_numpy
    grads = {name: to_numpy(each.grad.array) for name, each in model.named_parameters()}
    weights = {name: to_numpy(each.array) for name, each in model.state_dict().items()}
    return losses, norms, grads, weights


@pytest.mark.parametrize(
    "config",
    [
        GPTConfig(16, 2, 2, 32, dropout=0.2, bias=False, tied=True),
        GPTConfig(13, 1, 3, 48, dropout=0.1, bias=True, activation="gelu"),
    ],
)
def test_training_is_that_of_the_cpu_to_rounding(on_cpu, config):
    ours, theirs = train("cuda-on-cpu", 4, config), train("cpu", 4, config)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=2e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=2e-5)
    # As a whole, since AdamW makes much of the rounding in single gradients that are nearly zero.
    for mine, expected in zip(ours[2:], theirs[2:], strict=True):
        assert mine.keys() == expected.keys()
        for name, array in expected.items():
            error = np.linalg.norm(mine[name] - array) / np.linalg.norm(array)
            assert error <= 5e-6, f"{name}: {error:.3g}"


@pytest.mark.parametrize("atomics", [False, True])
def test_a_step_passes_the_runners_checks(on_cpu, monkeypatch, atomics):
    executor = on_cpu.device.launcher.executor
    monkeypatch.setattr(executor, "executor", CpuExecutor("check"))
    config = GPTConfig(8, 1, 2, 16, dropout=0.2, bias=True, activation="gelu_tanh")
    with using(atomics=atomics):
        (loss,), (norm,), _, _ = train("cuda-on-cpu", 1, config, batch=1, length=7)
    monkeypatch.undo()
    (expected,), (expected_norm,), _, _ = train("cpu", 1, config, batch=1, length=7)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert norm == pytest.approx(expected_norm, rel=1e-5)


def test_evaluation_and_generation_run_there(on_cpu):
    from tinygrad_char.models.evaluate import whole_split_loss
    from tinygrad_char.models.generate import Sampling, generate
    from tinygrad_char.random import sampling_streams

    config = GPTConfig(8, 1, 2, 16)
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, 50)
    results = []
    for device in ("cpu", "cuda-on-cpu"):
        model = GPT(config, VOCABULARY, generator=Generator(3)).to(device)
        loss = whole_split_loss(model, tokens).nats
        text = generate(model, tokens[:3], 12, Sampling(0.8, top_k=5), sampling_streams(1, 2))
        results.append((loss, [each.tolist() for each in text]))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    assert results[1][1] == results[0][1]
    assert CPU.name == "cpu"
