"""Attention in CUDA against its reference."""

import numpy as np
import pytest
import unseen
from hypothesis import example, given, settings
from hypothesis import strategies as st
from precision import BF16, FLOAT, draw
from served import served

from tinygrad_char.kernels import attention as reference_attention
from tinygrad_char.kernels.attention import Options, Saved
from tinygrad_char.kernels.attention.cuda import MOST_HEAD, plan
from tinygrad_char.kernels.cuda.launcher import Kernel, Launcher
from tinygrad_char.kernels.cuda.variants import variants
from tinygrad_char.kernels.cuda_on_cpu.runner import CpuExecutor
from tinygrad_char.kernels.dropout import DropoutKey, keep_mask, keep_scale
from tinygrad_char.kernels.dropout.mask import RecordedKey

KEY = DropoutKey(0xFEDCBA9876543210, 99)
KINDS = {
    "plain": (FLOAT, False, 2.0**-24),
    "tf32": (FLOAT, True, 2.0**-11),
    "bf16": (BF16, False, 2.0**-9),
}
"""dtype, whether tensor cores take float32, and the rounding of what is multiplied."""

LENGTHS = st.sampled_from([1, 2, 15, 16, 31, 33, 64, 65, 127, 129, 144])


def inputs(seed, dtype, batch, heads, queries, keys, size):
    """Return q, k, v and the gradient of out."""
    rng = np.random.default_rng(seed)
    return [draw(rng, (batch, heads, n, size), dtype) for n in (queries, keys, keys, queries)]


def run(kernel, arrays, causal, scale, p=0.0, key=KEY):
    """Return out, statistics, dq, dk and dv."""
    q, k, v, grad = arrays
    options = Options(causal, scale, p, key)
    out, statistics = kernel.forward(q, k, v, options)
    grads = tuple(np.full_like(each, np.nan) for each in (q, k, v))
    kernel.backward(grad, Saved(q, k, v, out, statistics), grads, options)
    return out, statistics, *grads


def logsumexp(statistics, scale):
    """Return the one number that peak and total stand for, (B, H, T) in float64."""
    peak, total = np.moveaxis(statistics.astype(np.float64), -1, 0)
    return scale * peak + np.log(total)


def magnitudes(arrays, statistics, causal, scale, p):
    """Return for each result the sum of its terms' sizes, and the size of scores."""
    q, k, v, grad = arrays
    scores = scale * q @ k.swapaxes(-1, -2)
    seen = np.tri(*scores.shape[2:], k.shape[2] - q.shape[2] if causal else k.shape[2], bool)
    weights = np.exp(np.where(seen, scores, -np.inf) - logsumexp(statistics, scale)[..., None])
    kept = keep_mask(np, weights.shape, p, KEY) * keep_scale(p) if p else 1.0
    q, k, v, grad = (np.abs(each) for each in arrays)
    slopes = grad @ v.swapaxes(-1, -2) * kept
    slopes = weights * (slopes + (weights * slopes).sum(-1, keepdims=True))
    score = scale * (q @ k.swapaxes(-1, -2)).max()
    return (
        weights * kept @ v,
        1 + np.abs(scores).max(),
        scale * slopes @ k,
        scale * slopes.swapaxes(-1, -2) @ q,
        (weights * kept).swapaxes(-1, -2) @ grad,
    ), score


def assert_attention(results, arrays, rounding, causal, scale, p=0.0):
    """Assert that errors are some roundings of what each result is the sum of."""
    assert {each.dtype for each in (results[0], *results[2:])} == {arrays[0].dtype}
    assert results[1].dtype == np.float32
    wide = [each.astype(np.float64) for each in arrays]
    truth = run(reference_attention, wide, causal, scale, p)
    sizes, score = magnitudes(wide, truth[1], causal, scale, p)
    # a score's rounding is a relative error of its weight; the products of bfloat16 are exact
    condition = 1 + score * (rounding if rounding != 2.0**-9 else 2.0**-24) / rounding
    for number, (mine, exact, size) in enumerate(zip(results, truth, sizes, strict=True)):
        if number == 1:
            mine, exact = (logsumexp(each, scale) for each in (mine, exact))
        unit = 2.0**-24 if number == 1 and rounding == 2.0**-9 else rounding
        error = np.abs(mine.astype(np.float64) - exact)
        allowed = 8 * unit * condition * np.max(size)
        assert error.max(initial=0) <= allowed, (number, error.max(), allowed)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(1, 2),
    st.integers(1, 3),
    LENGTHS,
    LENGTHS,
    st.sampled_from([8, 16]),
    st.booleans(),
    st.sampled_from([0.0, 0.3]),
    st.booleans(),
    st.integers(0, 1000),
)
@example("plain", 1, 1, 33, 127, 16, False, 0.3, False, 0)
@example("bf16", 1, 2, 127, 31, 16, True, 0.0, False, 0)
@example("plain", 1, 1, 33, 127, 16, True, 0.3, True, 0)
@example("tf32", 1, 2, 65, 129, 16, False, 0.3, True, 0)
@example("bf16", 1, 2, 127, 31, 16, True, 0.0, True, 0)
def test_attention_is_its_reference(
    launcher, kind, batch, heads, queries, keys, size, causal, p, atomics, seed
):
    dtype, tf32, rounding = KINDS[kind]
    arrays = inputs(seed, dtype, batch, heads, queries, keys, size)
    options = (causal, size**-0.5, p)
    results = run(served("attention", launcher, tf32=tf32, atomics=atomics), arrays, *options)
    assert_attention(results, arrays, rounding, *options)


@pytest.mark.parametrize("atomics", [False, True])
@pytest.mark.parametrize(
    ("kind", "size"), [("plain", 60), ("tf32", 64), ("bf16", 64), ("bf16", 128)]
)
def test_other_head_sizes(launcher, kind, size, atomics):
    dtype, tf32, rounding = KINDS[kind]
    arrays = inputs(1, dtype, 1, 2, 70, 90, size)
    results = run(served("attention", launcher, tf32=tf32, atomics=atomics), arrays, True, 0.3, 0.1)
    assert_attention(results, arrays, rounding, True, 0.3, 0.1)


@pytest.mark.parametrize("keys", [32, 41])
@pytest.mark.parametrize("kind", ["plain", "bf16"])
def test_each_element_has_the_mask_of_the_reference(launcher, kind, keys):
    dtype, tf32, _ = KINDS[kind]
    q = np.zeros((2, 2, 37, 16), dtype)
    k = np.zeros((2, 2, keys, 16), dtype)
    mask = keep_mask(np, (2, 2, 37, keys), 0.5, KEY)
    for start in range(0, keys, 16):
        v = np.zeros(k.shape, dtype)
        width = min(16, keys - start)
        v[:, :, range(start, start + width), range(width)] = keys  # column j shows key start + j
        options = Options(False, 1.0, 0.5, KEY)
        out, _ = served("attention", launcher, tf32=tf32).forward(q, k, v, options)
        np.testing.assert_array_equal(out[..., :width] > 0, mask[..., start : start + width])


@pytest.mark.parametrize("atomics", [False, True])
def test_masks_of_a_recorded_graph_count_on_the_device(launcher, atomics):
    arrays = inputs(0, FLOAT, 1, 1, 20, 20, 16)
    recorded = np.array([4], np.uint64)
    kernel = served("attention", launcher, atomics=atomics)
    key = RecordedKey(KEY.seed, KEY.call - 4, recorded)
    mine = run(kernel, arrays, True, 0.5, 0.5, key)
    for one, other in zip(mine, run(kernel, arrays, True, 0.5, 0.5, KEY), strict=True):
        np.testing.assert_array_equal(one, other)


def test_dropout_of_everything_gives_zeros(launcher):
    for result in run(
        served("attention", launcher), inputs(0, FLOAT, 1, 2, 20, 20, 16), True, 0.5, 1.0
    )[::2]:
        assert (result == 0).all()


@pytest.mark.parametrize("atomics", [False, True])
def test_views_as_inputs_and_as_outputs(launcher, atomics):
    rng = np.random.default_rng(0)
    packed = draw(rng, (2, 40, 3, 4, 8))  # (B, T, 3, H, D)
    q, k, v = packed.transpose(2, 0, 3, 1, 4)
    grad = draw(rng, (2, 40, 4, 8)).transpose(0, 2, 1, 3)
    kernel = served("attention", launcher, atomics=atomics)
    options = Options(True, 0.5)
    out, statistics = kernel.forward(q, k, v, options)
    assert np.shares_memory(out.transpose(0, 2, 1, 3).reshape(2, 40, 32), out)
    result = np.full_like(packed, np.nan)
    grads = tuple(result.transpose(2, 0, 3, 1, 4))
    kernel.backward(grad, Saved(q, k, v, out, statistics), grads, options)
    assert_attention((out, statistics, *grads), (q, k, v, grad), 2.0**-24, True, 0.5)


def test_views_that_kernels_cannot_read_are_copied(launcher):
    q, k, v, grad = inputs(0, FLOAT, 2, 2, 20, 20, 9)
    views = [each[:, ::-1, ::2, 1:] for each in (q, k, v, grad)]
    kernel = served("attention", launcher)
    options = Options(True, 0.5)
    out, statistics = kernel.forward(*views[:3], options)
    grads = tuple(np.empty_like(each)[:, ::-1, ::2, 1:] for each in (q, k, v))
    kernel.backward(views[3], Saved(*views[:3], out, statistics), grads, options)
    assert_attention((out, statistics, *grads), views, 2.0**-24, True, 0.5)


@pytest.mark.parametrize("atomics", [False, True])
@pytest.mark.parametrize("case", unseen.CASES)
@pytest.mark.parametrize("lengths", unseen.LENGTHS)
def test_what_a_query_does_not_see_reaches_no_result(launcher, lengths, case, atomics):
    arrays = unseen.spoiled(case, *lengths)
    out, _, *grads = run(served("attention", launcher, atomics=atomics), arrays, True, 0.5)
    unseen.assert_unseen((out, *grads), arrays, 0.5)


@pytest.mark.parametrize("kind", ["tf32", "bf16"])
@pytest.mark.parametrize("case", unseen.CASES)
def test_nor_by_tensor_cores(launcher, case, kind):
    dtype, tf32, rounding = KINDS[kind]
    for lengths in ((70, 70), (20, 33)):
        arrays = unseen.spoiled(case, *lengths, size=16, dtype=dtype)
        for atomics in (False, True):
            out, _, *grads = run(
                served("attention", launcher, tf32=tf32, atomics=atomics), arrays, True, 0.5
            )
            unseen.assert_unseen((out, *grads), arrays, 0.5, 60 * rounding)


def test_large_scores_do_not_overflow(launcher):
    q, k, v, grad = inputs(0, FLOAT, 1, 2, 40, 40, 16)
    arrays = [q * 100, k * 100, v, grad]
    assert_attention(
        run(served("attention", launcher), arrays, True, 0.5), arrays, 2.0**-24, True, 0.5
    )


@pytest.mark.parametrize("atomics", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_keys_that_do_not_exist_give_nothing_where_all_scores_are_low(launcher, causal, atomics):
    q, k, v, grad = inputs(0, FLOAT, 1, 1, 41, 41, 16)
    arrays = [10 + 0.1 * q, 0.1 * k - 10, v, grad]  # zeros in the place of keys: weights of 2^1000
    results = run(served("attention", launcher, atomics=atomics), arrays, causal, 0.5)
    assert_attention(results, arrays, 2.0**-24, causal, 0.5)


def test_hidden_keys_may_hold_anything(launcher):
    q, k, v, grad = inputs(0, FLOAT, 1, 1, 40, 40, 16)
    k[:, :, 39] = 1e30
    results = run(served("attention", launcher), (q, k, v, grad), True, 0.5)
    shorter = [each[:, :, :39] for each in (q, k, v, grad)]
    for one, other in zip(
        results[:3], run(served("attention", launcher), shorter, True, 0.5), strict=False
    ):
        np.testing.assert_array_equal(one[:, :, :39], other)


@pytest.mark.parametrize("size", [5, MOST_HEAD + 16])
def test_what_kernels_do_not_serve_is_the_references(launcher, size):
    arrays = inputs(0, FLOAT, 1, 2, 7, 9, size)
    mine, theirs = (
        run(each, arrays, True, 0.5)
        for each in (served("attention", launcher), reference_attention)
    )
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [6, 12, 200])
def test_bfloat16_heads_of_other_sizes_are_computed_in_float32(launcher, size):
    arrays = inputs(0, BF16, 1, 2, 5, 7, size)
    results = run(served("attention", launcher), arrays, True, 0.25)
    wide = run(served("attention", launcher), [each.astype(FLOAT) for each in arrays], True, 0.25)
    assert results[1].dtype == FLOAT
    for rounded, exact in zip(results, wide, strict=True):
        assert np.abs(rounded.astype(FLOAT) - exact).max() <= 2.0**-7 * np.abs(exact).max()


def test_nothing_to_attend(launcher):
    kernel = served("attention", launcher)
    for queries, keys in ((0, 3), (3, 0)):
        arrays = inputs(0, FLOAT, 1, 2, queries, keys, 16)
        assert (run(kernel, arrays, True, 0.5)[0] == 0).all()


def test_gradients_repeat_themselves(launcher):
    arrays = inputs(0, BF16, 2, 2, 150, 150, 16)
    first, again = (run(served("attention", launcher), arrays, True, 0.2, 0.1) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


def test_order_of_blocks_changes_the_sums_of_atomic_additions_alone():
    arrays = inputs(0, FLOAT, 1, 1, 40, 200, 16)
    for atomics in (False, True):
        results = [
            run(
                served("attention", Launcher(CpuExecutor(order=order)), atomics=atomics),
                arrays,
                False,
                0.2,
            )
            for order in ("forward", "reverse")
        ]
        same = [np.array_equal(one, other) for one, other in zip(*results, strict=True)]
        assert same == [True, True, not atomics, True, True]
        assert_attention(results[1], arrays, 2.0**-24, False, 0.2)


def test_every_plan_is_compiled_and_fits_in_shared_memory():
    plans = {
        plan(precision, size)
        for precision in ("PLAIN", "TF32", "BF16")
        for size in range(4, MOST_HEAD + 1, 4)
    }
    macros = {
        tuple((name, str(value)) for name, value in sorted(each.macros(options).items()))
        for each in plans
        for options in (Options(True, 1.0), Options(True, 1.0, 0.5, KEY))
    }
    assert macros == set(variants(Kernel("attention", "").path.read_text()))
    a100 = 163 * 1024
    assert max(max(each.forward_bytes, each.atomic_bytes) for each in plans) <= a100


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_check_mode_finds_nothing(checking_launcher, kind):
    dtype, tf32, _ = KINDS[kind]
    for queries, keys in ((70, 90), (90, 70)):
        arrays = inputs(0, dtype, 1, 2, queries, keys, 16)
        for atomics in (False, True):
            run(
                served("attention", checking_launcher, tf32=tf32, atomics=atomics),
                arrays,
                True,
                0.25,
                0.3,
            )
