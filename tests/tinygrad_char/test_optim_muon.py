"""Muon and MuonAdamW as optimizers: what they train, refuse, keep and repeat."""

import copy
import math
import pickle
import re

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import Tensor, nn, optim
from tinygrad_char import functional as F
from tinygrad_char.kernels import muon
from tinygrad_char.kernels.cpu.cores import one_core
from tinygrad_char.random import Generator
from tinygrad_char.training_step import TrainingStep

SHAPES = [(12, 4), (4, 4), (8, 4), (4, 8), (4, 4)]


def tensors(shapes=SHAPES, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [tg.Tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in shapes]


def give_gradients(parameters, seed=1, spoiled=None):
    """Give gradients of the normal distribution, with a NaN in that of one parameter."""
    rng = np.random.default_rng(seed)
    for number, each in enumerate(parameters):
        grad = rng.standard_normal(each.shape).astype(each.dtype)
        if number == spoiled:
            grad[0, 0] = np.nan
        each.grad = tg.Tensor(grad)


def muon_of(parameters):
    first, *rest = parameters
    return optim.Muon([{"params": [first], "splits": 3}, {"params": rest}], lr=0.1)


def both(parameters):
    """Return an optimizer in which the first three matrices are Muon's, and the others AdamW's."""
    first, second, third, *rest = parameters
    return optim.MuonAdamW(
        [
            {"params": rest, "lr": 0.01, "weight_decay": 0.1},
            {"params": [first], "muon": True, "splits": 3},
            {"params": [second, third], "muon": True, "weight_decay": 0.2},
        ],
        lr=0.1,
    )


MAKERS = {"Muon": muon_of, "MuonAdamW": both}
each_of_both = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def values(parameters):
    return [each.detach().numpy().copy() for each in parameters]


def assert_equal(one, other):
    for a, b in zip(values(one), values(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_are_those_of_the_same_formula_in_pytorch(dtype, nesterov):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    mine = tensors(dtype=dtype)
    theirs = [torch.tensor(each, dtype=torch.float64) for each in values(mine)]
    momenta = [torch.zeros_like(each) for each in theirs]
    first, *rest = mine
    optimizer = optim.Muon(
        [{"params": [first], "splits": 3}, {"params": rest}],
        lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.2,
    )  # fmt: skip
    for step in range(5):
        give_gradients(mine, seed=step)
        for number, (parameter, m) in enumerate(zip(theirs, momenta, strict=True)):
            g = torch.tensor(mine[number].grad.numpy(), dtype=torch.float64)
            m.lerp_(g, 0.1)
            u = torch.lerp(g, m, 0.9) if nesterov else m
            parameter *= 1 - 0.1 * 0.2
            for block, of_u in zip(
                parameter.chunk(3 if number == 0 else 1),
                u.chunk(3 if number == 0 else 1),
                strict=True,
            ):
                x = of_u / of_u.norm()
                for a, b, c in muon.COEFFICIENTS[3]:
                    square = x @ x.T
                    x = a * x + b * square @ x + c * square @ square @ x
                block -= 0.1 * max(1, block.shape[0] / block.shape[1]) ** 0.5 * x
        optimizer.step()
    for ours, exact in zip(values(mine), theirs, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, exact.numpy(), rtol=0, atol=5e3 * np.finfo(dtype).eps)


def test_adamws_groups_are_adamws_and_muons_are_muons():
    mine, theirs = tensors(), tensors()
    together = both(mine)
    alone = optim.AdamW(theirs[3:], lr=0.01, weight_decay=0.1)
    split = optim.Muon([{"params": theirs[:1], "splits": 3}], lr=0.1)
    whole = optim.Muon(theirs[1:3], lr=0.1, weight_decay=0.2)
    for step in range(4):
        for each in (mine, theirs):
            give_gradients(each, seed=step)
        for optimizer in (together, alone, split, whole):
            optimizer.step()
    assert_equal(mine, theirs)


def test_one_norm_of_all_gradients_clips_them_all():
    mine, theirs = tensors(), tensors()
    clipped, plain = both(mine), both(theirs)
    give_gradients(mine)
    norm = math.sqrt(sum(float((each.grad.numpy() ** 2).sum()) for each in mine))
    give_gradients(theirs)
    for each in theirs:
        each.grad.copy_(each.grad * float(1 / (norm + 1e-6)))
    assert clipped.step(max_norm=1.0) == pytest.approx(norm)
    plain.step()
    for one, other in zip(values(mine), values(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@each_of_both
def test_a_norm_that_is_not_finite_updates_nothing(make):
    parameters = tensors()
    optimizer = make(parameters)
    before = values(parameters)
    give_gradients(parameters, spoiled=1)
    assert math.isnan(optimizer.step(max_norm=1.0))
    for one, other in zip(before, values(parameters), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not any(each.any() for each in optimizer.state_dict().values())


@each_of_both
def test_without_a_norm_nan_stays_in_its_parameter(make):
    parameters = tensors()
    optimizer = make(parameters)
    give_gradients(parameters, spoiled=1)
    with np.errstate(invalid="ignore"):
        optimizer.step()
    assert [bool(np.isnan(each).any()) for each in values(parameters)] == [0, 1, 0, 0, 0]


@each_of_both
def test_gradients_of_zero_change_nothing_but_by_decay(make):
    parameters = tensors()
    optimizer = make(parameters)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    before = values(parameters)
    for each in parameters:
        each.grad = tg.zeros(each.shape)
    optimizer.step(max_norm=1.0)
    for one, other in zip(before, values(parameters), strict=True):
        np.testing.assert_array_equal(one, other)


@each_of_both
def test_what_has_no_gradient_or_is_frozen_stays_and_the_others_have_the_same_bits(make):
    mine, theirs = tensors(), tensors()
    some, every = make(mine), make(theirs)
    for parameters in (mine, theirs):
        give_gradients(parameters)
    mine[1].grad = None
    mine[4].requires_grad_(False)
    before = values(mine)
    some.step()
    every.step()
    for number, (one, other) in enumerate(zip(values(mine), values(theirs), strict=True)):
        np.testing.assert_array_equal(one, before[number] if number in (1, 4) else other)


@each_of_both
def test_what_was_frozen_from_the_start_is_taken_in(make):
    mine, theirs = tensors(), tensors()
    mine[0].requires_grad_(False)
    late, early = make(mine), make(theirs)
    assert len(late.parameters) == 4
    mine[0].requires_grad_(True)
    for step in range(2):
        for parameters in (mine, theirs):
            give_gradients(parameters, seed=step)
        late.step()
        early.step()
    assert_equal(mine, theirs)


@each_of_both
def test_a_state_goes_on_where_it_was(make):
    mine, theirs = tensors(), tensors()
    one, other = make(mine), make(theirs)
    for step in range(3):
        give_gradients(mine, seed=step)
        one.step()
    with tg.no_grad():
        for each, value in zip(theirs, values(mine), strict=True):
            each.copy_(tg.Tensor(value))
    other.load_state_dict({name: each.copy() for name, each in one.state_dict().items()})
    for parameters, optimizer in ((mine, one), (theirs, other)):
        give_gradients(parameters, seed=9)
        optimizer.step(max_norm=2.0)
    assert_equal(mine, theirs)


def test_muons_parameters_keep_no_mean_of_squares():
    parameters = tensors()
    state = both(parameters).state_dict()
    of_adamw = sum(each.size for each in parameters[3:])
    assert state["exp_avg_sq"].shape == (of_adamw,)
    assert state["exp_avg"].shape == (sum(each.size for each in parameters),)
    wrong = {**state, "exp_avg_sq": np.zeros(of_adamw + 1, np.float32)}
    with pytest.raises(ValueError, match=r"state 'exp_avg_sq' is float32 \(\d+,\), expected"):
        both(tensors()).load_state_dict(wrong)


def test_groups_that_are_added_later_keep_what_they_need():
    parameters, more = tensors(), tensors([(5,), (6, 6)], seed=7)
    optimizer = both(parameters)
    give_gradients(parameters)
    optimizer.step()
    before = {name: each.copy() for name, each in optimizer.state_dict().items()}
    optimizer.add_param_group({"params": more[:1], "lr": 0.01})
    optimizer.add_param_group({"params": more[1:], "muon": True})
    state = optimizer.state_dict()
    size = sum(each.size for each in parameters)
    assert state["exp_avg"].shape == (size + 41,)
    assert state["exp_avg_sq"].shape == (size + 5,)
    for name, each in before.items():
        np.testing.assert_array_equal(state[name][: each.size], each)
    start = values(more)
    give_gradients([*parameters, *more])
    optimizer.step()
    assert all((a != b).any() for a, b in zip(start, values(more), strict=True))


@each_of_both
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_alike(make, duplicate):
    mine = tensors()
    optimizer = make(mine)
    give_gradients(mine)
    optimizer.step()
    theirs, other = duplicate((mine, optimizer))
    for parameters, each in ((mine, optimizer), (theirs, other)):
        give_gradients(parameters, seed=5)
        each.step()
    assert_equal(mine, theirs)
    assert [dict(group)["splits"] for group in other.param_groups] == [
        group["splits"] for group in optimizer.param_groups
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.Muon(tensors([(3,)])), r"shape \(3,\) is no matrix; expected two axes"),
        (lambda: optim.Muon(tensors([(2, 2, 2)])), r"shape \(2, 2, 2\) is no matrix"),
        (lambda: optim.Muon(tensors([(4, 2)]), splits=3), r"\(4, 2\) cannot be cut in 3 matrices"),
        (lambda: optim.Muon(tensors(), splits=0), "splits=0, expected an integer of at least 1"),
        (lambda: optim.Muon(tensors(), splits=1.0), "splits=1.0, expected an integer"),
        (lambda: optim.Muon(tensors(), ns_steps=6), r"ns_steps=6, expected one of \[2, 3, 4, 5\]"),
        (lambda: optim.Muon(tensors(), ns_steps=3.0), "ns_steps=3.0, expected one of"),
        (lambda: optim.Muon(tensors(), momentum=1.0), r"momentum has 1.0, expected .* \[0, 1\)"),
        (lambda: optim.Muon(tensors(), lr=-1), "lr=-1, expected a finite number"),
        (lambda: optim.Muon(tensors(), weight_decay=-1), "weight_decay=-1, expected"),
        (lambda: optim.Muon([{"params": tensors(), "muon": True}]), "unknown group option 'muon'"),
        (
            lambda: optim.MuonAdamW([{"params": tensors([(3,)]), "muon": True}]),
            r"MuonAdamW: a parameter of shape \(3,\) is no matrix",
        ),
        (
            lambda: optim.MuonAdamW([{"params": tensors(), "muon": 1}]),
            "MuonAdamW: muon=1, expected True or False",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("name", "value"), [("muon", False), ("splits", 1)])
def test_options_that_decide_about_the_layout_stay(name, value):
    optimizer = both(tensors())
    with pytest.raises(ValueError, match=rf"MuonAdamW: '{name}' of a group stays"):
        optimizer.param_groups[1][name] = value
    optimizer.param_groups[1]["ns_steps"] = 2
    optimizer.param_groups[1]["splits"] = 3


def test_a_group_that_is_no_matrix_is_not_added():
    optimizer = muon_of(tensors())
    with pytest.raises(ValueError, match="is no matrix"):
        optimizer.add_param_group({"params": tensors([(3,)])})
    assert len(optimizer.param_groups) == 2


def test_empty_matrices_are_left_alone():
    parameters = tensors([(0, 4), (3, 0), (3, 4)])
    optimizer = optim.Muon(parameters, lr=0.1)
    give_gradients(parameters)
    before = values(parameters)[2]
    optimizer.step()
    assert (values(parameters)[2] != before).all()


def test_an_empty_neighbour_of_another_group_is_none_of_muons():
    empty = Tensor(np.zeros(0, np.float32), requires_grad=True)
    vector, matrix = (
        Tensor(np.ones(shape, np.float32), requires_grad=True) for shape in ((3,), (2, 3))
    )
    optimizer = optim.MuonAdamW(
        [{"params": [vector, empty]}, {"params": [matrix], "muon": True}], lr=0.1
    )
    for each in (vector, empty, matrix):
        each.grad = Tensor(np.ones(each.shape, np.float32))
    optimizer.step()
    assert (matrix.detach().numpy() != 1).all()


@pytest.mark.parametrize("value", [None, "no", np.True_])
def test_a_nesterov_that_is_neither_true_nor_false_is_refused(value):
    with pytest.raises(ValueError, match=f"nesterov={re.escape(repr(value))}, expected True"):
        optim.Muon([Tensor(np.ones((2, 2)), requires_grad=True)], nesterov=value)


def test_bits_do_not_depend_on_threads():
    shapes = [(96, 32), (32, 32), (128, 32), (32, 128)] * 6  # enough to be worth threads
    results = []
    for alone in (False, True):
        parameters = tensors(shapes)
        optimizer = optim.Muon(parameters, lr=0.1)
        give_gradients(parameters)
        if alone:
            with one_core():
                optimizer.step()
        else:
            optimizer.step()
        results.append(parameters)
    assert_equal(*results)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        generator = Generator(0)
        self.expand = nn.Linear(6, 18, generator=generator)
        self.contract = nn.Linear(18, 3, generator=generator)

    def forward(self, x):
        return self.contract(F.relu(self.expand(x)))


def trained(device, steps, recorded):
    """Return the weights, losses and norms of some steps, and the step that made them."""
    model = Net().to(device)
    optimizer = optim.MuonAdamW(
        [
            {"params": [model.expand.bias, model.contract.bias], "weight_decay": 0.1},
            {"params": [model.expand.weight], "muon": True, "splits": 3, "lr": 0.02},
            {"params": [model.contract.weight], "muon": True, "weight_decay": 0.1, "lr": 0.02},
        ],
        lr=0.01,
    )
    step = TrainingStep(
        lambda x, y: F.cross_entropy(model(x), y), optimizer, Generator(0).dropout, max_norm=0.5
    )
    if not recorded:
        step.reason = "not wanted"
    rng = np.random.default_rng(3)
    results = []
    for number in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * 0.9
        scale = np.inf if number == 5 else 1.0  # a step that changes nothing
        x = (rng.standard_normal((8, 6)) * scale).astype(np.float32)
        with np.errstate(invalid="ignore"):
            results.append(step(x, rng.integers(0, 3, 8)))
    weights = [each.detach().to("cpu").numpy() for each in model.parameters()]
    return weights, results, optimizer, step


def test_a_recorded_step_has_the_bits_of_the_tape():
    weights, results, optimizer, step = trained("cuda-on-cpu", 9, True)
    assert step.reason is None
    assert step.repeats
    others, expected, other, _ = trained("cuda-on-cpu", 9, False)
    losses, norms = zip(*results, strict=True)
    np.testing.assert_array_equal(losses, [each.loss for each in expected])
    np.testing.assert_allclose(norms, [each.norm for each in expected], rtol=1e-14)
    for one, another in zip(weights, others, strict=True):
        np.testing.assert_array_equal(one, another)
    np.testing.assert_array_equal(optimizer.updates, other.updates)
    for name, each in optimizer.state_dict().items():
        np.testing.assert_array_equal(each, other.state_dict()[name])


def test_devices_agree():
    weights = [trained(device, 4, False)[0] for device in ("cpu", "cuda-on-cpu")]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)


def test_training_reaches_the_minimum():
    rng = np.random.default_rng(0)
    target = tg.Tensor(rng.standard_normal((6, 4)))
    weight = tg.Tensor(np.zeros((6, 4)), requires_grad=True)
    optimizer = optim.Muon([weight], lr=0.1)
    for step in range(200):
        optimizer.set_lr(0.1 * (1 - step / 200))
        optimizer.zero_grad()
        loss = ((weight - target) ** 2).sum()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3
