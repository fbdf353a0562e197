"""Attention against a naive version in float64, backward written from the Jacobian of softmax."""

import numpy as np
import pytest
import unseen
from closeness import SIZES, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels import attention
from tinygrad_char.kernels.attention import Cache, Options, Saved
from tinygrad_char.kernels.backend import status
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.dropout import DropoutKey, keep_mask, keep_scale

KEY = DropoutKey(7, 3)


def naive(q, k, v, grad, causal, scale, kept):
    """Return out, dq, dk, dv in float64 and, for each, the sum of its terms' magnitudes.

    `kept` is what the weights are multiplied by: the dropout mask over 1 - p.
    """
    queries, keys = q.shape[2], k.shape[2]
    scores = scale * np.einsum("bhtd,bhsd->bhts", q, k)
    seen = np.array(
        [[not causal or j <= i + keys - queries for j in range(keys)] for i in range(queries)]
    )
    seen = np.broadcast_to(seen.reshape(queries, keys), scores.shape)
    weights = np.zeros(scores.shape)
    for index in np.ndindex(scores.shape[:3]):
        chosen = seen[index]
        if chosen.any():
            row = np.exp(scores[index][chosen] - scores[index][chosen].max())
            weights[index][chosen] = row / row.sum()
    out = np.einsum("bhts,bhse->bhte", weights * kept, v)
    dweights = np.einsum("bhte,bhse->bhts", grad, v) * kept
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdims=True))
    sizes = np.einsum("bhte,bhse->bhts", abs(grad), abs(v)) * kept
    sizes = weights * (sizes + (weights * sizes).sum(-1, keepdims=True))
    results = (
        out,
        scale * np.einsum("bhts,bhsd->bhtd", dscores, k),
        scale * np.einsum("bhts,bhtd->bhsd", dscores, q),
        np.einsum("bhts,bhte->bhse", weights * kept, grad),
    )
    # a score's rounding is a relative error of its weight
    condition = 1 + scale * np.einsum("bhtd,bhsd->bhts", abs(q), abs(k)).max(initial=0)
    magnitudes = (
        np.einsum("bhts,bhse->bhte", weights * kept, abs(v)),
        scale * np.einsum("bhts,bhsd->bhtd", sizes, abs(k)),
        scale * np.einsum("bhts,bhtd->bhsd", sizes, abs(q)),
        np.einsum("bhts,bhte->bhse", weights * kept, abs(grad)),
    )
    return results, [condition * each.max(initial=0) for each in magnitudes]


def draw(batch, heads, queries, keys, size, value_size, dtype=np.float32):
    rng = np.random.default_rng([queries, keys, size])
    shapes = [(queries, size), (keys, size), (keys, value_size), (queries, value_size)]
    return [rng.standard_normal((batch, heads, *shape)).astype(dtype) for shape in shapes]


def check(q, k, v, grad, causal, scale=0.5, dropout=0.0, kept=1.0, grads=None):
    options = Options(causal, scale, dropout, KEY)
    out, statistics = attention.forward(q, k, v, options)
    if grads is None:
        grads = tuple(np.full_like(each, np.nan) for each in (q, k, v))
    attention.backward(grad, Saved(q, k, v, out, statistics), grads, options)
    wide = [each.astype(np.float64) for each in (q, k, v, grad)]
    truths, scales = naive(*wide, causal, scale, kept)
    for mine, truth, size in zip((out, *grads), truths, scales, strict=True):
        assert_close(mine, truth, size)
    return out, statistics


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    *(st.integers(1, each) for each in (3, 3, 9, 9)),
    st.integers(0, 3),
    st.booleans(),
)
def test_positions_are_added_to_a_cache_and_attend_to_all(
    lengths, batch, heads, size, value_size, more, causal
):
    total = sum(lengths)
    q, k, v, _ = draw(batch, heads, total, total, size, value_size)
    capacity = total + more
    keys = np.full((batch, heads, capacity, size), np.nan, np.float32)
    values = np.full((batch, heads, capacity, value_size), np.nan, np.float32)
    filled = np.zeros(1, np.int64)
    start = 0
    for length in lengths:
        part, end = np.s_[:, :, start : start + length], start + length
        options = Options(causal, 0.5)
        out = attention.cached(
            *(q[part], k[part], v[part]), Cache(keys, values, filled), options, attention.forward
        )
        seen = np.s_[:, :, :end]
        expected, _ = attention.forward(q[part], k[seen], v[seen], options)
        assert out.tobytes() == expected.tobytes()
        np.testing.assert_array_equal(keys[seen], k[seen])
        np.testing.assert_array_equal(values[seen], v[seen])
        assert filled[0] == end
        start = end
    assert np.isnan(keys[:, :, total:]).all()
    assert np.isnan(values[:, :, total:]).all()


@pytest.mark.parametrize("length", [3, 4])
def test_a_cache_without_room_is_refused_by_every_version(length):
    q = np.ones((1, 1, 1, 2), np.float32)
    keys, values = np.zeros((2, 1, 1, 3, 2), np.float32)
    cache = Cache(keys, values, np.array([length]))
    with pytest.raises(
        ValueError, match=f"cache of 3 positions, {length} of them filled, cannot take 1"
    ):
        attention.cached(q, q, q, cache, Options(True, 1.0), attention.forward)
    assert not keys.any()


@pytest.mark.skipif(compiled is None, reason=status())
@pytest.mark.parametrize(("length", "most"), [(3, 3), (-1, 3), (2**62, 3), (1, 1)])
def test_the_kernel_in_c_writes_nothing_where_a_cache_has_no_room(length, most):
    q = np.ones((1, 1, 1, 2), np.float32)
    keys, values = np.zeros((2, 1, 1, 3, 2), np.float32)
    out, filled = np.zeros_like(q), np.array([length], np.int64)
    statistics = np.zeros((1, 1, 1, 2), np.float32)
    with pytest.raises(MemoryError):
        compiled.attention_cached(
            *(q, q, q, keys[:, :, :most], values, filled, out, statistics, True, 1.0, 1, 9)
        )
    assert not keys.any()
    assert not values.any()
    assert filled[0] == length


@pytest.mark.parametrize("length", SIZES)
@pytest.mark.parametrize("causal", [False, True])
def test_sequence_attends_to_itself(length, causal):
    check(*draw(2, 2, length, length, 5, 5), causal)


@pytest.mark.parametrize(("queries", "keys"), [(1, 33), (31, 65), (65, 31), (3, 1), (7, 129)])
@pytest.mark.parametrize("causal", [False, True])
def test_queries_and_keys_of_different_number(queries, keys, causal):
    check(*draw(2, 3, queries, keys, 4, 7), causal)


@pytest.mark.parametrize("block", [1, 100, 250, 1 << 18])
@pytest.mark.parametrize("causal", [False, True])
def test_batch_in_several_blocks(monkeypatch, block, causal):
    monkeypatch.setattr("tinygrad_char.kernels.attention.reference.BLOCK", block)
    check(*draw(5, 2, 7, 7, 3, 3), causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block", [1, 1 << 18])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_falls_on_the_weights(monkeypatch, block, causal, p):
    monkeypatch.setattr("tinygrad_char.kernels.attention.reference.BLOCK", block)
    q, k, v, grad = draw(3, 2, 5, 9, 4, 4)
    kept = keep_mask(np, (3, 2, 5, 9), p, KEY) * keep_scale(p)
    assert 0 < kept.mean() < keep_scale(p)
    check(q, k, v, grad, causal, dropout=p, kept=kept)


def test_dropout_of_everything_gives_zeros():
    check(*draw(1, 2, 3, 3, 4, 4), True, dropout=1.0, kept=0.0)


def test_views_as_inputs_and_as_outputs():
    rng = np.random.default_rng(0)
    packed = rng.standard_normal((2, 9, 3, 4, 5)).astype(np.float32)  # (B, T, 3, H, D)
    q, k, v = packed.transpose(2, 0, 3, 1, 4)
    grad = rng.standard_normal((2, 9, 4, 5)).astype(np.float32).transpose(0, 2, 1, 3)
    result = np.full_like(packed, np.nan)
    check(q, k, v, grad, True, grads=tuple(result.transpose(2, 0, 3, 1, 4)))
    assert not np.isnan(result).any()


def test_reversed_and_stepped_views():
    q, k, v, grad = draw(4, 2, 10, 10, 6, 6)
    check(q[::-2, :, ::2], k[::-2, ::-1], v[::-2, ::-1, :, ::3], grad[::-2, ::-1, ::2, 1::3], True)


def test_result_joins_its_heads_without_a_copy():
    q, k, v, _ = draw(2, 3, 5, 5, 4, 4)
    out, _ = attention.forward(q, k, v, Options(True, 0.5))
    joined = out.transpose(0, 2, 1, 3).reshape(2, 5, 12)
    assert np.shares_memory(joined, out)


def test_query_that_sees_no_key():
    q, k, v, grad = draw(1, 2, 5, 3, 4, 4)
    out, statistics = check(q, k, v, grad, True)
    assert (out[:, :, :2] == 0).all()
    assert (statistics[:, :, :2] == (0, 1)).all()
    assert (statistics[:, :, 2:, 1] >= 1).all()


def test_no_keys_at_all():
    check(*draw(1, 2, 3, 0, 4, 4), False)
    check(*draw(1, 2, 3, 0, 4, 4), True)


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3), (2, 2, 0)])
def test_nothing_to_attend(shape):
    check(*draw(*shape, shape[2], 4, 4), True)


@pytest.mark.parametrize("queries", [1, 3, 5, 40])
def test_heads_of_no_numbers(queries):
    """Views of heads whose size is 0: kernels have room for the weights, however many there are."""
    q, k, v, grad = draw(1, 2, queries, 100_000, 4, 4)
    q, k, v, grad = (each[..., :0] for each in (q, k, v, grad))
    options = Options(False, 1.0)
    out, statistics = attention.forward(q, k, v, options)
    assert (statistics == (0, 100_000)).all()
    grads = (q.copy(), k.copy(), v.copy())
    attention.backward(grad, Saved(q, k, v, out, statistics), grads, options)


@pytest.mark.parametrize("causal", [False, True])
def test_large_scores_do_not_overflow(causal):
    q, k, v, grad = draw(1, 2, 9, 9, 4, 4)
    check(q * 300, k * 300, v, grad, causal)


def test_hidden_keys_may_hold_anything():
    q, k, v, grad = draw(1, 1, 3, 3, 4, 4)
    k[:, :, 2] = 1e30
    out, statistics = attention.forward(q, k, v, Options(True, 0.5))
    grads = tuple(np.empty_like(each) for each in (q, k, v))
    attention.backward(grad, Saved(q, k, v, out, statistics), grads, Options(True, 0.5))
    first, _ = attention.forward(q[:, :, :2], k[:, :, :2], v[:, :, :2], Options(True, 0.5))
    np.testing.assert_allclose(out[:, :, :2], first, rtol=1e-6)
    assert np.isfinite(grads[0][:, :, :2]).all()


@np.errstate(all="ignore")
def run_unseen(arrays, scale, dropout=0.0):
    q, k, v, grad = arrays
    options = Options(True, scale, dropout, KEY)
    out, statistics = attention.forward(q, k, v, options)
    grads = tuple(np.full_like(each, 7) for each in (q, k, v))
    attention.backward(grad, Saved(q, k, v, out, statistics), grads, options)
    return out, *grads


@pytest.mark.parametrize("case", unseen.CASES)
@pytest.mark.parametrize("lengths", unseen.LENGTHS)
@pytest.mark.parametrize("scale", [0.5, -0.3])
def test_what_a_query_does_not_see_reaches_no_result(lengths, case, scale):
    arrays = unseen.spoiled(case, *lengths)
    unseen.assert_unseen(run_unseen(arrays, scale), arrays, scale)


@pytest.mark.parametrize("length", [3, 9, 40])
def test_what_is_not_seen_reaches_no_result_with_dropout_either(length):
    arrays = unseen.spoiled("key and value", length, length)
    good = [each.copy() for each in arrays]
    good[1][:, :, -1] = good[2][:, :, -1] = 1
    results, expected = (run_unseen(each, 0.5, 0.3) for each in (arrays, good))
    for mine, other in zip(results[:2], expected[:2], strict=True):
        np.testing.assert_allclose(mine[:, :, :-1], other[:, :, :-1], rtol=1e-5, atol=1e-6)


def test_huge_products_that_are_not_seen_reach_no_result():
    q, k, v, grad = draw(1, 1, 40, 40, 4, 4)
    v[:, :, 39], grad[:, :, :20] = 3e38, 1e3
    results = run_unseen((q, k, v, grad), 0.5)
    for result in (results[0], results[1]):
        assert np.isfinite(result[:, :, :39]).all()


def test_inputs_are_left_alone():
    arrays = draw(2, 2, 5, 5, 4, 4)
    before = [each.copy() for each in arrays]
    check(*arrays, True)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
