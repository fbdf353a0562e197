"""Cross-entropy in CUDA against its reference."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from precision import BF16, DTYPES, FLOAT, assert_precise, draw
from served import served

from tinygrad_char.kernels import cross_entropy as reference_cross_entropy
from tinygrad_char.kernels.cross_entropy import Saved
from tinygrad_char.kernels.cross_entropy import cuda as cross_entropy_cuda

ROWS = st.integers(1, 20)
SEEDS = st.integers(0, 1000)
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
    dlogits = kernel.backward(grad, Saved(logits, targets, results[1]), *options)
    assert dlogits.dtype == dtype
    assert_precise(dlogits, gradient_of(targets, options), (logits, np.asarray(grad)), factor=8)


def gradient_of(targets, options):
    """Return the reference's backward from logits and the cotangent, whatever their precision."""

    def compute(logits, grad):
        _, statistics = reference_cross_entropy.forward(logits.astype(np.float64), targets)
        statistics = statistics.astype(logits.dtype)
        return reference_cross_entropy.backward(grad, Saved(logits, targets, statistics), *options)

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
    expected = kernel.backward(one, Saved(logits, targets, statistics), *options)
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
    grad = kernel.backward(np.float32(1), Saved(logits, targets, statistics))
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
    two_passes = kernel.backward(np.ones(3, np.float32), Saved(logits, targets, statistics), "none")
    for each in (losses, again, grad.sum(axis=1), two_passes.sum(axis=1)):
        assert np.isnan(each).tolist() == [False, True, True]
    assert np.isnan(kernel.one_pass(logits, targets)[0])


def test_double_precision_is_the_references(launcher):
    x = np.random.default_rng(0).standard_normal((3, 5))
    assert served("cross_entropy", launcher).forward(x, np.zeros(3, int))[0].dtype == np.float64
    one_pass = served("cross_entropy", launcher).one_pass
    assert one_pass(x, np.zeros(3, int)) is NotImplemented  # forward and backward serve instead


@pytest.mark.parametrize(("dtype", "columns"), [(FLOAT, 65), (BF16, 40), (FLOAT, 1500)])
def test_check_mode_finds_nothing(checking_launcher, dtype, columns):
    rng = np.random.default_rng(0)
    x = draw(rng, (11, columns), dtype)
    kernel = served("cross_entropy", checking_launcher)
    targets = rng.integers(0, columns, 11)
    loss, statistics = kernel.forward(x, targets)
    kernel.backward(loss, Saved(x, targets, statistics))
    loss, _, gradient = kernel.one_pass(x, targets)
    kernel.rescale(loss, gradient)
