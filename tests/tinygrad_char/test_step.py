"""Steps that all run on the tape: whatever is put into a backward pass is met at each of them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import functional as F
from tinygrad_char import nn, using
from tinygrad_char.kernels.backend import CPU, DeviceError
from tinygrad_char.kernels.devices import get_backend
from tinygrad_char.ops.neural import LayerNorm
from tinygrad_char.optim import AdamW
from tinygrad_char.parallel import Workers
from tinygrad_char.random import Generator
from tinygrad_char.repeated import RepeatedCall, RepeatedLoss
from tinygrad_char.step import describe_step, stepping, why_on_tape
from tinygrad_char.training_step import TrainingStep

BATCHES = [tuple(np.random.default_rng(i).integers(0, 5, (2, 4))) for i in range(12)]
ARRAYS = [np.random.default_rng(i).standard_normal((4, 3)).astype(np.float32) for i in range(9)]
LAST = 4
needs_c = pytest.mark.skipif(CPU.why_not_recorded is not None, reason="nothing is recorded")


@pytest.fixture
def met(monkeypatch):
    """Return a list that a backward pass, patched as one would for a print, adds to."""
    seen = []
    before = LayerNorm.backward

    def backward(self, grad):
        seen.append(grad.shape)
        return before(self, grad)

    def forward(self, *arguments, forward=LayerNorm.forward, **options):
        seen.append("forward")
        return forward(self, *arguments, **options)

    monkeypatch.setattr(LayerNorm, "backward", backward)
    monkeypatch.setattr(LayerNorm, "forward", forward)
    return seen


def traced():
    generator = Generator(0)
    model = nn.Sequential(
        nn.Embedding(5, 3, generator=generator),
        nn.LayerNorm(3),
        nn.Linear(3, 5, generator=generator),
    )
    leaves = list(model.parameters())
    return RepeatedLoss(
        lambda batch: F.cross_entropy(model(batch[0]), batch[1]), leaves, generator.dropout
    )


def run(loss, batches):
    return [loss.gradients(batch, 1.0) for batch in batches]


@needs_c
def test_a_backward_pass_is_met_at_every_step_on_the_tape_alone(met):
    with stepping("tape"):
        found = run(traced(), BATCHES)
    assert met == ["forward", (4, 3)] * len(BATCHES)
    loss = traced()
    expected = run(loss, BATCHES[:-LAST])
    del met[:]
    expected += run(loss, BATCHES[-LAST:])
    assert met == []
    for one, other in zip(found, expected, strict=True):
        assert one[0] == other[0]
        for a, b in zip(one[1], other[1], strict=True):
            np.testing.assert_array_equal(a, b)


@needs_c
def test_what_was_recorded_before_is_not_repeated_then_and_is_afterwards(met):
    loss = traced()
    run(loss, BATCHES)
    del met[:]
    with stepping("tape"):
        run(loss, BATCHES[:3])
        assert met == ["forward", (4, 3)] * 3
        with stepping("recorded"):
            run(loss, BATCHES)
    run(loss, BATCHES)
    assert len(met) == 6
    assert loss.reason is None


def test_it_ends_with_the_context_after_an_exception_too():
    with pytest.raises(KeyError), stepping("tape"):
        raise KeyError
    assert why_on_tape(CPU) is None


def test_another_way_is_refused():
    expected = pytest.raises(ValueError, match="way='slow', expected one of recorded, tape")
    with expected, stepping("slow"):
        pytest.fail("it was taken")


def test_it_reaches_the_threads_of_workers(met):
    loss = traced()
    with stepping("tape"):
        for _ in range(4):
            found = list(Workers(2).map(lambda each: loss.gradients(each, 1.0)[0], BATCHES[:4]))
    assert len(met) == 2 * 4 * 4
    assert found == [loss.gradients(each, 1.0)[0] for each in BATCHES[:4]]


def test_a_call_runs_on_the_tape_every_time(met):
    call = RepeatedCall(lambda x: F.layer_norm(x) * 2)
    with stepping("tape"):
        for array in ARRAYS:
            call(array)
    assert met == ["forward"] * len(ARRAYS)


def test_a_device_captures_nothing_then(met):
    try:
        get_backend("cuda-on-cpu")
    except DeviceError as error:
        pytest.skip(str(error))
    model = nn.LayerNorm(3).to("cuda-on-cpu")
    step = TrainingStep(
        lambda x: (model(x) ** 2).sum(), AdamW(model.parameters()), Generator(0).dropout
    )
    with stepping("tape"):
        for array in ARRAYS[:6]:
            step(array)
    assert met == ["forward", (4, 3)] * 6
    assert not step.repeats
    for array in ARRAYS[:6]:
        step(array)
    assert step.repeats
    with using(layernorm="reference"):
        before = len(met)
        step(array)  # on another version it is no repetition
        assert len(met) > before


def test_steps_are_described():
    with stepping("tape"):
        assert describe_step(CPU) == "each on the tape: --step tape"
    with using(layernorm="loops"):
        assert describe_step(CPU) == (
            "each on the tape: layernorm=loops is Python code, which nothing records"
        )
    assert describe_step(CPU).startswith(("recorded", "each on the tape: the kernels"))
    with using(dict.fromkeys(("attention", "softmax", "residual", "layernorm"), "reference")):
        assert "..." in describe_step(CPU) or "not there" in describe_step(CPU)


PROGRAM = """
from test_step import BATCHES, LayerNorm, run, traced
before = LayerNorm.backward
LayerNorm.backward = lambda self, grad: print("met") or before(self, grad)
loss = traced()
run(loss, BATCHES[:-4])
print("last")
run(loss, BATCHES[-4:])
"""


@pytest.mark.parametrize("way", ["tape", pytest.param("", marks=needs_c)])
def test_the_environment_asks_for_it(way, monkeypatch):
    monkeypatch.setenv("TINYGRAD_CHAR_STEP", way)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.partition("last\n")[2] == ("met\n" * 4 if way == "tape" else "")


def test_detecting_and_hooks_still_ask_for_the_tape():
    with tg.detect_nonfinite():
        assert why_on_tape(CPU) == "detect_nonfinite looks at every operation"
