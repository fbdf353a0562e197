"""The CUDA kernels of softmax, cross-entropy and attention, of numbers far from zero.

As in ../test_far_from_zero.py, adding a shift to inputs or scores rounds nothing, not even to the
few bits of bfloat16 and of TF32's operands, and must change no bit of a result.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import BF16, FLOAT
from served import served

from tinygrad_char.kernels import cross_entropy
from tinygrad_char.kernels.attention import Options, Saved
from tinygrad_char.kernels.dropout import DropoutKey

KEY = DropoutKey(7, 3)
KINDS = {"plain": (FLOAT, False), "tf32": (FLOAT, True), "bf16": (BF16, False)}
SHIFTS = st.sampled_from([1024.0, -1024.0, 2.0**14])
LENGTHS = st.sampled_from([1, 15, 33, 64, 130])
COLUMNS = st.sampled_from([1, 3, 31, 64, 129, 1024, 1500])
SEEDS = st.integers(0, 2**32 - 1)


def eighths(rng, *shape, most=64):
    return rng.integers(-most, most, shape, endpoint=True).astype(np.float32) / 8


def assert_same(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@settings(deadline=None, max_examples=40)
@given(SHIFTS, st.sampled_from([1.0, 0.3, -0.3]), st.integers(1, 9), COLUMNS, st.booleans(), SEEDS)
def test_softmax(launcher, shift, scale, rows, columns, masked, seed):
    rng = np.random.default_rng(seed)
    x = eighths(rng, rows, columns)
    mask = rng.random(columns) < 0.7 if masked else None
    y, expected = (
        served("softmax", launcher).forward(each, mask, scale=scale) for each in (x + shift, x)
    )
    np.testing.assert_array_equal(y, expected)


def test_the_scale_of_softmax_rounds_no_number_of_few_bits(launcher):
    x = np.array([[1000, 1004]], np.float32)
    expected = 1 / (1 + np.exp(0.3 * np.array([4, -4])))
    for dtype, unit in ((FLOAT, 2.0**-22), (BF16, 2.0**-8)):
        y = served("softmax", launcher).forward(x.astype(dtype), scale=0.3).astype(np.float64)
        np.testing.assert_allclose(y, [expected], rtol=unit)


@settings(deadline=None, max_examples=40)
@given(SHIFTS, st.integers(1, 9), COLUMNS, st.sampled_from(["none", "sum", "mean"]), SEEDS)
def test_cross_entropy(launcher, shift, rows, classes, reduction, seed):
    rng = np.random.default_rng(seed)
    logits = eighths(rng, rows, classes)
    targets = rng.integers(0, classes, rows)
    targets[rng.random(rows) < 0.3] = -100
    kernel = served("cross_entropy", launcher)
    grad = np.ones(rows if reduction == "none" else (), np.float32)
    results = []
    for each in (logits + np.float32(shift), logits):
        loss, statistics = kernel.forward(each, targets, reduction)
        again, _, in_one_pass = kernel.one_pass(each, targets, reduction)
        dlogits = kernel.backward(grad, cross_entropy.Saved(each, targets, statistics), reduction)
        assert_same((again, in_one_pass), (loss, dlogits))
        results.append((loss, dlogits))
    assert_same(*results)


@pytest.mark.parametrize("dtype", [FLOAT, BF16])
def test_cross_entropy_of_ties(launcher, dtype):
    logits, targets = np.array([[1e30, 1e30, -1e30, 0]], np.float32).astype(dtype), np.array([1])
    kernel = served("cross_entropy", launcher)
    loss, statistics, in_one_pass = kernel.one_pass(logits, targets)
    assert abs(float(loss) - np.log(2)) < 1e-7
    saved = cross_entropy.Saved(logits, targets, statistics)
    for grad in (in_one_pass, kernel.backward(np.float32(1), saved)):
        assert grad.astype(np.float32).tolist() == [[0.5, -0.5, 0, 0]]


def attend(kernel, q, k, v, grad, causal, scale, p=0.0):
    """Return out, dq, dk and dv."""
    options = Options(causal, scale, p, KEY)
    saved = Saved(q, k, v, *kernel.forward(q, k, v, options))
    grads = tuple(np.full_like(each, np.nan) for each in (q, k, v))
    kernel.backward(grad, saved, grads, options)
    return saved.out, *grads


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(sorted(KINDS)),
    *(SHIFTS, st.sampled_from([1.0, 0.3]), LENGTHS, LENGTHS, st.booleans(), st.booleans(), SEEDS),
)
def test_attention(launcher, kind, shift, scale, queries, keys, causal, dropped, seed):
    """A channel, of ones in q and the shift in k, adds the shift to all scores."""
    dtype, tf32 = KINDS[kind]
    rng = np.random.default_rng(seed)
    shapes = [(1, 2, length, 16) for length in (queries, keys, keys, queries)]
    q, k, v, grad = (eighths(rng, *shape, most=8).astype(dtype) for shape in shapes)
    q[..., -1] = 1
    for atomics in (False, True):
        kernel, results = served("attention", launcher, tf32=tf32, atomics=atomics), []
        for each in (shift, 0):
            k[..., -1] = each
            out, dq, dk, dv = attend(kernel, q, k, v, grad, causal, scale, 0.3 * dropped)
            results.append((out, dq[..., :-1], dk, dv))
        assert_same(*results)


@pytest.mark.parametrize("atomics", [False, True])
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(("queries", "keys"), [(4, 4), (33, 130), (130, 33)])
def test_attention_of_ties(launcher, kind, atomics, queries, keys):
    """Equal keys share the weight, however large scores are, and those far below have none."""
    dtype, tf32 = KINDS[kind]
    rng = np.random.default_rng(keys)
    q, k = rng.uniform(1e14, 1e15, (2, 1, 2, 1, 16)).astype(np.float32)
    tied = np.arange(keys) % 3 != 1
    q = np.repeat(q, queries, axis=2).astype(dtype)
    k = (k * np.where(tied, 1, -1)[:, None]).astype(dtype)
    v, grad = rng.standard_normal((2, 1, 2, max(queries, keys), 16), dtype=np.float32).astype(dtype)
    v, grad = v[:, :, :keys], grad[:, :, :queries]
    kernel = served("attention", launcher, tf32=tf32, atomics=atomics)
    out, dq, dk, dv = attend(kernel, q, k, v, grad, False, 0.3)
    weights = tied / tied.sum() * np.ones((1, 2, queries, 1))
    v, grad = (each.astype(np.float64) for each in (v, grad))
    unit = {"plain": 1e-6, "tf32": 2.0**-10, "bf16": 2.0**-8}[kind]
    np.testing.assert_allclose(out.astype(np.float64), weights @ v, rtol=0, atol=4 * unit)
    expected = weights.swapaxes(-1, -2) @ grad
    np.testing.assert_allclose(dv.astype(np.float64), expected, rtol=0, atol=16 * unit)
    assert np.isfinite(dq.astype(np.float32)).all()
    assert (dk[:, :, ~tied].astype(np.float32) == 0).all()
