import copy
import math
import pickle

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import nn, optim
from tinygrad_char.random import Generator

SHAPES = [(3, 4), (5,), (), (2, 1, 3), (1,)]
DTYPES = [np.float32, np.float64]


def parameters(dtype=np.float64, seed=0, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return [tg.Tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in shapes]


def give_gradients(tensors, rng, scale=1.0):
    for each in tensors:
        each.grad = tg.Tensor((rng.standard_normal(each.shape) * scale).astype(each.dtype))


MAKERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "SGD with momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "SGD with Nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: optim.Adam(p, lr=0.1, weight_decay=0.1),
    "AdamW": lambda p: optim.AdamW(p, lr=0.1),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.1, weight_decay=0.1),
    "RMSprop, centered": lambda p: optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
}
every_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def torch_makers(torch):
    return {
        "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
        "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        "SGD with Nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        "Adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
        "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
        "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1, weight_decay=0.1),
        "RMSprop, centered": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
    }


class TestParity:
    """The same parameters and gradients in PyTorch's optimizers of the same names."""

    STEPS = 60

    @pytest.fixture(autouse=True)
    def _torch(self):
        self.torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    def run(self, ours, theirs, dtype, *, lacking=lambda step, position: False, max_norm=None):
        """Make the same steps with both; return our parameters' errors, and allowed ones.

        The truth is PyTorch's run in float64; the errors allowed are those of PyTorch in `dtype`.
        """
        torch = self.torch
        start = [each.numpy() for each in map(tg.Tensor.detach, parameters(dtype))]
        mine = parameters(dtype)
        other = [torch.tensor(each, requires_grad=True) for each in start]
        exact = [torch.tensor(each.astype(np.float64), requires_grad=True) for each in start]
        runs = [(mine, ours(mine)), (other, theirs(other)), (exact, theirs(exact))]
        rng = np.random.default_rng(1)
        for step in range(self.STEPS):
            norms = []
            for _, optimizer in runs:
                optimizer.zero_grad()
            for position, values in enumerate(start):
                gradient = (rng.standard_normal(values.shape) * 3).astype(dtype)
                if lacking(step, position):
                    continue
                mine[position].grad = tg.Tensor(gradient)
                other[position].grad = torch.tensor(gradient)
                exact[position].grad = torch.tensor(gradient.astype(np.float64))
            for tensors, optimizer in runs:
                if max_norm is None:
                    optimizer.step()
                elif tensors is mine:
                    norms.append(optimizer.step(max_norm=max_norm))
                else:
                    norms.append(float(torch.nn.utils.clip_grad_norm_(tensors, max_norm)))
                    optimizer.step()
            if norms:
                assert norms[0] == pytest.approx(norms[2], rel=8 * float(np.finfo(dtype).eps))
        for a, b, c in zip(mine, other, exact, strict=True):
            got, want, truth = a.detach().numpy(), b.detach().numpy(), c.detach().numpy()
            assert got.dtype == dtype
            ulp = np.finfo(dtype).eps * max(1, abs(truth).max())
            error = abs(got - truth).max()
            assert error <= 2 * abs(want - truth).max() + 16 * ulp

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", MAKERS)
    def test_the_same_steps(self, name, dtype):
        self.run(MAKERS[name], torch_makers(self.torch)[name], dtype)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("name", MAKERS)
    def test_parameters_without_gradient_are_skipped(self, name, dtype):
        def lacking(step, position):
            return (position == 1 and step < 5) or (step + position) % 4 == 0 or position == 4

        self.run(MAKERS[name], torch_makers(self.torch)[name], dtype, lacking=lacking)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("max_norm", [0.5, 10.0, 1e6])
    def test_clipping(self, max_norm, dtype):
        self.run(MAKERS["AdamW"], torch_makers(self.torch)["AdamW"], dtype, max_norm=max_norm)
        self.run(MAKERS["SGD"], torch_makers(self.torch)["SGD"], dtype, max_norm=max_norm)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(
        "options",
        [
            {"betas": (0.0, 0.0)},
            {"betas": (0.9, 0.99), "eps": 1e-3},
            {"weight_decay": 0.0},
            {"weight_decay": 0.5, "lr": 1e-4},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("kind", ["Adam", "AdamW"])
    def test_options(self, kind, options, dtype):
        self.run(
            lambda p: getattr(optim, kind)(p, **options),
            lambda p: getattr(self.torch.optim, kind)(p, **options),
            dtype,
        )

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_groups(self, dtype):
        def groups(tensors):
            return [
                {"params": [tensors[0], tensors[3]], "weight_decay": 0.3},
                {"params": [tensors[1]], "lr": 0.01, "betas": (0.5, 0.9)},
                {"params": [tensors[2], tensors[4]]},
            ]

        self.run(
            lambda p: optim.AdamW(groups(p), lr=0.1),
            lambda p: self.torch.optim.AdamW(groups(p), lr=0.1),
            dtype,
        )

    def test_adamw_in_float32_ends_within_a_rounding_per_step(self):
        torch = self.torch
        (mine,) = parameters(np.float32, shapes=[(100_000,)])
        theirs = torch.tensor(mine.array.copy(), requires_grad=True)
        ours, other = optim.AdamW([mine], lr=1e-2), torch.optim.AdamW([theirs], lr=1e-2)
        rng = np.random.default_rng(1)
        for _ in range(50):
            gradient = rng.standard_normal(100_000).astype(np.float32)
            mine.grad, theirs.grad = tg.Tensor(gradient), torch.tensor(gradient)
            ours.step()
            other.step()
        difference = abs(mine.detach().numpy() - theirs.detach().numpy())
        spacing = np.spacing(np.maximum(abs(theirs.detach().numpy()), np.float32(0.5)))
        assert (difference <= 4 * spacing).all()
        assert (difference == 0).mean() > 0.5

    def test_clip_grad_norm(self):
        torch = self.torch
        for max_norm in (0.1, 1e3):
            mine = parameters()
            give_gradients(mine, np.random.default_rng(3))
            other = [torch.tensor(each.array.copy(), requires_grad=True) for each in mine]
            for a, b in zip(mine, other, strict=True):
                b.grad = torch.tensor(a.grad.numpy())
            norm = optim.clip_grad_norm_(mine, max_norm)
            assert norm == pytest.approx(
                float(torch.nn.utils.clip_grad_norm_(other, max_norm)), rel=1e-14
            )
            for a, b in zip(mine, other, strict=True):
                np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-13)


class TestFlatBuffers:
    def test_parameters_and_gradients_are_views(self):
        tensors = parameters()
        before = [each.tolist() for each in tensors]
        optimizer = optim.AdamW(tensors)
        assert [each.tolist() for each in tensors] == before
        assert optimizer.flat.size == sum(each.size for each in tensors)
        sum((each * each).sum() for each in tensors).backward()
        for each in tensors:
            assert np.shares_memory(each.array, optimizer.flat)
            assert np.shares_memory(each.grad.array, optimizer.flat_grad)
        assert optimizer.flat_grad.tolist() == (2 * optimizer.flat).tolist()

    def test_gradients_add_up_and_are_forgotten(self):
        (x,) = tensors = parameters(shapes=[(3,)])
        optimizer = optim.SGD(tensors, lr=1.0)
        for expected in (1.0, 2.0):
            x.sum().backward()
            assert x.grad.tolist() == [expected] * 3
        optimizer.zero_grad()
        assert x.grad is None
        x.sum().backward()
        assert x.grad.tolist() == [1.0] * 3

    def test_a_gradient_that_was_there_before_counts(self):
        (x,) = parameters(shapes=[(3,)])
        x.sum().backward()
        optimizer = optim.SGD([x], lr=1.0)
        before = x.array.copy()
        x.sum().backward()
        optimizer.step()
        assert x.tolist() == (before - 2).tolist()

    def test_a_gradient_that_a_user_sets_counts(self):
        (x,) = parameters(shapes=[(3,)])
        optimizer = optim.SGD([x], lr=1.0)
        before = x.array.copy()
        x.grad = tg.Tensor(np.array([1.0, 2.0, 3.0]))
        optimizer.step()
        assert x.tolist() == (before - [1, 2, 3]).tolist()

    @pytest.mark.parametrize("wrong", [np.ones(4), np.ones((1, 3)), np.ones(())])
    def test_a_gradient_that_does_not_fit_is_refused(self, wrong):
        (x,) = parameters(shapes=[(3,)])
        optimizer = optim.SGD([x], lr=1.0)
        with pytest.raises(ValueError, match=r"grad: shape \(.*\) for a tensor of shape \(3,\)"):
            x.grad = tg.Tensor(wrong)
        assert x.grad is None
        optimizer.step()

    @pytest.mark.parametrize(
        "move",
        [
            lambda layer: layer.astype(np.float64),
            lambda layer: optim.SGD(layer.parameters()),
        ],
        ids=["converted", "another optimizer"],
    )
    def test_parameters_that_left_the_buffer_are_noticed(self, move):
        layer = nn.Linear(2, 3)
        optimizer = optim.SGD(layer.parameters(), lr=0.1)
        move(layer)
        with pytest.raises(RuntimeError, match=r"SGD: parameter 0 \(3, 2\) has left"):
            optimizer.step()

    def test_loading_a_model_s_state_keeps_the_buffer(self):
        layer, other = nn.Linear(2, 3), nn.Linear(2, 3, generator=Generator(9))
        optimizer = optim.SGD(layer.parameters(), lr=0.1)
        layer.load_state_dict(other.state_dict())
        assert optimizer.flat.tolist() == [
            *other.weight.array.ravel().tolist(),
            *other.bias.tolist(),
        ]
        layer(tg.ones((1, 2))).sum().backward()
        optimizer.step()
        assert layer.bias.tolist() != other.bias.tolist()

    def test_parameters_in_any_layout(self):
        array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
        x = tg.from_numpy(array).requires_grad_()
        optimizer = optim.SGD([x], lr=1.0)
        (x * x).sum().backward()
        optimizer.step()
        assert x.tolist() == (-array).tolist()

    def test_no_element_at_all(self):
        tensors = parameters(shapes=[(0, 3), (2,)])
        optimizer = optim.AdamW(tensors)
        give_gradients(tensors, np.random.default_rng(0))
        assert optimizer.step(max_norm=1.0) > 0


class TestFloat16:
    @every_optimizer
    def test_each_step_is_float32s_rounded_once(self, make):
        mine = parameters(np.float16)
        wide = [tg.Tensor(each.array.astype(np.float32), requires_grad=True) for each in mine]
        optimizer, expected = make(mine), make(wide)
        rng = np.random.default_rng(1)
        for scale in (1.0, 1e-4, 1e-6, 0.0, 1.0):
            give_gradients(mine, rng, scale)
            for each, other in zip(mine, wide, strict=True):
                other.grad = tg.Tensor(each.grad.array.astype(np.float32))
            optimizer.step(max_norm=10.0)
            expected.step(max_norm=10.0)
            rounded = expected.flat.astype(np.float16)
            np.testing.assert_array_equal(optimizer.flat, rounded)
            expected.flat[...] = rounded
        for slot, state in optimizer.state.items():
            np.testing.assert_allclose(state, expected.state[slot], rtol=1e-5, atol=1e-12)


class TestSkipping:
    @every_optimizer
    def test_without_any_gradient_nothing_changes(self, make):
        tensors = parameters()
        optimizer = make(tensors)
        before = optimizer.flat.copy()
        optimizer.step()
        assert optimizer.step(max_norm=1.0) == 0.0
        assert optimizer.flat.tolist() == before.tolist()
        assert all(not array.any() for array in optimizer.state.values())

    @every_optimizer
    def test_a_parameter_without_gradient_keeps_value_and_state(self, make):
        tensors = parameters()
        optimizer = make(tensors)
        give_gradients([tensors[0], tensors[3]], np.random.default_rng(0))
        before = [each.tolist() for each in tensors]
        optimizer.step()
        changed = [each.tolist() != old for each, old in zip(tensors, before, strict=True)]
        assert changed == [True, False, False, True, False]

    @every_optimizer
    def test_a_leftover_in_the_gradient_buffer_is_no_gradient(self, make):
        tensors = parameters()
        optimizer = make(tensors)
        give_gradients(tensors, np.random.default_rng(0))
        optimizer.step()
        before = optimizer.flat.copy()
        optimizer.zero_grad()
        assert optimizer.flat_grad.any()
        optimizer.step()
        assert optimizer.grad_norm() == 0.0
        assert optimizer.flat.tolist() == before.tolist()


class TestClipping:
    def test_the_norm_before_is_returned_and_gradients_stay(self):
        (x,) = parameters(shapes=[(2,)])
        optimizer = optim.SGD([x], lr=1.0)
        before = x.array.copy()
        x.grad = tg.Tensor(np.array([3.0, 4.0]))
        assert optimizer.grad_norm() == 5.0
        assert optimizer.step(max_norm=1.0) == 5.0
        np.testing.assert_allclose(before - x.array, [0.6, 0.8], rtol=1e-6)
        assert x.grad.tolist() == [3.0, 4.0]
        assert optimizer.step(max_norm=math.inf) == 5.0
        assert optimizer.step() is None

    def test_a_large_float32_norm_is_exact(self):
        (x,) = parameters(np.float32, shapes=[(1_000_003,)])
        optimizer = optim.SGD([x], lr=1.0)
        give_gradients([x], np.random.default_rng(0))
        exact = math.sqrt(float((x.grad.numpy().astype(np.float64) ** 2).sum()))
        assert optimizer.grad_norm() == pytest.approx(exact, rel=1e-6)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @every_optimizer
    def test_a_norm_that_is_not_finite_updates_nothing(self, make, bad):
        tensors = parameters()
        optimizer = make(tensors)
        give_gradients(tensors, np.random.default_rng(0))
        optimizer.step()
        tensors[3].grad.data[1, 0, 2] = bad
        flat, state = optimizer.flat.copy(), optimizer.state_dict()
        before = {name: array.copy() for name, array in state.items()}
        versions = [each.version.value for each in tensors]
        assert not math.isfinite(optimizer.step(max_norm=1.0))
        assert optimizer.flat.tobytes() == flat.tobytes()
        after = optimizer.state_dict()
        assert all(np.array_equal(after[name], value) for name, value in before.items())
        assert [each.version.value for each in tensors] == versions

    @pytest.mark.parametrize(
        ("dtype", "values"),
        [
            (np.float16, [300.0]),
            (np.float16, [3e4, -4e4]),
            (np.float32, [3e20, 4e20]),
            (np.float32, [3e37, 0.0, 4e37]),
            (np.float64, [3e200, 4e200]),
        ],
    )
    def test_squares_may_leave_the_range_of_the_gradients(self, dtype, values):
        grads = np.array(values, dtype)
        norm = math.hypot(*grads.tolist())
        scaled = (grads.astype(np.float64) / norm).astype(dtype)
        precision = 4 * float(np.finfo(dtype).eps)
        x = tg.Tensor(np.zeros_like(grads), requires_grad=True)
        x.grad = tg.Tensor(grads)
        assert optim.clip_grad_norm_([x], 1.0) == pytest.approx(norm)
        np.testing.assert_allclose(x.grad.numpy(), scaled, rtol=precision)
        optimizer = optim.SGD([x], lr=1.0)
        x.grad = tg.Tensor(grads)
        assert optimizer.grad_norm() == pytest.approx(norm)
        assert optimizer.step(max_norm=1.0) == pytest.approx(norm)
        np.testing.assert_allclose(x.array, -scaled, rtol=precision)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_clip_grad_norm_leaves_gradients_that_are_not_finite(self, bad):
        (x,) = parameters(shapes=[(2,)])
        x.grad = tg.Tensor(np.array([bad, 1.0]))
        assert not math.isfinite(optim.clip_grad_norm_([x], 0.5))
        assert x.grad.tolist()[1] == 1.0

    @pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan])
    def test_a_bad_limit_is_refused(self, max_norm):
        tensors = parameters()
        give_gradients(tensors, np.random.default_rng(0))
        with pytest.raises(ValueError, match=f"SGD: max_norm={max_norm}, expected a number above"):
            optim.SGD(tensors).step(max_norm=max_norm)
        with pytest.raises(ValueError, match=f"clip_grad_norm_: max_norm={max_norm}"):
            optim.clip_grad_norm_(tensors, max_norm)


class TestState:
    @every_optimizer
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_restored_run_goes_on_with_the_same_bits(self, make, dtype):
        def steps(tensors, optimizer, rng, count):
            for step in range(count):
                optimizer.zero_grad()
                give_gradients(tensors[step % 2 :], rng)
                optimizer.step(max_norm=2.0)

        tensors = parameters(dtype)
        optimizer = make(tensors)
        steps(tensors, optimizer, np.random.default_rng(0), 5)
        state = {name: array.copy() for name, array in optimizer.state_dict().items()}
        twins = [tg.Tensor(each, requires_grad=True) for each in tensors]
        restored = make(twins)
        restored.load_state_dict(state)
        steps(tensors, optimizer, np.random.default_rng(1), 5)
        steps(twins, restored, np.random.default_rng(1), 5)
        assert restored.flat.tobytes() == optimizer.flat.tobytes()
        assert restored.updates.tolist() == optimizer.updates.tolist() == [6, 10, 10, 10, 10]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s.pop("exp_avg_sq"), "state 'exp_avg_sq' is nothing, expected float64"),
            (lambda s: s.update(exp_avg=np.zeros(3)), r"'exp_avg' is float64 \(3,\), expected"),
            (lambda s: s.update(exp_avg=np.zeros(25, "f4")), r"'exp_avg' is float32 \(25,\)"),
            (lambda s: s.update(updates=np.zeros(2, int)), r"'updates' is int64 \(2,\), expected"),
            (lambda s: s.pop("updates"), "'updates' is nothing, expected int64"),
        ],
    )
    def test_another_state_is_refused_and_changes_nothing(self, change, message):
        tensors = parameters()
        optimizer = optim.AdamW(tensors)
        state = {name: np.ones_like(array) for name, array in optimizer.state_dict().items()}
        change(state)
        with pytest.raises(ValueError, match=f"AdamW: .*{message}"):
            optimizer.load_state_dict(state)
        assert not optimizer.updates.any()
        assert not any(array.any() for array in optimizer.state.values())


class TestGroups:
    def test_decay_groups(self):
        matrix, vector, scalar, cube = parameters(shapes=[(2, 3), (3,), (), (2, 2, 2)])
        groups = optim.decay_groups([matrix, vector, scalar, cube], 0.1)
        assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
        members = [[id(each) for each in group["params"]] for group in groups]
        assert members == [[id(matrix), id(cube)], [id(vector), id(scalar)]]
        assert len(optim.decay_groups([vector], 0.1)) == 1

    def test_options_of_a_group_override_the_others(self):
        a, b = parameters(shapes=[(1,), (1,)])
        optimizer = optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=2.0)
        before = [a.item(), b.item()]
        a.grad = b.grad = tg.Tensor(np.ones(1))
        optimizer.step()
        assert [before[0] - a.item(), before[1] - b.item()] == pytest.approx([2.0, 0.5])

    def test_set_lr(self):
        a, b = parameters(shapes=[(1,), (1,)])
        optimizer = optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=2.0)
        optimizer.set_lr(0.25)
        assert [group.options["lr"] for group in optimizer.groups] == [0.25, 0.25]
        with pytest.raises(ValueError, match="SGD: lr=nan"):
            optimizer.set_lr(math.nan)
        assert [group.options["lr"] for group in optimizer.groups] == [0.25, 0.25]

    def test_empty_groups_are_left_out(self):
        (a,) = parameters(shapes=[(1,)])
        assert len(optim.SGD([{"params": []}, {"params": [a]}]).groups) == 1


class TestBadArguments:
    @pytest.mark.parametrize(
        ("kind", "options", "message"),
        [
            *(
                (kind, {option: value}, f"{kind}: {option}={value}, expected a finite number >= 0")
                for kind in ("SGD", "Adam", "AdamW")
                for option in ("lr", "weight_decay")
                for value in (-0.1, math.nan, math.inf)
            ),
            ("Adam", {"eps": -1e-8}, "Adam: eps=-1e-08"),
            (
                "AdamW",
                {"betas": (1.0, 0.9)},
                r"AdamW: betas has 1.0, expected a number in \[0, 1\)",
            ),
            ("AdamW", {"betas": (0.9, -0.1)}, "AdamW: betas has -0.1"),
            ("AdamW", {"betas": (0.9, math.nan)}, "AdamW: betas has nan"),
            ("AdamW", {"betas": (0.9,)}, r"AdamW: betas=\(0.9,\), expected two numbers"),
            ("SGD", {"momentum": 1.0}, "SGD: momentum has 1.0"),
            ("SGD", {"momentum": -0.5}, "SGD: momentum has -0.5"),
            ("SGD", {"nesterov": True}, "SGD: nesterov=True needs a momentum above 0"),
        ],
    )
    def test_hyperparameters(self, kind, options, message):
        with pytest.raises(ValueError, match=message):
            getattr(optim, kind)(parameters(), **options)
        with pytest.raises(ValueError, match=message):
            getattr(optim, kind)([{"params": parameters(), **options}])

    @pytest.mark.parametrize("nothing", [[], [{"params": []}], iter([])])
    def test_no_parameters(self, nothing):
        with pytest.raises(ValueError, match="AdamW: no parameters to optimize"):
            optim.AdamW(nothing)

    def test_a_parameter_given_twice(self):
        x, y = parameters(shapes=[(1,), (1,)])
        for given in ([x, y, x], [{"params": [x]}, {"params": [y, x]}]):
            with pytest.raises(ValueError, match="SGD: a parameter was given twice"):
                optim.SGD(given)

    def test_an_unknown_option(self):
        with pytest.raises(ValueError, match="SGD: unknown group option 'betas'"):
            optim.SGD([{"params": parameters(), "betas": (0.9, 0.9)}])

    @pytest.mark.parametrize("entry", [("weight", 1), np.ones(2), {"parameters": []}])
    def test_something_else_than_tensors(self, entry):
        with pytest.raises(TypeError, match="SGD: expected tensors, or dicts with 'params', got"):
            optim.SGD([entry, *parameters()])

    def test_a_dict_among_tensors(self):
        with pytest.raises(TypeError, match="SGD: expected tensors, or dicts with 'params', got d"):
            optim.SGD([*parameters(), {"params": parameters()}])

    def test_tensors_that_cannot_be_trained(self):
        (x,) = parameters(shapes=[(2,)])
        for wrong in (x * 1, tg.Tensor([1, 2])):
            with pytest.raises(ValueError, match=r"SGD: tensor 1 \(2,\) is no trainable leaf"):
                optim.SGD([x, wrong])

    def test_two_dtypes(self):
        with pytest.raises(ValueError, match="parameters of float64 on cpu and float32 on cpu"):
            optim.SGD([*parameters(), *parameters(np.float32)])


def model():
    return nn.Sequential(
        nn.Linear(3, 4, generator=Generator(0)), nn.ReLU(), nn.Linear(4, 2, generator=Generator(1))
    )


def make_gradients(net, seed=0):
    x = tg.Tensor(np.random.default_rng(seed).standard_normal((5, 3)).astype(np.float32))
    (net(x) ** 2).mean().backward()


def values(tensors):
    return [each.tolist() for each in tensors]


class TestFrozen:
    @every_optimizer
    def test_a_frozen_parameter_is_left_as_and_where_it_is(self, make):
        net = model()
        frozen = list(net[0].parameters())
        for each in frozen:
            each.requires_grad_(False)
        arrays, versions = [p.array for p in frozen], [p.version.value for p in frozen]
        before = values(frozen)
        optimizer = make(net.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            make_gradients(net)
            optimizer.step(max_norm=1.0)
        assert all(p.array is array for p, array in zip(frozen, arrays, strict=True))
        assert [p.version.value for p in frozen] == versions
        assert values(frozen) == before
        assert len(optimizer.parameters) == 2

    @every_optimizer
    def test_one_unfrozen_later_trains_as_if_it_had_had_no_gradient_so_far(self, make):
        nets = model(), model()
        optimizers = []
        for net in nets:
            if net is nets[0]:
                for each in net[0].parameters():
                    each.requires_grad_(False)
            optimizers.append(make(net.parameters()))
        for step in range(6):
            for net, optimizer in zip(nets, optimizers, strict=True):
                optimizer.zero_grad()
                if step == 3:
                    net[0].weight.requires_grad_()
                make_gradients(net, step)
                for each in net[0].parameters():
                    if step < 3 or each is net[0].bias:
                        each.grad = None
                optimizer.step(max_norm=1.0)
        assert values(nets[0].parameters()) == values(nets[1].parameters())
        states = [optimizer.state_dict() for optimizer in optimizers]
        for name, array in states[0].items():
            assert array.tolist() == states[1][name].tolist()

    @every_optimizer
    def test_one_frozen_later_keeps_value_and_state(self, make):
        net = model()
        optimizer = make(net.parameters())
        make_gradients(net)
        optimizer.step()
        net[2].requires_grad = None  # an attribute of the module's own, which freezes nothing
        net[2].weight.requires_grad_(False)
        before, norm = values([net[2].weight]), optimizer.grad_norm()
        net[2].weight.grad.fill_(1e3)  # a leftover, which counts no more
        assert optimizer.grad_norm() == norm
        for _ in range(2):
            optimizer.step(max_norm=1e9)
        assert values([net[2].weight]) == before
        assert optimizer.updates.tolist() == [3, 3, 1, 3]
        net[2].weight.requires_grad_()
        optimizer.zero_grad()
        make_gradients(net)
        optimizer.step()
        assert values([net[2].weight]) != before
        assert optimizer.updates.tolist() == [4, 4, 2, 4]

    def test_everything_frozen(self):
        net = model()
        for each in net.parameters():
            each.requires_grad_(False)
        optimizer = optim.AdamW(net.parameters())
        before = values(net.parameters())
        optimizer.step()
        assert optimizer.grad_norm() == 0
        assert values(net.parameters()) == before
        for each in net.parameters():
            each.requires_grad_()
        make_gradients(net)
        optimizer.step()
        assert values(net.parameters()) != before

    def test_two_optimizers_over_one_model_with_halves_frozen_in_turn(self):
        net = model()

        def only(part):
            for each in net.parameters():
                each.requires_grad_(any(each is p for p in part.parameters()))

        optimizers = []
        for part in (net[0], net[2]):
            only(part)
            optimizers.append(optim.Adam(net.parameters()))
        for number, part in enumerate((net[0], net[2], net[0], net[2])):
            only(part)
            net.zero_grad()
            make_gradients(net)
            before = values(net.parameters())
            optimizers[number % 2].step()
            changed = [a != b for a, b in zip(before, values(net.parameters()), strict=True)]
            assert changed == [part is net[0]] * 2 + [part is net[2]] * 2

    def test_an_unfrozen_one_of_another_dtype_is_refused(self):
        a = tg.Tensor([1.0], requires_grad=True)
        b = tg.Tensor(np.ones(1), requires_grad=False)
        optimizer = optim.SGD([a, b], lr=1.0)
        a.grad = tg.Tensor([1.0])
        optimizer.step()
        b.requires_grad_()
        b.grad = tg.Tensor(np.ones(1))
        with pytest.raises(ValueError, match="float32 on cpu and float64 on cpu; expected one"):
            optimizer.step()
        assert (a.tolist(), b.tolist()) == ([0.0], [1.0])

    @every_optimizer
    @pytest.mark.parametrize("freeze_again", [False, True])
    def test_state_does_not_depend_on_what_is_frozen(self, make, freeze_again):
        nets = [model(), model()]
        source = make(nets[0].parameters())
        make_gradients(nets[0])
        source.step()
        state = {name: array.copy() for name, array in source.state_dict().items()}
        if freeze_again:
            nets[1][0].weight.requires_grad_(False)
        nets[1].load_state_dict(nets[0].state_dict())
        target = make(nets[1].parameters())
        target.load_state_dict(state)
        nets[1][0].weight.requires_grad_()
        for net, optimizer in zip(nets, (source, target), strict=True):
            optimizer.zero_grad()
            make_gradients(net, 1)
            optimizer.step()
        assert values(nets[0].parameters()) == values(nets[1].parameters())


class TestParamGroups:
    def test_groups_read_and_write_the_live_options(self):
        tensors = parameters()
        optimizer = optim.SGD(
            [{"params": tensors[:2]}, {"params": tensors[2:], "lr": 0.5}], lr=0.1, momentum=0.9
        )
        assert [dict(group, params=None) for group in optimizer.param_groups] == [
            {"params": None, "lr": lr, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
            for lr in (0.1, 0.5)
        ]
        assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], tensors, strict=0))
        for group in optimizer.param_groups:
            group["lr"] *= 2
        optimizer.param_groups[1].update(lr=0.0)
        give_gradients(tensors, np.random.default_rng(0))
        before = values(tensors)
        grads = [each.grad.numpy().copy() for each in tensors]
        optimizer.step()
        np.testing.assert_array_equal(tensors[0].detach().numpy(), before[0] - 0.2 * grads[0])
        assert values(tensors[2:]) == before[2:]
        assert "lr=0.2" in repr(optimizer.param_groups[0])

    @pytest.mark.parametrize(
        ("write", "error", "message"),
        [
            (lambda g: g.update(lr=-1), ValueError, "SGD: lr=-1, expected a finite number"),
            (lambda g: g.update(lr="fast"), ValueError, "SGD: lr='fast'"),
            (lambda g: g.update(lr=math.nan), ValueError, "SGD: lr=nan"),
            (lambda g: g.update(momentum=1.0), ValueError, "momentum has 1.0"),
            (lambda g: g.update(nesterov=True), ValueError, "needs a momentum above 0"),
            (lambda g: g.update(learning_rate=1), ValueError, "unknown group option 'learning_rat"),
            (lambda g: g.update(params=[]), ValueError, "add_param_group"),
            (lambda g: g.pop("lr"), TypeError, "'lr' cannot be deleted"),
        ],
    )
    def test_what_is_written_is_checked_at_once(self, write, error, message):
        optimizer = optim.SGD(parameters())
        (group,) = optimizer.param_groups
        before = dict(group)
        with pytest.raises(error, match=message):
            write(group)
        assert dict(group) == before

    @every_optimizer
    def test_a_group_may_be_added_while_training(self, make):
        tensors, others = parameters(), parameters()
        optimizer, other = make(tensors[:3]), make(others)
        rng = np.random.default_rng(5)
        for step in range(4):
            if step == 2:
                optimizer.add_param_group({"params": tensors[3:]})
            grads = [rng.standard_normal(each.shape) for each in tensors]
            for number, (a, b) in enumerate(zip(tensors, others, strict=True)):
                a.grad, b.grad = tg.Tensor(grads[number]), tg.Tensor(grads[number])
                if step < 2 and number >= 3:
                    a.grad = b.grad = None
            optimizer.step()
            other.step()
        assert values(tensors) == values(others)
        assert len(optimizer.param_groups) == 2
        assert all(np.shares_memory(each.array, optimizer.flat) for each in tensors)

    @pytest.mark.parametrize(
        ("group", "error", "message"),
        [
            (lambda given: {"params": given[:1]}, ValueError, "given twice"),
            (lambda given: {"params": parameters(np.float32)}, ValueError, "float64.*float32"),
            (lambda given: {"params": []}, ValueError, "no parameters"),
            (lambda given: {"params": parameters(), "beta": 1}, ValueError, "option 'beta'"),
            (lambda given: parameters(), TypeError, "dict with 'params', got list"),
        ],
    )
    def test_a_group_that_cannot_be_added_changes_nothing(self, group, error, message):
        given = parameters()
        optimizer = optim.SGD(given)
        flat = optimizer.flat
        with pytest.raises(error, match=message):
            optimizer.add_param_group(group(given))
        assert optimizer.flat is flat
        assert len(optimizer.param_groups) == 1
        give_gradients(given, np.random.default_rng(0))
        optimizer.step()

    def test_one_tensor_is_a_group(self):
        (x,) = parameters(shapes=[(3,)])
        assert optim.SGD([{"params": x}]).parameters == [x]


class TestCopies:
    @every_optimizer
    @pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    @pytest.mark.parametrize("order", [1, -1])
    def test_a_copied_model_and_optimizer_go_on_alike(self, make, how, order):
        net = model()
        net[0].bias.requires_grad_(False)
        optimizer = make(net.parameters())
        for seed in range(3):
            make_gradients(net, seed)
            optimizer.step()
        pair = how((net, optimizer)[::order])
        net2, optimizer2 = pair[::order]
        assert all(
            a.grad is b.grad is None or a.grad.tolist() == b.grad.tolist()
            for a, b in zip(net.parameters(), net2.parameters(), strict=True)
        )
        for each in net2.parameters():
            assert not any(np.shares_memory(each.array, p.array) for p in net.parameters())
            assert np.shares_memory(each.array, optimizer2.flat) == each.requires_grad
            assert each.grad is None or np.shares_memory(each.grad.array, optimizer2.flat_grad)
        for a, b in ((net, optimizer), (net2, optimizer2)):
            a[0].bias.requires_grad_()
            make_gradients(a, 7)
            b.param_groups[0]["lr"] = 0.05
            b.step()
        assert values(net.parameters()) == values(net2.parameters())
        before = values(net.parameters())
        optimizer2.step()
        assert values(net.parameters()) == before

    def test_groups_and_a_subclass_s_attributes_are_kept(self):
        class Noted(optim.AdamW):
            note = None

        net = model()
        optimizer = Noted(optim.decay_groups(net.parameters(), 0.3), lr=0.2)
        optimizer.note = "kept"
        net2, other = copy.deepcopy((net, optimizer))
        assert other.note == "kept"
        assert [g["weight_decay"] for g in other.param_groups] == [0.3, 0.0]
        optimizer.param_groups[0]["lr"] = 1.0
        assert other.param_groups[0]["lr"] == 0.2
        assert set(map(id, other.parameters)) == set(map(id, net2.parameters()))

    def test_a_shallow_copy_is_refused(self):
        with pytest.raises(TypeError, match=r"SGD: two optimizers cannot share.*deepcopy"):
            copy.copy(optim.SGD(parameters()))

    def test_a_group_is_copied_as_a_dict(self):
        (group,) = optim.SGD(parameters(), lr=0.5).param_groups
        assert copy.deepcopy(group)["lr"] == 0.5


class TestSchedules:
    def test_constant(self):
        schedule = optim.constant(0.3)
        assert [schedule(step) for step in (0, 10, 10**9)] == [0.3] * 3

    def test_warmup_then_cosine(self):
        schedule = optim.warmup_cosine(1.0, warmup=4, total=24, floor=0.1)
        assert [schedule(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
        assert schedule(4) == 1.0
        assert schedule(14) == pytest.approx(0.55)
        assert schedule(9) == pytest.approx(0.1 + 0.45 * (1 + math.sqrt(0.5)))
        assert schedule(24) == schedule(25) == schedule(10**9) == 0.1
        assert 0.1 < schedule(23) < 0.11
        rates = [schedule(step) for step in range(4, 25)]
        assert rates == sorted(rates, reverse=True)

    def test_without_warmup(self):
        schedule = optim.warmup_cosine(1.0, warmup=0, total=10, floor=0.0)
        assert schedule(0) == 1.0
        assert schedule(5) == pytest.approx(0.5)
        assert schedule(10) == 0.0

    @pytest.mark.parametrize(("warmup", "total"), [(5, 5), (5, 3), (0, 0)])
    def test_no_room_for_the_cosine(self, warmup, total):
        schedule = optim.warmup_cosine(1.0, warmup, total, 0.1)
        assert [schedule(step) for step in range(warmup)] == pytest.approx(
            [(step + 1) / (warmup + 1) for step in range(warmup)]
        )
        assert schedule(warmup) == 0.1

    def test_agrees_with_pytorch_s_cosine(self):
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=0.05)
        ours = optim.warmup_cosine(0.5, 0, 20, 0.05)
        for step in range(20):
            assert ours(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
            optimizer.step()
            theirs.step()

    def test_warmup_then_a_line(self):
        schedule = optim.warmup_linear(1.0, warmup=4, total=24, floor=0.2)
        assert [schedule(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
        assert [schedule(step) for step in (4, 9, 14, 24, 99)] == pytest.approx(
            [1.0, 0.8, 0.6, 0.2, 0.2]
        )

    @pytest.mark.parametrize(("sqrt", "middle"), [(False, 0.6), (True, 1 - 0.8 * math.sqrt(0.5))])
    def test_warmup_then_nothing_then_decay(self, sqrt, middle):
        schedule = optim.warmup_stable_decay(1.0, 4, 24, 0.2, decay=10, sqrt=sqrt)
        assert schedule(0) == 0.2
        assert [schedule(step) for step in range(4, 15)] == [1.0] * 11
        assert schedule(19) == pytest.approx(middle)
        assert schedule(24) == schedule(99) == 0.2

    @pytest.mark.parametrize("decay", [0, 99])
    def test_a_decay_of_no_steps_and_of_more_than_there_are(self, decay):
        schedule = optim.warmup_stable_decay(1.0, 4, 8, 0.2, decay)
        rates = [1.0] * 4 if decay == 0 else [1.0, 0.8, 0.6, 0.4]
        assert [schedule(step) for step in range(4, 8)] == pytest.approx(rates)
        assert schedule(8) == 0.2

    @pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
    def test_bad_numbers(self, value):
        with pytest.raises(ValueError, match=f"constant: lr={value}, expected"):
            optim.constant(value)
        good = {"lr": 1.0, "warmup": 1, "total": 2, "floor": 0.1}
        for name in ("warmup_cosine", "warmup_linear", "warmup_stable_decay"):
            more = {"decay": 1} if name == "warmup_stable_decay" else {}
            for option in (*good, *more):
                with pytest.raises(ValueError, match=f"{name}: {option}={value}, expected"):
                    getattr(optim, name)(**{**good, **more, option: value})


def test_training_reaches_the_minimum():
    rng = np.random.default_rng(0)
    x, truth = rng.standard_normal((64, 3)), np.array([[1.0, -2.0, 0.5]])
    for make in MAKERS.values():
        layer = nn.Linear(3, 1, generator=Generator(0)).astype(np.float64)
        optimizer = make(layer.parameters())
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        for step in range(400):
            optimizer.set_lr(0.05 * (1 - step / 400))
            optimizer.zero_grad()
            error = layer(tg.Tensor(x)) - x @ truth.T
            (error * error).mean().backward()
            optimizer.step(max_norm=10.0)
        np.testing.assert_allclose(layer.weight.detach().numpy(), truth, atol=1e-3)
