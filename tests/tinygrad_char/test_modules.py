"""Containers, hooks, `apply`, and the modules of activations, norms and losses."""

import copy
import gc
import math
import pickle

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import functional as F
from tinygrad_char import nn
from tinygrad_char.optim import AdamW
from tinygrad_char.random import Generator
from tinygrad_char.repeated import RepeatedCall, RepeatedLoss
from tinygrad_char.training_step import TrainingStep


def tensor(*shape, seed=0, dtype=np.float32):
    return tg.Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def numbered(count):
    return [nn.Linear(1, 1) for _ in range(count)]


class TestLists:
    @pytest.mark.parametrize("make", [lambda parts: nn.Sequential(*parts), nn.ModuleList])
    def test_positions_and_slices(self, make):
        parts = numbered(5)
        whole = make(parts)
        assert whole[-2] is parts[3]
        for part in (slice(1, 3), slice(None, None, 2), slice(-2, None), slice(4, 0, -1), slice(0)):
            assert type(whole[part]) is type(whole)
            assert list(whole[part]) == parts[part]
        assert list(reversed(list(whole))) == parts[::-1]
        for position in (5, -6):
            with pytest.raises(IndexError, match=f"position {position} of 5 modules"):
                whole[position]
        with pytest.raises(TypeError, match="expected a position or a slice, got str"):
            whole["1"]

    @pytest.mark.parametrize("make", [lambda parts: nn.Sequential(*parts), nn.ModuleList])
    def test_changes(self, make):
        parts = numbered(6)
        whole = make(parts[:3])
        assert whole.append(parts[3]) is whole
        whole.extend(parts[4:5])
        whole[1] = parts[5]
        assert list(whole) == [parts[0], parts[5], *parts[2:5]]
        del whole[0]
        del whole[-2:]
        whole.insert(0, parts[0])
        assert list(whole) == [parts[0], parts[5], parts[2]]
        assert [name for name, _ in whole.children()] == ["0", "1", "2"]
        assert [name for name, _ in whole.named_parameters()][:2] == ["0.weight", "0.bias"]
        for change in (
            lambda: whole.append(F.relu),
            lambda: whole.insert(0, None),
            lambda: whole.__setitem__(0, 1),
        ):
            with pytest.raises(TypeError, match="expected modules, got"):
                change()
        with pytest.raises(IndexError):
            del whole[3]
        assert len(whole) == 3

    def test_a_slice_of_a_sequential_runs_and_keeps_names(self):
        model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        x = tensor(4, 2)
        assert model[1:](model[:1](x)).tolist() == model(x).tolist()
        tail = model[1:]
        assert [name for name, _ in tail.children()] == ["1", "2"]
        tail.append(nn.Tanh())
        assert [name for name, _ in tail.children()] == ["1", "2", "3"]
        assert len(model) == 3
        assert nn.Sequential()[:].forward(x) is x

    def test_a_sequential_of_names(self):
        model = nn.Sequential({"first": nn.Linear(2, 3), "act": nn.Tanh()})
        assert [name for name, _ in model.named_parameters()] == ["first.weight", "first.bias"]
        assert model.act is model[1]
        assert [name for name, _ in model.append(nn.ReLU()).children()] == ["first", "act", "2"]
        with pytest.raises(ValueError, match=r"cannot be named 'a\.b'"):
            nn.Sequential({"a.b": nn.ReLU()})


class TestDict:
    def test_as_a_dict(self):
        a, b, c = numbered(3)
        parts = nn.ModuleDict({"a": a, "b": b})
        parts["c"] = c
        assert list(parts) == list(parts.keys()) == ["a", "b", "c"]
        assert list(parts.values()) == [a, b, c]
        assert dict(parts.items()) == {"a": a, "b": b, "c": c}
        assert (len(parts), "b" in parts, "d" in parts, parts["b"]) == (3, True, False, b)
        assert "c.weight" in dict(parts.named_parameters())
        parts["b"] = c
        assert list(parts.keys()) == ["a", "b", "c"]
        assert parts.pop("a") is a
        del parts["c"]
        assert list(parts) == ["b"]
        assert list(nn.ModuleDict([("x", a)])) == ["x"]

    @pytest.mark.parametrize("name", ["", "a.b", "forward", "training", "keys"])
    def test_names_that_cannot_be(self, name):
        with pytest.raises(ValueError, match=f"ModuleDict: a module cannot be named {name!r}"):
            nn.ModuleDict({name: nn.ReLU()})

    def test_what_else_is_refused(self):
        with pytest.raises(TypeError, match="expected modules, got None"):
            nn.ModuleDict({"a": None})
        with pytest.raises(TypeError, match="name 1, expected a string"):
            nn.ModuleDict({1: nn.ReLU()})
        with pytest.raises(KeyError, match=r"'b' is none of \['a'\]"):
            nn.ModuleDict({"a": nn.ReLU()})["b"]
        with pytest.raises(KeyError):
            del nn.ModuleDict()["a"]


class TestApply:
    def test_parts_come_before_what_holds_them_and_once(self):
        shared = nn.ReLU()
        inner = nn.Sequential(shared, nn.Tanh())
        model = nn.Sequential(inner, shared, nn.Linear(1, 1))
        seen = []
        assert model.apply(seen.append) is model
        assert seen == [shared, inner[1], inner, model[2], model]

    def test_deep_nesting_needs_no_recursion(self):
        module = nn.ReLU()
        for _ in range(3000):
            module = nn.Sequential(module)
        seen = []
        module.apply(seen.append)
        assert len(seen) == 3001
        assert seen[-1] is module


class TestFreezing:
    def test_a_module_s_parameters_freeze_and_train_together(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        assert model[0].requires_grad_(False) is model[0]
        assert [each.requires_grad for each in model.parameters()] == [False, False, True, True]
        model(tensor(3, 2)).sum().backward()
        assert model[0].weight.grad is None
        assert model[1].weight.grad is not None
        model.requires_grad_()
        assert all(each.requires_grad for each in model.parameters())
        assert not model[1].running_mean.requires_grad

    def test_a_parameter_may_be_born_frozen(self):
        module = nn.Identity()
        module.scale = nn.Parameter([1.0], requires_grad=False)
        assert [name for name, _ in module.named_parameters()] == ["scale"]
        assert not module.scale.requires_grad


class TestHooks:
    @pytest.fixture(autouse=True)
    def free(self):
        """Free the modules whose hooks hold them: while they are held, no step is repeated."""
        yield
        gc.collect()

    def test_they_see_and_replace_arguments_and_results(self):
        layer = nn.Linear(2, 2, generator=Generator(0))
        x = tensor(1, 2)
        plain = layer(x)
        seen = []
        layer.register_forward_pre_hook(lambda module, args: seen.append((module, args)))
        layer.register_forward_pre_hook(lambda module, args: args[0] * 2)
        layer.register_forward_pre_hook(lambda module, args: (args[0] / 2,))
        layer.register_forward_hook(lambda module, args, result: seen.append((args, result)))
        layer.register_forward_hook(lambda module, args, result: result + 1)
        assert layer(x).tolist() == (plain + 1).tolist()
        assert seen[0] == (layer, (x,))
        assert seen[1][1].tolist() == plain.tolist()

    def test_a_handle_removes_its_own_only(self):
        layer = nn.ReLU()
        handles = [
            layer.register_forward_hook(lambda module, args, result, n=n: result + n)
            for n in (1, 10)
        ]
        assert layer(tg.zeros(1)).tolist() == [11.0]
        handles[0].remove()
        handles[0].remove()
        assert layer(tg.zeros(1)).tolist() == [10.0]
        handles[1].remove()
        assert layer(tg.zeros(1)).tolist() == [0.0]

    def test_a_hook_may_remove_itself(self):
        layer = nn.ReLU()
        calls = []

        def once(module, args, result):
            calls.append(1)
            handle.remove()

        handle = layer.register_forward_hook(once)
        layer(tg.zeros(1))
        layer(tg.zeros(1))
        assert calls == [1]

    def test_gradients_flow_through_what_a_hook_returns(self):
        layer = nn.Identity()
        layer.register_forward_hook(lambda module, args, result: result * 3)
        x = tg.Tensor([1.0], requires_grad=True)
        layer(x).sum().backward()
        assert x.grad.tolist() == [3.0]

    def test_hooks_stay_out_of_names_copies_keep_them_and_pickles_do_not(self):
        layer = nn.Sequential(nn.Linear(1, 1))
        names, text = list(layer.state_dict()), repr(layer)
        layer.register_forward_hook(lambda module, args, result: result * 0)
        assert (list(layer.state_dict()), repr(layer)) == (names, text)
        x = tg.ones((1, 1))
        assert copy.deepcopy(layer)(x).tolist() == [[0.0]]
        assert pickle.loads(pickle.dumps(layer))(x).tolist() == layer.forward(x).tolist()

    @pytest.mark.parametrize("when", ["before", "between"])
    def test_a_traced_loss_runs_the_hooks(self, when):
        generator = Generator(0)
        layer = nn.Embedding(5, 3, generator=generator)
        loss = RepeatedLoss(
            lambda batch: F.cross_entropy(layer(batch[0]), batch[1]),
            list(layer.parameters()),
            generator.dropout,
        )
        calls = []
        handle = None
        for step in range(10):
            if step == (0 if when == "before" else 6):
                handle = layer.register_forward_hook(lambda *given: calls.append(1))
            if step == 8:
                handle.remove()
            loss.gradients(tuple(np.random.default_rng(step).integers(0, 3, (2, 2, 3))), 1.0)
        assert len(calls) == (8 if when == "before" else 2)
        assert loss.reason is None

    def test_a_traced_call_runs_the_hooks(self):
        layer = nn.Embedding(5, 3)
        call = RepeatedCall(layer)
        calls = []
        for step in range(6):
            if step == 4:
                layer.register_forward_hook(lambda *given: calls.append(1))
            call(np.random.default_rng(step).integers(0, 5, (2, 3)))
        assert len(calls) == 2

    def test_a_recorded_step_runs_the_hooks(self):
        generator = Generator(0)
        try:
            layer = nn.Linear(3, 1, generator=generator).to("cuda-on-cpu")
        except tg.DeviceError as error:
            pytest.skip(str(error))
        step = TrainingStep(
            lambda x: (layer(x) ** 2).mean(), AdamW(layer.parameters()), generator.dropout
        )
        calls = []
        for number in range(8):
            if number == 5:
                assert step.repeats
                layer.register_forward_hook(lambda *given: calls.append(1))
            step(np.random.default_rng(number).random((2, 3)).astype("f4"))
        assert len(calls) == 3


class TestShapes:
    def test_flatten(self):
        x = tensor(2, 3, 4)
        assert nn.Flatten()(x).shape == (2, 12)
        assert nn.Flatten(0, 1)(x).shape == (6, 4)
        assert nn.Flatten(start_dim=0, end_dim=-1)(x).shape == (24,)
        assert repr(nn.Flatten()) == "Flatten(start=1, end=-1)"

    def test_identity(self):
        x = tensor(2)
        assert nn.Identity(5, bias=False)(x) is x

    def test_softmax_along_an_axis_of_either_spelling(self):
        x = tensor(3, 4)
        assert nn.Softmax()(x).tolist() == x.softmax(-1).tolist()
        assert nn.Softmax(dim=0)(x).tolist() == x.softmax(0).tolist()
        assert nn.LogSoftmax(axis=0)(x).tolist() == x.log_softmax(0).tolist()
        with pytest.raises(TypeError, match="axis and dim"):
            nn.Softmax(0, dim=0)


class TestNorms:
    @pytest.mark.parametrize("make", [nn.LayerNorm, nn.RMSNorm])
    @pytest.mark.parametrize("shape", [(), (0,), (3, -1), (3, 2.0)])
    def test_shapes_that_are_refused(self, make, shape):
        with pytest.raises(ValueError, match="normalized_shape="):
            make(shape)

    def test_several_axes_are_named_where_they_do_not_fit(self):
        for make in (nn.LayerNorm, nn.RMSNorm):
            with pytest.raises(ValueError, match=rf"{make.__name__}\(\(3, 4\)\).*\(2, 4, 3\)"):
                make((3, 4))(tensor(2, 4, 3))
        x = tensor(2, 3, 4)
        for call in (F.layer_norm, F.rms_norm):
            with pytest.raises(ValueError, match=r"weight \(4, 3\).*expected \(3, 4\)"):
                call(x, tg.ones((4, 3)))
            with pytest.raises(ValueError, match=r"normalized_shape \(3,\).*expected \(4,\)"):
                call(x, normalized_shape=3)
            with pytest.raises(ValueError, match=r"weight \(4,\).*expected \(3, 4\)"):
                call(x, tg.ones(4), normalized_shape=(3, 4))
        assert repr(nn.LayerNorm((3, 4))) == "LayerNorm((3, 4))"
        assert repr(nn.RMSNorm(4, eps=0.1)) == "RMSNorm((4,), eps=0.1)"

    def test_one_axis_in_a_tuple_is_the_last_axis(self):
        x = tensor(2, 3, 4)
        assert nn.LayerNorm((4,))(x).tolist() == nn.LayerNorm(4)(x).tolist()

    @pytest.mark.parametrize("size", [1e-30, 1e30])
    def test_rms_norm_of_any_size(self, size):
        x = tg.Tensor(np.array([size, -size], np.float32), requires_grad=True)
        y = F.rms_norm(x, eps=0.0)
        assert y.tolist() == [1.0, -1.0]
        y.backward(np.array([1.0, 1.0], np.float32))
        np.testing.assert_allclose(x.grad.numpy() * size, [1.0, 1.0], rtol=1e-6)

    def test_rms_norm_of_zeros(self):
        x = tg.Tensor(np.zeros(3, np.float32), requires_grad=True)
        F.rms_norm(x).sum().backward()
        eps = float(np.finfo(np.float32).eps)
        np.testing.assert_allclose(x.grad.numpy(), [eps**-0.5] * 3)


class TestLosses:
    def test_they_are_the_functions(self):
        x, y = tensor(3, 4), tensor(3, 4, seed=1)
        weight = [1.0, 2.0, 3.0, 0.5]
        t = np.array([0, 3, -100])
        pairs = [
            (nn.MSELoss("sum"), F.mse_loss(x, y, "sum"), y),
            (nn.L1Loss(), F.l1_loss(x, y), y),
            (nn.SmoothL1Loss(beta=0.5), F.smooth_l1_loss(x, y, beta=0.5), y),
            (nn.HuberLoss("sum", 0.5), F.huber_loss(x, y, "sum", delta=0.5), y),
            (
                nn.BCEWithLogitsLoss(weight, pos_weight=weight),
                F.binary_cross_entropy_with_logits(x, y > 0, weight=weight, pos_weight=weight),
                y > 0,
            ),
            (
                nn.CrossEntropyLoss(weight, label_smoothing=0.1, reduction="none"),
                F.cross_entropy(x, t, "none", weight=weight, label_smoothing=0.1),
                t,
            ),
            (nn.NLLLoss(weight), F.nll_loss(x, t, weight=weight), t),
        ]
        for module, expected, target in pairs:
            assert module(x, target).tolist() == expected.tolist()
        p = x.sigmoid()
        assert nn.BCELoss()(p, y > 0).item() == F.binary_cross_entropy(p, y > 0).item()

    def test_a_class_axis_of_either_spelling(self):
        x, t = tensor(2, 3, 5), np.array([[0] * 5, [2] * 5])
        for module in (nn.CrossEntropyLoss(axis=1), nn.CrossEntropyLoss(dim=1)):
            assert module(x, t).item() == F.cross_entropy(x, t, axis=1).item()
        assert F.cross_entropy(x, t, dim=1).item() == F.cross_entropy(x, t, axis=1).item()

    def test_weights_are_buffers_that_move_along(self):
        module = nn.CrossEntropyLoss([1.0, 2.0])
        assert list(module.state_dict()) == ["weight"]
        assert module.astype(np.float64).weight.dtype == np.float64
        assert list(nn.CrossEntropyLoss().state_dict()) == []

    def test_bad_settings_are_refused_at_once(self):
        with pytest.raises(ValueError, match="MSELoss: reduction='average'"):
            nn.MSELoss("average")
        with pytest.raises(ValueError, match="label_smoothing=2"):
            nn.CrossEntropyLoss(label_smoothing=2)


class TestMaskedAttention:
    def qkv(self, seed=0):
        rng = np.random.default_rng(seed)
        shapes = ((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4))
        return [tg.Tensor(rng.standard_normal(s).astype("f4"), requires_grad=True) for s in shapes]

    def test_a_mask_of_all_is_none(self):
        q, k, v = self.qkv()
        plain = F.attention(q, k, v).detach().numpy()
        for mask in (np.ones((3, 5), bool), np.zeros((1, 5), np.float32), True):
            masked = F.attention(q, k, v, attn_mask=mask).detach().numpy()
            np.testing.assert_allclose(masked, plain, atol=1e-6)

    def test_a_causal_mask_is_the_option(self):
        q, k, v = self.qkv()
        plain = F.attention(q, k, v, causal=True).detach().numpy()
        seen = np.tri(3, 5, 2, dtype=bool)
        added = np.where(seen, 0, -math.inf).astype("f4")
        for mask in (seen, added):
            masked = F.attention(q, k, v, attn_mask=mask).detach().numpy()
            np.testing.assert_allclose(masked, plain, atol=1e-6)
        both = F.attention(q, k, v, attn_mask=np.ones((3, 5), bool), causal=True)
        np.testing.assert_allclose(both.detach().numpy(), plain, atol=1e-6)

    @pytest.mark.parametrize("hide", [False, -math.inf], ids=["boolean", "added"])
    def test_a_query_that_sees_nothing_gets_zeros_and_no_gradient(self, hide):
        q, k, v = self.qkv()
        mask = np.array([[True], [False], [True]])
        mask = mask if hide is False else np.where(mask, 0, hide).astype("f4")
        with tg.detect_nonfinite():
            y = F.attention(q, k, v, attn_mask=mask)
            y.sum().backward()
        assert not y.detach().numpy()[:, :, 1].any()
        assert not q.grad.numpy()[:, :, 1].any()
        assert all(np.isfinite(each.grad.numpy()).all() for each in (q, k, v))

    def test_dropout_is_that_of_the_same_key(self):
        q, k, v = self.qkv()
        key = Generator(3).dropout.dropout_key()
        plain = F.attention(q, k, v, dropout=0.5, key=key).detach().numpy()
        masked = F.attention(q, k, v, dropout=0.5, key=key, attn_mask=np.ones((3, 5), bool))
        np.testing.assert_allclose(masked.detach().numpy(), plain, atol=1e-6)

    @pytest.mark.parametrize("shapes", [((0, 2, 3, 4), (0, 2, 5, 4)), ((3, 4), (0, 4))])
    @pytest.mark.parametrize("mask", [None, True])
    def test_nothing_to_attend(self, shapes, mask):
        q, k = (tg.zeros(shape) for shape in shapes)
        assert F.attention(q, k, k, attn_mask=mask).tolist() == q.tolist()

    @pytest.mark.parametrize("device", ["cuda-on-cpu"])
    def test_on_a_device(self, device):
        q, k, v = self.qkv()
        mask = np.random.default_rng(1).random((3, 5)) > 0.5
        expected = F.attention(q, k[:1], v[:1, :1], attn_mask=mask).detach().numpy()
        try:
            moved = [each.detach().to(device) for each in (q, k[:1], v[:1, :1])]
        except tg.DeviceError as error:
            pytest.skip(str(error))
        found = F.attention(*moved, attn_mask=tg.Tensor(mask, device=device))
        np.testing.assert_allclose(found.cpu().numpy(), expected, atol=1e-5)
        plain = F.attention(*moved, causal=True).cpu().numpy()
        expected = F.attention(q, k[:1], v[:1, :1], causal=True).detach().numpy()
        np.testing.assert_allclose(plain, expected, atol=1e-5)

    @pytest.mark.parametrize(
        ("mask", "error", "message"),
        [
            (np.ones((2, 5), bool), ValueError, r"attn_mask \(2, 5\) does not broadcast to \(2, 2"),
            (np.ones((3, 2, 2, 3, 5), bool), ValueError, "does not broadcast"),
            (np.ones((3, 5), int), TypeError, "attn_mask is int64, expected booleans or float32"),
            (np.ones((3, 5)), TypeError, "attn_mask is float64"),
        ],
    )
    def test_masks_that_do_not_fit(self, mask, error, message):
        with pytest.raises(error, match=message):
            F.attention(*self.qkv(), attn_mask=mask)

    def test_batches_that_do_not_broadcast(self):
        with pytest.raises(ValueError, match=r"attention: q \(2, 3, 4\), k \(3, 5, 4\)"):
            F.attention(tg.zeros((2, 3, 4)), tg.zeros((3, 5, 4)), tg.zeros((3, 5, 4)))
