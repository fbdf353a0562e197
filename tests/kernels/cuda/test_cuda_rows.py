"""LayerNorm, softmax and cross-entropy in CUDA against their references."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from precision import BF16, DTYPES, FLOAT, assert_precise, draw
from served import served

from tinygrad_char.kernels import cross_entropy as reference_cross_entropy
from tinygrad_char.kernels import layernorm as reference_layernorm
from tinygrad_char.kernels import softmax as reference_softmax
from tinygrad_char.kernels.cross_entropy import cuda as cross_entropy_cuda
from tinygrad_char.kernels.cuda.parameters import FlatParameters

ROWS = st.integers(1, 20)
COLUMNS = st.sampled_from(
    [1, 3, 8, 31, 33, 64, 65, 127, 128, 129, 256, 384, 1000, 1024, 1500, 8200, 8201]
)
SEEDS = st.integers(0, 1000)
NEEDS = st.tuples(st.booleans(), st.booleans(), st.booleans())


@settings(deadline=None, max_examples=25)
@given(ROWS, COLUMNS, st.sampled_from(DTYPES), st.booleans(), st.booleans(), NEEDS, SEEDS)
def test_layernorm_is_its_reference(launcher, rows, columns, dtype, scaled, shifted, needs, seed):
    rng = np.random.default_rng(seed)
    x, grad = draw(rng, (2, rows, columns), dtype)
    x = (x.astype(np.float32) + 3).astype(dtype)
    weight = draw(rng, columns) if scaled else None
    bias = draw(rng, columns) if shifted else None
    kernel = served("layernorm", launcher)
    results = kernel.forward(x, weight, bias)
    assert [each.dtype for each in results] == [dtype, FLOAT, FLOAT]
    assert_precise(results, reference_layernorm.forward, (x, weight, bias, 1e-5), factor=8)

    _, mean, rstd = results
    grads = kernel.backward(grad, x, weight, mean, rstd, needs)
    _, mean, rstd = reference_layernorm.forward(x.astype(np.float64), None, None)
    assert_precise(
        grads,
        lambda grad, x, weight: reference_layernorm.backward(
            grad, x, weight, mean.astype(grad.dtype), rstd.astype(grad.dtype), needs
        ),
        (grad, x, weight),
        factor=8,
        units=16,
    )
    if needs[0]:
        addend = draw(rng, x.shape, dtype)
        more, *others = kernel.backward(grad, x, weight, *results[1:], needs, addend)
        assert more.dtype == dtype
        for one, other in zip(others, grads[1:], strict=True):
            np.testing.assert_array_equal(one, other)
        assert_precise(
            more,
            lambda grad, x, weight, addend: (
                addend
                + reference_layernorm.backward(
                    grad, x, weight, mean.astype(grad.dtype), rstd.astype(grad.dtype), needs
                )[0]
            ),
            (grad, x, weight, addend),
            factor=8,
            units=16,
        )


def test_layernorm_far_from_zero_is_not_cancelled(launcher):
    x = 3000 + draw(np.random.default_rng(0), (2, 1000))
    rstd = served("layernorm", launcher).forward(x, None, None, 0.0)[2]
    exact = x.astype(np.float64).std(axis=-1, keepdims=True)
    assert np.abs(rstd * exact - 1).max() < 1e-4


@pytest.mark.parametrize("columns", [33, 128, 1500])
@pytest.mark.parametrize(("mean", "deviation"), [(3000, 1), (-1000, 0.02)])
def test_gradients_of_layernorm_far_from_zero(launcher, columns, mean, deviation):
    rng = np.random.default_rng(columns)
    x, grad = draw(rng, (2, 5, columns))
    x = x * np.float32(deviation) + np.float32(mean)
    weight = draw(rng, columns)
    needs = (True, True, True)
    truth = np.float64
    exact = reference_layernorm.forward(*(each.astype(truth) for each in (x, weight, weight)))
    kernel = served("layernorm", launcher)
    y, *kept = kernel.forward(x, weight, weight)
    assert np.abs(y - exact[0]).max() <= 1e-6 * np.abs(exact[0]).max()
    wide = (each.astype(truth) for each in (grad, x, weight))
    expected = reference_layernorm.backward(*wide, *exact[1:], needs)
    for mine, true in zip(kernel.backward(grad, x, weight, *kept, needs), expected, strict=True):
        assert np.abs(mine - true).max() <= 1e-6 * np.abs(true).max()


def test_layernorm_of_no_rows_has_zero_gradients(launcher):
    x, weight = np.empty((0, 7), np.float32), np.ones(7, np.float32)
    kernel = served("layernorm", launcher)
    y, mean, rstd = kernel.forward(x, weight, weight)
    assert y.shape == x.shape
    _, *grads = kernel.backward(x, x, weight, mean, rstd, (True, True, True))
    assert all((each == np.zeros(7)).all() for each in grads)


def test_layernorm_writes_the_gradient_of_its_weight_where_it_belongs(launcher):
    rng = np.random.default_rng(0)
    x, grad = draw(rng, (2, 40, 9))
    flat, grads = draw(rng, 20), np.zeros(20, np.float32)
    weight, buffer = flat[5:14], grads[5:14]
    kernel = served("layernorm", launcher)
    own = SimpleNamespace(array=weight, grad=None, grad_buffer=SimpleNamespace(array=buffer))
    kernel.flat = FlatParameters(flat, [own])
    _, mean, rstd = kernel.forward(x, weight, None)
    needs = (True, True, False)
    written = kernel.backward(grad, x, weight, mean, rstd, needs)[1]
    again = kernel.backward(grad, x, weight, mean, rstd, needs)[1]
    assert written is buffer
    assert not np.may_share_memory(again, grads)
    np.testing.assert_array_equal(again, buffer)
    assert not grads[:5].any()
    assert not grads[14:].any()


def test_layernorm_sums_more_rows_than_it_has_blocks_and_repeats_itself(launcher):
    rng = np.random.default_rng(3)
    x, grad = draw(rng, (2, 5000, 9))
    kernel = served("layernorm", launcher)
    _, mean, rstd = kernel.forward(x, None, None)
    needs = (False, True, True)
    first = kernel.backward(grad, x, None, mean, rstd, needs)
    again = kernel.backward(grad, x, None, mean, rstd, needs)
    for one, other in zip(first[1:], again[1:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert_precise(
        first[1:],
        lambda *a: reference_layernorm.backward(*a, needs)[1:],
        (grad, x, None, mean, rstd),
    )


MASKS = st.sampled_from(["none", "all", "rows", "broadcast", "column"])


@settings(deadline=None, max_examples=25)
@given(
    ROWS, COLUMNS, st.sampled_from(DTYPES), MASKS, st.booleans(), st.sampled_from([1.0, 0.5]), SEEDS
)
def test_softmax_is_its_reference(launcher, rows, columns, dtype, masked, causal, scale, seed):
    rng = np.random.default_rng(seed)
    x, grad = draw(rng, (2, 2, 1, rows, columns), dtype)
    shape = {
        "none": None,
        "all": x.shape,
        "rows": (rows, columns),
        "broadcast": (2, 1, 1, columns),
        "column": (rows, 1),
    }[masked]
    mask = None if shape is None else rng.random(shape) < 0.7
    kernel = served("softmax", launcher)
    y = kernel.forward(x, mask, -1, causal, scale)
    assert y.dtype == dtype
    assert_precise(y, reference_softmax.forward, (x, mask, -1, causal, scale))
    dx = kernel.backward(grad, y, -1, causal, scale)
    assert dx.dtype == dtype
    assert_precise(dx, reference_softmax.backward, (grad, y, -1, causal, scale), factor=8)


@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan])
def test_softmax_keeps_what_is_not_finite(launcher, value):
    x = np.zeros((4, 40), np.float32)
    x[1, 3] = x[2] = value
    for mask in (None, x[:1] == 0):
        with np.errstate(invalid="ignore"):
            expected = reference_softmax.forward(x, mask)
        np.testing.assert_allclose(
            served("softmax", launcher).forward(x, mask), expected, rtol=1e-6
        )


def test_softmax_along_another_axis_is_the_references(launcher):
    x = draw(np.random.default_rng(0), (3, 4, 5))
    kernel = served("softmax", launcher)
    y = kernel.forward(x, None, 1)
    np.testing.assert_array_equal(y, reference_softmax.forward(x, None, 1))
    np.testing.assert_array_equal(kernel.backward(x, y, 1), reference_softmax.backward(x, y, 1))


REDUCTIONS = st.sampled_from(["none", "sum", "mean"])
CLASSES = st.sampled_from([1, 3, 31, 33, 64, 65, 127, 129, 1000, 1024, 1025, 1500, 2056])


def draw_targets(rng, rows, classes, ignored):
    targets = rng.integers(0, classes, rows)
    if ignored:
        targets[rng.random(rows) < 0.5] = -100
        targets[0] = 0
    return targets


@settings(deadline=None, max_examples=25)
@given(ROWS, CLASSES, st.sampled_from(DTYPES), REDUCTIONS, st.booleans(), SEEDS)
def test_cross_entropy_is_its_reference(launcher, rows, classes, dtype, reduction, ignored, seed):
    rng = np.random.default_rng(seed)
    logits = (3 * draw(rng, (rows, classes)) + 10).astype(dtype)
    targets = draw_targets(rng, rows, classes, ignored)
    options = (reduction, -100)
    kernel = served("cross_entropy", launcher)
    results = kernel.forward(logits, targets, *options)
    assert {each.dtype for each in results} == {FLOAT}
    assert_precise(results, reference_cross_entropy.forward, (logits, targets, *options))

    grad = draw(rng, rows if reduction == "none" else ())
    dlogits = kernel.backward(grad, logits, targets, results[1], *options)
    assert dlogits.dtype == dtype
    assert_precise(dlogits, gradient_of(targets, options), (logits, np.asarray(grad)), factor=8)


def gradient_of(targets, options):
    """Return the reference's backward from logits and the cotangent, whatever their precision."""

    def compute(logits, grad):
        _, statistics = reference_cross_entropy.forward(logits.astype(np.float64), targets)
        statistics = statistics.astype(logits.dtype)
        return reference_cross_entropy.backward(grad, logits, targets, statistics, *options)

    return compute


@settings(deadline=None, max_examples=40)
@given(ROWS, CLASSES, st.sampled_from(DTYPES), REDUCTIONS, st.booleans(), SEEDS)
@example(3, 9000, FLOAT, "mean", True, 0)  # a part of such rows is read twice
@example(2, 8200, BF16, "mean", False, 0)
def test_cross_entropy_in_one_pass_is_its_reference(
    launcher, rows, classes, dtype, reduction, ignored, seed
):
    rng = np.random.default_rng(seed)
    logits = (3 * draw(rng, (rows, classes)) + 10).astype(dtype)
    targets = draw_targets(rng, rows, classes, ignored)
    options = (reduction, -100)
    kernel = served("cross_entropy", launcher)
    loss, statistics, dlogits = kernel.one_pass(logits, targets, *options)
    assert [loss.dtype, statistics.dtype, dlogits.dtype] == [FLOAT, FLOAT, dtype]
    assert_precise((loss, statistics), reference_cross_entropy.forward, (logits, targets, *options))
    one = np.ones(rows if reduction == "none" else (), np.float32)
    assert_precise(dlogits, gradient_of(targets, options), (logits, one), factor=8)
    # They are the two passes, to the last bit.
    expected = kernel.backward(one, logits, targets, statistics, *options)
    np.testing.assert_array_equal(dlogits, expected)

    before = dlogits.copy()
    assert kernel.rescale(one, dlogits) is dlogits
    np.testing.assert_array_equal(dlogits, before)
    grad = np.asarray(draw(rng, one.shape))
    assert kernel.rescale(grad, dlogits) is dlogits
    # Rounded twice where the gradient is of few bits.
    assert_precise(dlogits, gradient_of(targets, options), (logits, grad), factor=8, units=8)


def test_rescaling_takes_more_rows_than_it_has_blocks(launcher, monkeypatch):
    monkeypatch.setattr(cross_entropy_cuda, "MOST_RESCALING", 2)
    grad_logits = draw(np.random.default_rng(0), (50, 5))
    factors = np.where(np.arange(50) % 3, 1, 2).astype(np.float32)
    expected = grad_logits * factors[:, None]
    np.testing.assert_array_equal(
        served("cross_entropy", launcher).rescale(factors, grad_logits), expected
    )


def test_cross_entropy_of_ignored_targets_alone(launcher):
    logits, targets = np.ones((3, 5), np.float32), np.full(3, -100)
    kernel = served("cross_entropy", launcher)
    loss, statistics = kernel.forward(logits, targets)
    assert np.isnan(loss)
    grad = kernel.backward(np.float32(1), logits, targets, statistics)
    assert (grad == 0).all()
    loss, _, grad = kernel.one_pass(logits, targets)
    assert np.isnan(loss)
    assert (grad == 0).all()


def test_target_that_is_no_class_raises_or_gives_nan(launcher):
    logits, targets = np.ones((3, 5), np.float32), np.array([0, 5, -1])
    for function in ("forward", "one_pass"):
        with pytest.raises(IndexError, match=r"target at position \(1,\) is 5"):
            getattr(served("cross_entropy", launcher), function)(logits, targets)
    kernel = served("cross_entropy", launcher, check=False)
    losses, statistics = kernel.forward(logits, targets, "none")
    again, _, grad = kernel.one_pass(logits, targets, "none")
    two_passes = kernel.backward(np.ones(3, np.float32), logits, targets, statistics, "none")
    for each in (losses, again, grad.sum(axis=1), two_passes.sum(axis=1)):
        assert np.isnan(each).tolist() == [False, True, True]
    assert np.isnan(kernel.one_pass(logits, targets)[0])


def test_double_precision_is_the_references(launcher):
    x = np.random.default_rng(0).standard_normal((3, 5))
    y, mean, rstd = served("layernorm", launcher).forward(x, None, None)
    np.testing.assert_array_equal(y, reference_layernorm.forward(x, None, None)[0])
    assert y.dtype == mean.dtype == rstd.dtype == np.float64
    arguments = (y, x, None, mean, rstd, (True, False, False))
    dx, *_ = served("layernorm", launcher).backward(*arguments)
    np.testing.assert_array_equal(served("layernorm", launcher).backward(*arguments, x)[0], dx + x)
    assert served("softmax", launcher).forward(x).dtype == np.float64
    assert served("cross_entropy", launcher).forward(x, np.zeros(3, int))[0].dtype == np.float64
    loss, statistics, gradient = served("cross_entropy", launcher).one_pass(x, np.zeros(3, int))
    assert loss.dtype == statistics.dtype == np.float64
    assert gradient is None


def test_views_are_read_as_they_are(launcher):
    x = draw(np.random.default_rng(0), (8, 6)).T[::2]
    y, _, _ = served("layernorm", launcher).forward(x, None, None)
    np.testing.assert_allclose(y, reference_layernorm.forward(x, None, None)[0], atol=1e-6)
    begun_anywhere = draw(np.random.default_rng(0), 65)[1:].reshape(4, 16)
    y = served("softmax", launcher).forward(begun_anywhere)
    np.testing.assert_allclose(y, reference_softmax.forward(begun_anywhere), rtol=1e-5)


@pytest.mark.parametrize(("dtype", "columns"), [(FLOAT, 65), (BF16, 40), (FLOAT, 1500)])
def test_check_mode_finds_nothing(checking_launcher, dtype, columns):
    rng = np.random.default_rng(0)
    x, grad = draw(rng, (2, 11, columns), dtype)
    weight = draw(rng, columns)
    kernel = served("layernorm", checking_launcher)
    y, mean, rstd = kernel.forward(x, weight, weight)
    kernel.backward(grad, x, weight, mean, rstd, (True, True, True))
    kernel.backward(grad, x, weight, mean, rstd, (True, True, True), y)
    kernel = served("softmax", checking_launcher)
    y = kernel.forward(x, rng.random((11, columns)) < 0.7)
    kernel.backward(grad, y)
    kernel = served("cross_entropy", checking_launcher)
    targets = rng.integers(0, columns, 11)
    loss, statistics = kernel.forward(x, targets)
    kernel.backward(loss, x, targets, statistics)
    loss, _, gradient = kernel.one_pass(x, targets)
    kernel.rescale(loss, gradient)
