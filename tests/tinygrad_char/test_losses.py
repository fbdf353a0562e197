"""Losses and activations where formulas break, and what they refuse."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_char as tg
from tinygrad_char import functional as F

INF = math.inf


def leaf(values, dtype=np.float32):
    return tg.Tensor(np.array(values, dtype), requires_grad=True)


def gradient(result, *leaves):
    result.backward(np.ones(result.shape, result.dtype))
    return [each.grad.tolist() for each in leaves]


class TestCrossEntropy:
    def test_classes_that_cannot_be_cost_nothing_unless_asked_for(self):
        x = leaf([[-INF, 0.0, 0.0]])
        loss = F.cross_entropy(x, [1], weight=[1.0, 1.0, 1.0])
        assert loss.item() == pytest.approx(math.log(2))
        assert gradient(loss, x)[0] == [[0.0, -0.5, 0.5]]
        y = leaf([[-INF, 0.0, 0.0]])
        loss = F.cross_entropy(y, tg.Tensor([[0.0, 0.5, 0.5]]))
        assert loss.item() == pytest.approx(math.log(2))
        assert gradient(loss, y)[0] == [[0.0, 0.0, 0.0]]
        assert F.cross_entropy(y, [0], label_smoothing=0.1).item() == INF

    def test_a_class_of_weight_0_adds_nothing_whatever_its_logit(self):
        x = leaf([[-INF, 0.0], [1.0, 1.0]])
        loss = F.cross_entropy(x, [0, 1], "sum", weight=[0.0, 2.0])
        assert loss.item() == pytest.approx(2 * math.log(2))
        assert gradient(loss, x)[0] == [[0.0, 0.0], [1.0, -1.0]]

    @pytest.mark.parametrize("logit", [1e3, 1e30, -1e30])
    @pytest.mark.parametrize("options", [{"weight": [1.0] * 4}, {"label_smoothing": 0.2}], ids=str)
    def test_large_equal_logits_are_as_small_ones(self, logit, options):
        x, small = leaf([[logit] * 4]), leaf([[0.0] * 4])
        losses = [F.cross_entropy(each, [1], **options) for each in (x, small)]
        assert losses[0].item() == losses[1].item()
        assert gradient(losses[0], x) == gradient(losses[1], small)

    def test_digits_of_the_gradient_do_not_depend_on_the_peak(self):
        rng = np.random.default_rng(0)
        base = rng.standard_normal((8, 5)).astype(np.float32)
        x = leaf(np.round(base * 64) / 64 + 1000)
        shifted = leaf(np.round(base * 64) / 64)
        for each in (x, shifted):
            F.cross_entropy(each, [0] * 8, weight=[1, 2, 3, 4, 5]).backward()
        np.testing.assert_allclose(x.grad.numpy(), shifted.grad.numpy(), atol=2e-8)

    @pytest.mark.parametrize(
        "options",
        [{}, {"weight": [1.0, 2.0]}, {"label_smoothing": 0.3}],
        ids=["plain", "weight", "smoothing"],
    )
    @pytest.mark.parametrize("rows", [0, 3])
    def test_nothing_that_counts(self, options, rows):
        targets = np.full(rows, -100)
        for reduction, expected in (("mean", math.nan), ("sum", 0.0)):
            x = leaf(np.zeros((rows, 2)))
            loss = F.cross_entropy(x, targets, reduction, **options)
            assert loss.item() == pytest.approx(expected, nan_ok=True)
            if reduction == "sum":
                assert gradient(loss, x)[0] == [[0.0, 0.0]] * rows
        x = leaf(np.zeros((rows, 2)))
        assert F.cross_entropy(x, targets, "none", **options).tolist() == [0.0] * rows

    def test_a_total_weight_of_0_has_no_mean(self):
        assert math.isnan(F.cross_entropy(leaf([[1.0, 2.0]]), [0], weight=[0.0, 1.0]).item())
        assert math.isnan(F.nll_loss(leaf([[1.0, 2.0]]), [0], weight=[0.0, 1.0]).item())

    def test_ignored_rows_get_no_gradient_with_everything_on(self):
        x = leaf([[1.0, 2.0, 3.0], [INF, 0.0, 0.0]])
        loss = F.cross_entropy(
            x, [2, 7], "sum", ignore_index=7, weight=[1.0, 2.0, 3.0], label_smoothing=0.25
        )
        assert math.isfinite(loss.item())
        loss.backward()
        assert x.grad[1].tolist() == [0.0, 0.0, 0.0]
        assert abs(x.grad[0].sum().item()) < 1e-6

    def test_half_precision_is_computed_in_float32(self):
        x = leaf([[300.0, -300.0, 3.0]] * 2, np.float16)
        loss = F.cross_entropy(x, [0, 1], "none", label_smoothing=0.1)
        exact = F.cross_entropy(
            leaf(x.detach().numpy(), np.float64), [0, 1], "none", label_smoothing=0.1
        )
        assert loss.dtype == np.float16
        np.testing.assert_allclose(loss.tolist(), exact.tolist(), rtol=1e-3)

    @pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
    def test_any_axis_of_classes(self, axis):
        x = np.random.default_rng(1).standard_normal((3, 3, 3))
        targets = np.random.default_rng(2).integers(0, 3, (3, 3))
        moved = leaf(np.moveaxis(x, axis, -1), np.float64)
        given = leaf(x, np.float64)
        assert (
            F.cross_entropy(given, targets, "none", axis=axis).tolist()
            == F.cross_entropy(moved, targets, "none").tolist()
        )

    @pytest.mark.parametrize(
        ("arguments", "options", "error", "message"),
        [
            (([[1.0, 2.0]], [0]), {"reduction": "average"}, ValueError, "'average'"),
            (([[1.0, 2.0]], [0]), {"label_smoothing": 1.5}, ValueError, "label_smoothing=1.5"),
            (([[1.0, 2.0]], [0]), {"weight": [1.0]}, ValueError, r"weight \(1,\) for 2 classes"),
            (([[1.0, 2.0]], [2]), {"weight": [1.0, 1.0]}, IndexError, "is 2, expected.*0 to 1"),
            (([[1.0, 2.0]], [-1]), {"label_smoothing": 0.1}, IndexError, "is -1"),
            (([[1.0, 2.0]], [[0.5, 0.25, 0.25]]), {}, ValueError, r"\(1, 3\).*equal shapes"),
            (([[1.0, 2.0]], np.array([[0.5, 0.5]])), {}, TypeError, "float32.*float64"),
            (([[1.0, 2.0]], [True]), {}, TypeError, "bool, expected integers"),
            ((1.0, 0), {}, ValueError, "without axes"),
            (([[1.0, 2.0]], [0]), {"axis": 2}, IndexError, "axis 2"),
            (([[[1.0, 2.0]] * 3], [[0, 0]]), {}, ValueError, "say axis=1"),
        ],
    )
    def test_what_is_refused(self, arguments, options, error, message):
        logits, targets = arguments
        with pytest.raises(error, match=message):
            F.cross_entropy(leaf(logits), targets, **options)

    def test_a_weight_that_wants_a_gradient_is_refused(self):
        with pytest.raises(ValueError, match=r"no gradient is computed by weight.*detach"):
            F.cross_entropy(leaf([[1.0, 2.0]]), [0], weight=leaf([1.0, 1.0]))

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_smoothing_is_the_loss_of_smooth_probabilities(self, data):
        rows, classes = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        s = data.draw(st.floats(0, 1))
        x = rng.standard_normal((rows, classes)) * data.draw(st.sampled_from([1.0, 100.0]))
        t = rng.integers(0, classes, rows)
        q = np.eye(classes)[t] * (1 - s) + s / classes
        a, b = leaf(x, np.float64), leaf(x, np.float64)
        one, other = F.cross_entropy(a, t, label_smoothing=s), F.cross_entropy(b, q)
        assert one.item() == pytest.approx(other.item(), rel=1e-12, abs=1e-12)
        one.backward()
        other.backward()
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=1e-13)


class TestPairs:
    @pytest.mark.parametrize("x", [0.0, 20.0, -20.0, 88.0, 1e4, 1e38, INF])
    @pytest.mark.parametrize("target", [0.0, 1.0])
    def test_logits_of_any_size(self, x, target):
        wrong = leaf([x if target == 0 else -x])
        right = leaf([-x if target == 0 else x])
        loss = F.binary_cross_entropy_with_logits(wrong, [target])
        assert loss.item() == pytest.approx(x if x > 20 else math.log1p(math.exp(x)), rel=1e-6)
        assert gradient(loss, wrong)[0][0] == pytest.approx(
            (1 if target == 0 else -1) / (1 + math.exp(-x)), rel=1e-6
        )
        loss = F.binary_cross_entropy_with_logits(right, [target])
        small = math.log1p(math.exp(-x))
        assert loss.item() == pytest.approx(small, rel=1e-6)
        slope = math.exp(-x) / (1 + math.exp(-x)) * (1 if target == 0 else -1)
        assert gradient(loss, right)[0][0] == pytest.approx(slope, rel=1e-6)

    def test_probabilities_of_0_and_1(self):
        x = leaf([0.0, 1.0, 0.0, 1.0])
        losses = F.binary_cross_entropy(x, [0, 1, 1, 0], "none")
        assert losses.tolist() == [0.0, 0.0, 100.0, 100.0]
        assert np.isfinite(gradient(losses, x)[0]).all()

    def test_small_probabilities_keep_their_digits(self):
        assert F.binary_cross_entropy(leaf([1e-10]), [0.0]).item() == pytest.approx(1e-10)

    @pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss])
    def test_nothing_has_no_mean(self, loss):
        x = leaf(np.zeros((0, 2)))
        assert math.isnan(loss(x, x.detach()).item())
        assert loss(x, x.detach(), "sum").item() == 0
        assert gradient(loss(x, x.detach(), "none"), x)[0] == []

    def test_infinities_that_differ(self):
        x = leaf([INF, -INF, INF])
        assert F.mse_loss(x, [0.0, 0.0, -INF], "none").tolist() == [INF] * 3
        assert F.huber_loss(x, [0.0, 0.0, -INF], "none").tolist() == [INF] * 3
        y = leaf([INF, 1.0])
        assert gradient(F.huber_loss(y, 0.0, "sum", delta=2.0), y)[0] == [2.0, 1.0]

    def test_equal_pairs_have_no_slope(self):
        x = leaf([1.0, 2.0])
        assert gradient(F.l1_loss(x, [1.0, 1.0], "sum"), x)[0] == [0.0, 1.0]

    def test_smooth_l1_with_beta_0_is_l1(self):
        x = leaf([0.0, -2.0])
        loss = F.smooth_l1_loss(x, 0, "none", beta=0)
        assert loss.tolist() == [0.0, 2.0]
        assert gradient(loss, x)[0] == [0.0, -1.0]

    def test_half_precision_is_computed_in_float32(self):
        x = leaf([300.0, 200.0], np.float16)
        assert F.smooth_l1_loss(x, [0.0, 0.0], "none").tolist() == [299.5, 199.5]
        assert gradient(F.mse_loss(x, [299.0, 200.0], "sum"), x)[0] == [2.0, 0.0]

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda x: F.mse_loss(x, tg.zeros((2, 1))), ValueError, r"\(2,\).*\(2, 1\).*equal"),
            (lambda x: F.mse_loss(x, np.zeros(2)), TypeError, "float32 and target float64"),
            (lambda x: F.l1_loss(x, x, "all"), ValueError, "'all'"),
            (lambda x: F.l1_loss([1.0], x), TypeError, "expected a tensor, got list"),
            (lambda x: F.smooth_l1_loss(x, x, beta=-1), ValueError, "beta=-1"),
            (lambda x: F.huber_loss(x, x, delta=0), ValueError, "delta=0"),
            (lambda x: F.binary_cross_entropy(x, [0, 1]), ValueError, "input holds 2.*logits"),
            (lambda x: F.binary_cross_entropy(x / 2, [0, 3]), ValueError, "target holds 3"),
            (
                lambda x: F.binary_cross_entropy_with_logits(x, [0, 1], pos_weight=[[1], [1]]),
                ValueError,
                r"pos_weight \(2, 1\) does not broadcast to \(2,\)",
            ),
            (
                lambda x: F.binary_cross_entropy_with_logits(x, [0, 1], pos_weight=x),
                ValueError,
                "no gradient is computed by pos_weight",
            ),
        ],
    )
    def test_what_is_refused(self, call, error, message):
        with pytest.raises(error, match=message):
            call(leaf([1.0, 2.0]))


class TestActivations:
    @pytest.mark.parametrize(
        ("function", "values", "slopes"),
        [
            (F.silu, [0.0, INF, 0.0], [0.0, 1.0, 0.5]),
            (F.leaky_relu, [-INF, INF, 0.0], [np.float32(0.01), 1.0, np.float32(0.01)]),
            (lambda x: F.leaky_relu(x, 0.0), [0.0, INF, 0.0], [0.0, 1.0, 0.0]),
            (F.elu, [-1.0, INF, 0.0], [0.0, 1.0, 1.0]),
            (F.softplus, [0.0, INF, np.float32(math.log(2))], [0.0, 1.0, 0.5]),
        ],
        ids=["silu", "leaky_relu", "leaky_relu 0", "elu", "softplus"],
    )
    def test_infinities_and_zero(self, function, values, slopes):
        x = leaf([-INF, INF, 0.0])
        y = function(x)
        assert y.tolist() == values
        assert gradient(y, x)[0] == slopes
        assert math.isnan(function(leaf([math.nan])).item())

    @pytest.mark.parametrize("function", [F.silu, F.leaky_relu, F.elu, F.softplus])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_the_largest_numbers_pass_without_a_warning(self, function, dtype):
        largest = float(np.finfo(dtype).max)
        x = leaf([largest, -largest, float(np.finfo(dtype).tiny), -1000.0, 1000.0], dtype)
        y = function(x)
        assert y.dtype == dtype
        assert np.isfinite(y.detach().numpy()).all()
        assert np.isfinite(gradient(y, x)[0]).all()

    @pytest.mark.parametrize(
        "function", [F.silu, lambda x: F.leaky_relu(x, 0.0), F.elu, F.softplus]
    )
    def test_a_shut_gate_stays_shut_for_an_infinite_cotangent(self, function):
        x = leaf([-200.0])
        function(x).backward(np.array([INF], np.float32))
        assert x.grad.tolist() == [0.0]

    def test_softplus_of_beta_0_is_refused(self):
        with pytest.raises(ValueError, match="beta=0"):
            F.softplus(leaf([1.0]), beta=0)


class TestOneHot:
    def test_as_pytorch(self):
        assert F.one_hot([2, 0]).tolist() == [[0, 0, 1], [1, 0, 0]]
        assert F.one_hot([2, 0], 4).dtype == np.int64
        assert F.one_hot(1, 3).tolist() == [0, 1, 0]
        assert F.one_hot(np.zeros((0, 2), np.int64), 3).shape == (0, 2, 3)

    @pytest.mark.parametrize(
        ("idx", "classes", "error", "message"),
        [
            ([3], 3, IndexError, "is 3, expected an integer from 0 to 2"),
            ([-1], None, IndexError, "is -1"),
            ([0.5], 3, TypeError, "float32, expected integers"),
            (np.zeros(0, np.int64), None, ValueError, "no num_classes"),
            ([0], 0, ValueError, "num_classes=0"),
        ],
    )
    def test_what_is_refused(self, idx, classes, error, message):
        with pytest.raises(error, match=message):
            F.one_hot(idx, classes)
