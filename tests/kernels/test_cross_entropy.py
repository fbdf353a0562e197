"""Cross-entropy against its definition in float64."""

import numpy as np
import pytest
from closeness import SIZES, assert_close

from tinygrad_char.kernels import cross_entropy
from tinygrad_char.kernels.cross_entropy import Saved


def reference(logits, targets, ignore_index=-100):
    """Return the losses (N,) and their gradients (N, V), row by row."""
    losses, grads = np.zeros(len(logits)), np.zeros(logits.shape)
    for i, (row, target) in enumerate(zip(logits, targets, strict=True)):
        if target != ignore_index:
            weights = np.exp(row - row.max())
            losses[i] = np.log(weights.sum()) + row.max() - row[target]
            grads[i] = weights / weights.sum()
            grads[i, target] -= 1
    return losses, grads


def problem(classes, scale=1.0, rows=11):
    rng = np.random.default_rng(classes)
    logits = (scale * rng.standard_normal((rows, classes))).astype(np.float32)
    targets = rng.integers(0, classes, rows)
    targets[::4] = -100
    return logits, targets


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_forward_and_backward_agree_with_float64(classes, scale, reduction):
    logits, targets = problem(classes, scale)
    losses, grads = reference(logits.astype(np.float64), targets)
    counted = targets != -100
    loss, statistics = cross_entropy.forward(logits, targets, reduction)
    cotangent = np.float32(0.7) * np.ones_like(loss)
    dlogits = cross_entropy.backward(cotangent, Saved(logits, targets, statistics), reduction)

    # a loss is rounded to its own size, a gradient to that of a probability: neither to the logits'
    count = counted.sum() if reduction == "mean" else 1
    scales = 1 + np.abs(losses)
    if reduction == "none":
        assert_close(loss, losses, scales)
    else:
        assert loss.dtype == np.float32
        assert_close(np.asarray(loss), losses.sum() / count, scales.sum() / count)
    assert_close(dlogits, 0.7 * grads / count, 1 / count)
    assert (dlogits[~counted] == 0).all()


def test_loss_keeps_its_digits_beside_large_logits():
    logits = np.array([[1e4, 1e4]], np.float32)
    loss, _ = cross_entropy.forward(logits, np.array([0]))
    assert abs(float(loss) - np.log(2)) < 1e-7


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_all_ignored(reduction):
    logits, _ = problem(5)
    targets = np.full(len(logits), -100)
    loss, statistics = cross_entropy.forward(logits, targets, reduction)
    assert np.isnan(loss) if reduction == "mean" else not np.any(loss)
    cotangent = np.ones_like(loss)
    dlogits = cross_entropy.backward(cotangent, Saved(logits, targets, statistics), reduction)
    assert (dlogits == 0).all()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_an_infinite_cotangent_gives_infinities_and_leaves_ignored_rows_alone(reduction, infinity):
    logits, targets = problem(5)
    loss, statistics = cross_entropy.forward(logits, targets, reduction)
    cotangent = np.full_like(loss, infinity)
    dlogits = cross_entropy.backward(cotangent, Saved(logits, targets, statistics), reduction)
    signs = np.where(np.arange(5) == targets[:, None], -infinity, infinity)
    signs[targets == -100] = 0
    assert (dlogits == signs).all()


def test_another_ignore_index_may_be_a_class():
    logits, targets = problem(4)
    targets = np.abs(targets) % 4
    loss, statistics = cross_entropy.forward(logits, targets, "sum", 2)
    losses, grads = reference(logits.astype(np.float64), targets, 2)
    assert_close(np.asarray(loss), np.asarray(losses.sum()), 1 + losses.sum())
    dlogits = cross_entropy.backward(np.float32(1), Saved(logits, targets, statistics), "sum", 2)
    assert_close(dlogits, grads, 4)


@pytest.mark.parametrize("target", [4, -1, 1000])
def test_target_outside_is_named(target):
    targets = np.array([0, target, 1])
    with pytest.raises(IndexError, match=rf"target at position \(1,\) is {target}, .* from 0 to 3"):
        cross_entropy.forward(np.zeros((3, 4), np.float32), targets)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64])
def test_any_integer_type_serves_for_targets(dtype):
    logits, targets = problem(5)
    targets = np.abs(targets) % 5
    expected, statistics = cross_entropy.forward(logits, targets)
    got, _ = cross_entropy.forward(logits, targets.astype(dtype))
    assert got == expected
    grad = cross_entropy.backward(np.float32(1), Saved(logits, targets.astype(dtype), statistics))
    assert grad.dtype == np.float32


def test_no_rows():
    logits, targets = np.zeros((0, 3), np.float32), np.zeros(0, int)
    assert np.isnan(cross_entropy.forward(logits, targets)[0])
    loss, statistics = cross_entropy.forward(logits, targets, "sum")
    assert loss == 0
    assert cross_entropy.backward(
        np.float32(1), Saved(logits, targets, statistics), "sum"
    ).shape == (0, 3)


def test_class_that_cannot_be():
    logits = np.array([[0.0, -np.inf, 0.0]], np.float32)
    loss, statistics = cross_entropy.forward(logits, np.array([0]))
    assert abs(loss - np.log(2)) < 1e-6
    grad = cross_entropy.backward(np.float32(1), Saved(logits, np.array([0]), statistics))
    np.testing.assert_allclose(grad, [[-0.5, 0, 0.5]], atol=1e-7)
    assert cross_entropy.forward(logits, np.array([1]))[0] == np.inf
