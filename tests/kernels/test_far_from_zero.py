"""Softmax, cross-entropy and attention of numbers far from zero: as exact as near it.

Inputs are multiples of 1/8, small enough that to add a shift to them, or to their products, rounds
nothing. Only how far a number lies below the peak of its row may matter: results are those without
the shift, to the last bit.
"""

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels import attention, cross_entropy, log_softmax, softmax
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.dropout import DropoutKey, keep_mask, keep_scale

KEY = DropoutKey(7, 3)
SHIFTS = st.sampled_from([1e3, -1e3, 1e4, 2.0**17])
SCALES = st.sampled_from([1.0, 0.25, 0.3, 3.0, -0.3])
SEEDS = st.integers(0, 2**32 - 1)
LENGTHS = st.sampled_from([1, 2, 3, 4, 5, 9, 16, 17, 33, 95, 97, 130])
# the version is chosen for the whole test, not for each example
modest = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def eighths(rng, *shape, most=64):
    return rng.integers(-most, most, shape, endpoint=True).astype(np.float32) / 8


def assert_same(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@modest
@given(SHIFTS, SCALES, st.integers(1, 20), LENGTHS, st.booleans(), st.booleans(), SEEDS)
def test_softmax(shift, scale, rows, columns, masked, causal, seed):
    rng = np.random.default_rng(seed)
    x = eighths(rng, rows, columns)
    mask = rng.random(columns) < 0.7 if masked else None
    y, expected = (softmax.forward(each, mask, -1, causal, scale) for each in (x + shift, x))
    np.testing.assert_array_equal(y, expected)
    weights = np.exp(scale * x.astype(np.float64))
    if masked:
        weights *= mask
    if causal:
        weights *= np.tri(rows, columns, columns - rows)
    totals = weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(y, weights / np.where(totals == 0, 1, totals), rtol=2e-5, atol=1e-37)

    y, expected = (log_softmax.forward(each) for each in (x + shift, x))
    np.testing.assert_array_equal(y, expected)


@modest
@given(SHIFTS, st.integers(1, 20), LENGTHS, st.sampled_from(["none", "sum", "mean"]), SEEDS)
def test_cross_entropy(shift, rows, classes, reduction, seed):
    rng = np.random.default_rng(seed)
    logits = eighths(rng, rows, classes)
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    logits[:, 0] = 1
    targets = rng.integers(0, classes, rows)
    targets[rng.random(rows) < 0.3] = 2**40  # ignored
    results = []
    for each in (logits + np.float32(shift), logits):
        loss, statistics = cross_entropy.forward(each, targets, reduction, 2**40)
        grad = np.asarray(np.linspace(0.5, 2, rows) if reduction == "none" else 0.7, np.float32)
        saved = cross_entropy.Saved(each, targets, statistics)
        results.append((loss, cross_entropy.backward(grad, saved, reduction, 2**40)))
    assert_same(*results)


def test_cross_entropy_of_ties():
    logits = np.array([[1e30, 1e30, -1e30, 0]], np.float32)
    loss, statistics = cross_entropy.forward(logits, np.array([1]))
    assert loss == np.float32(np.log(2))
    assert statistics.tolist() == [[np.float32(1e30), 2]]
    saved = cross_entropy.Saved(logits, np.array([1]), statistics)
    grad = cross_entropy.backward(np.float32(1), saved)
    assert grad.tolist() == [[0.5, -0.5, 0, 0]]


@contextmanager
def narrow_registers(lanes):
    """Have the kernels in C, if there are any, use registers of so many numbers."""
    choose = getattr(compiled, "attention_choose_lanes", lambda most: None)
    choose(lanes)
    yield
    choose(1 << 40)


def attend(q, k, v, grad, causal, scale, dropout=0.0):
    """Return out, dq, dk and dv."""
    options = attention.Options(causal, scale, dropout, KEY)
    saved = attention.Saved(q, k, v, *attention.forward(q, k, v, options))
    grads = tuple(np.full_like(each, np.nan) for each in (q, k, v))
    attention.backward(grad, saved, grads, options)
    return saved.out, *grads


@pytest.mark.parametrize("lanes", [4, 8, 16])
@modest
@given(SHIFTS, SCALES, LENGTHS, LENGTHS, st.integers(1, 17), st.booleans(), st.booleans(), SEEDS)
def test_attention(lanes, shift, scale, queries, keys, size, causal, dropped, seed):
    """A last channel, of ones in q and the shift in k, adds the shift to all scores."""
    rng = np.random.default_rng(seed)
    q, k, v, grad = (eighths(rng, 1, 2, n, size, most=8) for n in (queries, keys, keys, queries))
    channel = np.ones((1, 2, queries, 1), np.float32), np.ones((1, 2, keys, 1), np.float32)
    q = np.concatenate([q, channel[0]], axis=-1)
    results = []
    with narrow_registers(lanes):
        for each in (shift, 0):
            shifted = np.concatenate([k, np.float32(each) * channel[1]], axis=-1)
            p = 0.3 if dropped else 0.0
            out, dq, dk, dv = attend(q, shifted, v, grad, causal, scale, p)
            results.append((out, dq[..., :-1], dk, dv))
            # what the shift is multiplied by cancels, but for the rounding of what adds up to zero
            size_of_slopes = abs(scale) * np.abs(grad).sum(-1).max() * np.abs(v).max()
            assert np.abs(dq[..., -1]).max() <= 1e-5 * abs(each) * size_of_slopes
    assert_same(*results)


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("scale", [1.0, 0.3, -0.3])
@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 4), (3, 130), (4, 4), (7, 96), (16, 20), (17, 97), (100, 200)]
)
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_attention_of_ties(lanes, scale, queries, keys, p):
    """Equal keys share the weight, however large scores are, and those far below have none."""
    rng = np.random.default_rng(keys)
    q, k = rng.uniform(1e14, 1e15, (2, 1, 2, 1, 5)).astype(np.float32)
    q = np.repeat(q, queries, axis=2)
    tied = np.arange(keys) % 3 != 1
    k = k * np.where(tied, np.sign(scale), -np.sign(scale)).astype(np.float32)[:, None]
    v, grad = rng.standard_normal((2, 1, 2, max(queries, keys), 12), dtype=np.float32)
    v, grad = v[:, :, :keys, :6], grad[:, :, :queries, ::2]  # of which rows are not contiguous
    with narrow_registers(lanes), np.errstate(over="ignore"):
        out, dq, dk, dv = attend(q, k, v, grad, False, scale, p)
    weights = tied / tied.sum() * np.ones((1, 2, queries, 1))
    if p:
        weights = weights * keep_mask(np, weights.shape, p, KEY) * keep_scale(p)
    np.testing.assert_allclose(out, weights @ v, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dv, weights.swapaxes(-1, -2) @ grad, rtol=1e-5, atol=1e-5)
    assert np.isfinite(dq).all()
    assert (dk[:, :, ~tied] == 0).all()


def test_four_ties():
    """The smallest case: four queries and four keys whose scores are all 1e30."""
    q = np.full((1, 1, 4, 1), 1e15, np.float32)
    one = np.ones((1, 1, 4, 1), np.float32)
    out, _, _, dv = attend(q, q, one, one, False, 1.0)
    assert (out == 1).all()
    assert (dv == 1).all()
