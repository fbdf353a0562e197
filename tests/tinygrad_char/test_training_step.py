"""Training steps that are recorded once and repeated are those that are computed each time."""

import math

import numpy as np
import pytest

from tinygrad_char import Tensor, detect_nonfinite
from tinygrad_char import functional as F
from tinygrad_char.kernels.backend import DeviceError
from tinygrad_char.kernels.devices import get_backend
from tinygrad_char.models.gpt import GPT, GPTConfig
from tinygrad_char.nn import BatchNorm1d, LayerNorm, Linear, Sequential
from tinygrad_char.optim import SGD, AdamW, decay_groups
from tinygrad_char.random import Generator
from tinygrad_char.step import Inputs, Step
from tinygrad_char.training_step import TrainingStep

DEVICE = "cuda-on-cpu"


@pytest.fixture(autouse=True)
def on_cpu():
    try:
        return get_backend(DEVICE)
    except DeviceError as error:
        pytest.skip(str(error))


def test_what_else_changes_between_repetitions_is_recorded_anew():
    run, other = Run(), Run(eager=True)
    weight = [each.model.blocks[0].feed_forward.expand.weight for each in (run, other)]
    for change in (
        lambda each, w: None,
        lambda each, w: each.optimizer.param_groups[0].update(weight_decay=0.5),
        lambda each, w: w.requires_grad_(False),
        lambda each, w: w.requires_grad_(True),
    ):
        for each, w in zip((run, other), weight, strict=True):
            change(each, w)
        before = [w.cpu().tolist() for w in weight]
        results, expected = run.make(5), other.make(5)
        assert_same(run, other, results, expected)
        moved = [w.cpu().tolist() != was for w, was in zip(weight, before, strict=True)]
        assert moved == [weight[0].requires_grad] * 2
        if len(run.notes) == 0:
            assert run.step.repeats
    assert ["is frozen" in note for note in run.notes] == [True]


def test_what_is_frozen_from_the_start_is_repeated_and_taken_in_when_it_trains():
    run, other = Run(frozen=True), Run(frozen=True, eager=True)
    assert_same(run, other, run.make(5), other.make(5))
    assert run.step.repeats
    sizes = [each.optimizer.flat.size for each in (run, other)]
    for each in (run, other):
        each.model.requires_grad_()
    assert_same(run, other, run.make(6), other.make(6))
    assert ["different numbers of updates" in note for note in run.notes] == [True]
    assert all(
        each.optimizer.flat.size > size for each, size in zip((run, other), sizes, strict=True)
    )


class Run:
    """A small GPT in training, with dropout, two groups, clipping and a changing rate."""

    def __init__(self, eager=False, length=7, dtype="=i8", frozen=False, **changes):
        self.generator, self.length, self.dtype = Generator(5), length, dtype
        options = {"dropout": 0.25, "bias": True, "tied": True}
        config = GPTConfig(8, 1, 2, 16, **{**options, **changes})
        self.model = GPT(config, 11, generator=self.generator).to(DEVICE)
        if frozen:
            self.model.blocks[0].requires_grad_(False)
        self.optimizer = AdamW(decay_groups(self.model.parameters(), 0.1))
        self.notes = []
        self.step = TrainingStep(
            lambda x, y: self.model(x, y)[1],
            self.optimizer,
            self.generator.dropout,
            max_norm=0.5,
            note=self.notes.append,
        )
        if eager:
            self.step.reason = "the test asks for it"
        self.rng = np.random.default_rng(0)

    def make(self, steps, batch=2, count=1):
        results = []
        for number in range(steps):
            self.optimizer.set_lr(1e-2 / (number + 1))
            batches = [
                tuple(self.rng.integers(0, 11, (2, batch, self.length)).astype(self.dtype))
                for _ in range(count)
            ]
            alone = count == 1
            results.append(self.step(*batches[0]) if alone else self.step.accumulated(batches))
        return results

    def weights(self):
        return self.optimizer.flat.get()


def assert_same(run, other, results, expected):
    for field in range(2):
        np.testing.assert_allclose(
            [each[field] for each in results], [each[field] for each in expected], rtol=1e-5
        )
    np.testing.assert_allclose(run.weights(), other.weights(), rtol=1e-5, atol=1e-6)
    assert run.generator.get_state() == other.generator.get_state()
    np.testing.assert_array_equal(run.optimizer.updates, other.optimizer.updates)


@pytest.mark.parametrize("length", [7, 8])  # within the context, and all of it
@pytest.mark.parametrize("changes", [{}, {"bias": False}, {"tied": False}])
def test_repetitions_are_the_steps_that_are_computed_each_time(length, changes):
    recorded = Run(length=length, **changes)
    computed = Run(eager=True, length=length, **changes)
    results, expected = recorded.make(6), computed.make(6)
    assert recorded.step.repeats
    assert recorded.notes == []
    assert not computed.step.repeats
    assert_same(recorded, computed, results, expected)
    masks = {round(each.loss, 4) for each in results}
    assert len(masks) == 6


def test_batches_in_the_other_byte_order_are_the_same_numbers():
    recorded, computed = Run(dtype=">i8"), Run(eager=True)
    results, expected = recorded.make(6), computed.make(6)
    assert recorded.step.repeats
    assert_same(recorded, computed, results, expected)


def test_a_repetition_launches_nothing_from_python(monkeypatch):
    run = Run()
    run.make(4)
    monkeypatch.setattr(run.step, "loss", None)
    monkeypatch.setattr(run.optimizer, "zero_grad", None)
    before = run.weights()
    run.make(1)
    assert not np.array_equal(run.weights(), before)


def test_others_may_work_while_a_repetition_does_and_before_its_results_are_read(monkeypatch):
    run, seen = Run(), []
    batch = tuple(run.rng.integers(0, 11, (2, 2, 7)))
    for number in range(6):
        batch[0][0, 0] = number
        run.step.accumulated([batch], meanwhile=lambda: seen.append(run.optimizer.updates[0]))
    assert seen == [4, 5]  # the fourth call compares


def test_what_fails_meanwhile_does_not_undo_the_update():
    run, other = Run(), Run()
    results, expected = run.make(4), other.make(5)

    def fail():
        raise KeyboardInterrupt

    run.optimizer.set_lr(1e-2 / 5)
    with pytest.raises(KeyboardInterrupt):
        run.step.accumulated([tuple(run.rng.integers(0, 11, (2, 2, 7)))], meanwhile=fail)
    assert_same(run, other, results, expected[:4])


def test_the_recorded_step_reads_its_logits_once(on_cpu, monkeypatch):
    run, names = Run(), []
    run.make(2)
    executor = on_cpu.device.launcher.executor
    record = executor.run
    monkeypatch.setattr(
        executor, "run", lambda launch: (names.append(launch.kernel.function), record(launch))
    )
    run.make(1)
    assert run.notes == []
    assert [each for each in names if each.startswith("cross_entropy")] == [
        *("cross_entropy_share", "cross_entropy_one_pass", "cross_entropy_reduce"),
        "cross_entropy_rescale",
    ]


def test_a_target_that_is_no_class_changes_nothing_in_a_repetition():
    run = Run()
    run.make(4)
    before = run.weights()
    x, y = run.rng.integers(0, 11, (2, 2, 7))
    y[0, 3] = 11
    result = run.step(x, y)
    assert math.isnan(result.loss)
    assert math.isnan(result.norm)
    np.testing.assert_array_equal(run.weights(), before)


def test_a_state_that_is_restored_is_gone_on_from():
    run, other = Run(), Run()
    run.make(4)
    saved = run.generator.get_state(), run.weights(), run.optimizer.state_dict()
    saved = saved[0], saved[1], {name: each.copy() for name, each in saved[2].items()}
    batches = run.rng.bit_generator.state
    expected = run.make(3)
    other.make(5)
    other.generator.set_state(saved[0])
    other.optimizer.flat.set(saved[1])
    other.optimizer.load_state_dict(saved[2])
    other.rng.bit_generator.state = batches
    assert other.make(3) == expected


def test_what_changes_between_repetitions_is_seen():
    run, other = Run(), Run(eager=True)
    assert_same(run, other, run.make(4), other.make(4))
    for each in (run, other):
        each.optimizer.flat[...] *= np.float32(0.5)
    assert_same(run, other, run.make(2), other.make(2))


def test_another_shape_of_batch_is_recorded_anew():
    run, other = Run(), Run(eager=True)
    results = run.make(4) + run.make(1, batch=3)
    assert not run.step.repeats
    results += run.make(2, batch=3)
    assert run.step.repeats
    assert_same(run, other, results, other.make(4) + other.make(1, batch=3) + other.make(2, 3))


def test_several_batches_are_recorded_as_one_update():
    run, other = Run(), Run(eager=True)
    results, expected = run.make(5, count=3), other.make(5, count=3)
    assert run.step.repeats
    assert run.notes == []
    assert_same(run, other, results, expected)
    assert set(run.optimizer.updates.tolist()) == {5}
    results = run.make(1, count=2)
    assert not run.step.repeats
    results += run.make(3, count=2)
    assert run.step.repeats
    assert_same(run, other, results, other.make(1, count=2) + other.make(3, count=2))


def test_several_batches_are_as_one_that_holds_them_all():
    run, other = Run(), Run()
    for each in (run, other):
        each.model.eval()  # without dropout, whose masks depend on how a batch is cut
    together = other.make(4, batch=6)
    for number, expected in enumerate(together):
        run.optimizer.set_lr(1e-2 / (number + 1))
        x, y = run.rng.integers(0, 11, (2, 6, 7))
        found = run.step.accumulated([(x[i : i + 2], y[i : i + 2]) for i in (0, 2, 4)])
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_gradients_that_are_not_finite_change_nothing_and_are_not_counted():
    run = Run()
    run.make(4)
    weights = run.weights()
    run.model.norm.weight.array[...] = np.inf
    before = run.weights()
    (result,) = run.make(1)
    assert not math.isfinite(result.norm)
    np.testing.assert_array_equal(run.weights(), before)
    assert set(run.optimizer.updates.tolist()) == {4}
    run.optimizer.flat.set(weights)
    assert math.isfinite(run.make(1)[0].norm)
    assert set(run.optimizer.updates.tolist()) == {5}


def test_detecting_what_is_not_finite_computes_each_operation():
    run, other = Run(), Run(eager=True)
    results = run.make(4)
    with detect_nonfinite():
        results += run.make(1)
    results += run.make(1)
    assert_same(run, other, results, other.make(4) + other.make(1) + other.make(1))


def linear_step(loss, optimizer=AdamW, device=DEVICE, parameters=None):
    generator = Generator(0)
    model = Linear(3, 2, generator=generator).to(device)
    notes = []
    chosen = optimizer(parameters(model) if parameters else model.parameters(), lr=0.1)
    step = TrainingStep(lambda x: loss(model, x), chosen, generator.dropout, note=notes.append)
    return model, step, notes


X = np.ones((4, 3), np.float32)


def penalty(model, x):
    """Its gradient reaches the weight first, since it is computed last."""
    return (model(x * model.bias.sum()) ** 2).sum() + (model.weight * model.weight).sum()


def viewed(model, x):
    weight = model.weight.reshape(model.weight.shape)
    return (F.linear(x, weight, model.bias) ** 2).sum() + (F.linear(x, model.weight) ** 2).sum()


def chained(model, x):
    """What lies between the products is theirs alone."""
    return (F.linear(F.linear(x, model.weight), model.weight.T, None) ** 2).sum() + model.bias.sum()


def normalised(model, x):
    weight = model.weight[0] * 1 + 1
    return (F.layer_norm(model(x) @ model.weight, weight) ** 2).sum() + (weight * weight).sum()


def changed_in_place(model, x):
    y = model(x)
    y += x.sum()
    y[0] *= model.bias[0]
    y.T[1:] -= y[:, 0]
    total = y[:1] * 0
    total[0] = y[1]
    total *= y[2]
    return (y * y).sum() + total.sum()


def accumulated_in_place(model, x):
    y = model(x)
    total = y.detach()[0] * 0
    for row in y:
        total += row * row
    return total.sum()


@pytest.mark.parametrize(
    "loss", [penalty, viewed, chained, normalised, changed_in_place, accumulated_in_place]
)
def test_weights_that_are_used_in_several_ways_have_the_gradients_of_all(loss):
    def steps(reason):
        _, step, _ = linear_step(lambda model, x: loss(model, x))
        step.reason = reason
        rng = np.random.default_rng(0)
        results = [step(rng.standard_normal((4, 3), np.float32)) for _ in range(6)]
        assert step.repeats == (reason is None)
        return results, step.optimizer.flat.get()

    (found, weights), (expected, others) = steps(None), steps("the test asks for it")
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(weights, others, rtol=1e-4, atol=1e-6)


def test_a_penalty_on_a_weight_of_layernorm_is_not_lost():
    def steps(reason):
        generator = Generator(0)
        model = LayerNorm(3, bias=False).to(DEVICE)
        optimizer = AdamW(model.parameters(), lr=0.1)

        def loss(x):
            return (model(x) ** 3).sum() + 0.1 * (model.weight * model.weight).sum()

        step = TrainingStep(loss, optimizer, generator.dropout)
        step.reason = reason
        rng = np.random.default_rng(0)
        return [step(rng.standard_normal((4, 3), np.float32)) for _ in range(5)]

    np.testing.assert_allclose(steps(None), steps("the test asks for it"), rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"device": "cpu"}, "device 'cpu' records no updates"),
        ({"optimizer": SGD}, "SGD has no update that can be recorded"),
        (
            {"parameters": lambda model: model.astype(np.float64).parameters()},
            "parameters are float64, not float32",
        ),
        ({"parameters": lambda model: [*model.parameters(), unused()]}, "has no gradient"),
        ({"loss": lambda model, x: stop_at(model(x).sum())}, "RuntimeError: a value .* be read"),
    ],
)
def test_what_cannot_be_recorded_is_computed_and_the_reason_noted(options, reason):
    def loss(model, x):
        return model(x.astype(model.weight.dtype)).sum()

    _, step, notes = linear_step(**{"loss": loss, **options})
    losses = [step(X).loss for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 5
    assert not step.repeats
    assert len(notes) == 1
    assert notes[0].startswith("each operation is launched by itself, not as one graph: ")
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(step.reason)
    assert set(step.optimizer.updates.tolist()) <= {0, 5}


def unused():
    return Tensor(np.ones(2, np.float32), device=DEVICE, requires_grad=True)


def stop_at(loss):
    return loss if loss.item() < 1e6 else None


def test_hooks_are_called_each_time():
    model, step, notes = linear_step(lambda model, x: model(x).sum())
    seen = []
    model.weight.register_hook(lambda grad: seen.append(1))
    for _ in range(4):
        step(X)
    assert len(seen) == 4
    assert "has hooks" in notes[0]


def normalised_batches(step):
    rng = np.random.default_rng(5)
    return [step(rng.standard_normal((6, 3), np.float32), rng.integers(0, 2, 6)) for _ in range(8)]


def test_what_a_model_changes_besides_is_changed_once_a_step():
    states = []
    for reason in (None, "the test asks for it"):
        generator = Generator(0)
        model = Sequential(
            Linear(3, 4, generator=generator), BatchNorm1d(4), Linear(4, 2, generator=generator)
        ).to(DEVICE)
        step = TrainingStep(
            lambda x, y, model=model: F.cross_entropy(model(x), y),
            AdamW(model.parameters(), lr=0.1),
            generator.dropout,
        )
        step.reason = reason
        results = normalised_batches(step)
        assert step.repeats == (reason is None)
        states.append((results, {k: v.cpu().numpy() for k, v in model.state_dict().items()}))
    (found, state), (expected, other) = states
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert state["1.num_batches_tracked"] == 8
    for name, array in other.items():
        np.testing.assert_allclose(state[name], array, rtol=1e-4, atol=1e-5)


def test_hooks_of_results_are_called_each_time():
    seen = []

    def loss(model, x):
        y = model(x)
        y.register_hook(lambda grad: seen.append(grad.shape))
        return y.sum()

    _, step, notes = linear_step(loss)
    for number in range(8):
        step(X + np.float32(number))
    assert not step.repeats
    assert "has hooks" in notes[0]
    assert len(seen) >= 8


def test_gradients_may_be_cleared_between_steps():
    run = Run()
    for _ in range(6):
        run.make(1)
        run.optimizer.zero_grad()
    assert run.step.repeats


def test_a_graph_that_gives_other_results_changes_nothing():
    runs = Run(), Run(eager=True)
    results = []
    for run in runs:
        run.make(2)
        calls = []

        def loss(x, y, model=run.model, calls=calls):
            calls.append(None)
            return model(x, y)[1] * float(len(calls))  # which a recording keeps

        run.step.loss = loss
        results.append(run.make(2))  # of which the first records, and the second compares
    run, other = runs
    assert "gave other results" in run.notes[0]
    assert not run.step.repeats
    assert_same(run, other, *results)
    # of twice the loss, where the graph's were of the loss itself
    norm = np.linalg.norm(run.optimizer.flat_grad.get())
    assert norm == pytest.approx(results[0][-1].norm, rel=1e-5)


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ([1, 2], [1, 2], True),
        ([1, 2.0001], [1, 2], True),
        ([1, 2.1], [1, 2], False),
        ([np.nan, 1], [3, 1], False),
        ([np.nan, 1], [np.nan, 1], True),
        ([np.inf, 1], [1, 1], False),
        ([[1, 2]], [1, 2], False),
    ],
)
def test_sums_in_any_order_are_close(on_cpu, found, expected, same):
    step = Step(on_cpu, list, Inputs(on_cpu, []), [], exact=False)
    assert step._equal(np.array(found, np.float32), np.array(expected, np.float32)) == same
