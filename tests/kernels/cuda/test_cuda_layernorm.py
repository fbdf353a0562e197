"""LayerNorm and RMSNorm in CUDA against their reference."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from precision import BF16, DTYPES, FLOAT, assert_precise, draw
from served import served

from tinygrad_char.kernels import layernorm as reference_layernorm
from tinygrad_char.kernels.cuda.parameters import FlatParameters
from tinygrad_char.kernels.layernorm import Saved

ROWS = st.integers(1, 20)
COLUMNS = st.sampled_from(
    [1, 3, 8, 31, 33, 64, 65, 127, 128, 129, 256, 384, 1000, 1024, 1500, 8200, 8201]
)
SEEDS = st.integers(0, 1000)
NEEDS = st.tuples(st.booleans(), st.booleans(), st.booleans())


@settings(deadline=None, max_examples=25)
@example(16, 1, FLOAT, False, False, (False, False, True), 258)  # a sum that cancels
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
    grads = kernel.backward(grad, Saved(x, weight, mean, rstd), needs)
    normalized, mean, rstd = reference_layernorm.forward(x.astype(np.float64), None, None)
    wide = np.abs(grad.astype(np.float64))
    assert_precise(
        grads,
        lambda grad, x, weight: reference_layernorm.backward(
            grad, Saved(x, weight, mean.astype(grad.dtype), rstd.astype(grad.dtype)), needs
        ),
        (grad, x, weight),
        factor=8,
        units=16,
        sizes=[None, (wide * np.abs(normalized)).sum(0), wide.sum(0)],
    )
    if needs[0]:
        addend = draw(rng, x.shape, dtype)
        more, *others = kernel.backward(grad, Saved(x, weight, *results[1:]), needs, addend)
        assert more.dtype == dtype
        for one, other in zip(others, grads[1:], strict=True):
            np.testing.assert_array_equal(one, other)
        assert_precise(
            more,
            lambda grad, x, weight, addend: (
                addend
                + reference_layernorm.backward(
                    grad, Saved(x, weight, mean.astype(grad.dtype), rstd.astype(grad.dtype)), needs
                )[0]
            ),
            (grad, x, weight, addend),
            factor=8,
            units=16,
        )


@settings(deadline=None, max_examples=25)
@given(ROWS, COLUMNS, st.sampled_from(DTYPES), st.booleans(), NEEDS, SEEDS)
def test_rms_norm_is_its_reference(launcher, rows, columns, dtype, scaled, needs, seed):
    rng = np.random.default_rng(seed)
    x, grad, addend = draw(rng, (3, rows, columns), dtype)
    x = (x.astype(np.float32) + 3).astype(dtype)
    weight = draw(rng, columns) if scaled else None
    kernel = served("layernorm", launcher)
    y, rstd = kernel.rms_forward(x, weight, None)
    assert (y.dtype, rstd.dtype) == (dtype, FLOAT)
    assert_precise(
        (y, rstd),
        reference_layernorm.rms_forward,
        (x, weight, None, 1e-5),
        factor=8,
    )
    wide = x.astype(np.float64)
    true_rstd = reference_layernorm.rms_forward(wide, None, None)[1]
    sums = np.abs(grad.astype(np.float64))
    assert_precise(
        kernel.rms_backward(grad, Saved(x, weight, None, rstd), needs, addend),
        lambda grad, x, weight, addend: reference_layernorm.rms_backward(
            grad, Saved(x, weight, None, true_rstd.astype(grad.dtype)), needs, addend
        ),
        (grad, x, weight, addend),
        factor=8,
        units=16,
        sizes=[None, (sums * np.abs(wide * true_rstd)).sum(0), sums.sum(0)],
    )


@pytest.mark.parametrize("columns", [7, 128, 1500])
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_rms_norm_of_rows_whose_squares_leave_the_range(launcher, columns, size):
    x = draw(np.random.default_rng(columns), (3, columns)) * np.float32(size)
    x[1] = 0
    y, rstd = served("layernorm", launcher).rms_forward(x, None, None, 1e-12)
    wide = x.astype(np.float64)
    exact = ((wide**2).mean(-1, keepdims=True) + 1e-12) ** -0.5
    np.testing.assert_allclose(rstd, exact, rtol=1e-6)
    np.testing.assert_allclose(y, wide * exact, rtol=2e-6)
    x[0, 3], x[1, 3], x[2, 3], x[2, 4] = np.inf, np.nan, np.inf, np.nan
    _, rstd = served("layernorm", launcher).rms_forward(x, None, None, 1e-12)
    np.testing.assert_array_equal(rstd[:, 0], [0, np.nan, np.nan])


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
    saved = Saved(x.astype(truth), weight.astype(truth), *exact[1:])
    expected = reference_layernorm.backward(grad.astype(truth), saved, needs)
    found = kernel.backward(grad, Saved(x, weight, *kept), needs)
    for mine, true in zip(found, expected, strict=True):
        assert np.abs(mine - true).max() <= 1e-6 * np.abs(true).max()


def test_layernorm_of_no_rows_has_zero_gradients(launcher):
    x, weight = np.empty((0, 7), np.float32), np.ones(7, np.float32)
    kernel = served("layernorm", launcher)
    y, mean, rstd = kernel.forward(x, weight, weight)
    assert y.shape == x.shape
    _, *grads = kernel.backward(x, Saved(x, weight, mean, rstd), (True, True, True))
    assert all((each == np.zeros(7)).all() for each in grads)


def test_layernorm_writes_the_gradient_of_its_weight_where_it_belongs(launcher):
    rng = np.random.default_rng(0)
    x, grad = draw(rng, (2, 40, 9))
    flat, grads = draw(rng, 20), np.zeros(20, np.float32)
    weight, buffer = flat[5:14], grads[5:14]
    own = SimpleNamespace(array=weight, grad=None, grad_buffer=SimpleNamespace(array=buffer))
    kernel = served("layernorm", launcher, parameters=FlatParameters(flat, [own]))
    _, mean, rstd = kernel.forward(x, weight, None)
    needs = (True, True, False)
    written = kernel.backward(grad, Saved(x, weight, mean, rstd), needs)[1]
    again = kernel.backward(grad, Saved(x, weight, mean, rstd), needs)[1]
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
    first = kernel.backward(grad, Saved(x, None, mean, rstd), needs)
    again = kernel.backward(grad, Saved(x, None, mean, rstd), needs)
    for one, other in zip(first[1:], again[1:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert_precise(
        first[1:],
        lambda grad, *saved: reference_layernorm.backward(grad, Saved(*saved), needs)[1:],
        (grad, x, None, mean, rstd),
    )


def test_double_precision_is_the_references(launcher):
    x = np.random.default_rng(0).standard_normal((3, 5))
    y, mean, rstd = served("layernorm", launcher).forward(x, None, None)
    np.testing.assert_array_equal(y, reference_layernorm.forward(x, None, None)[0])
    assert y.dtype == mean.dtype == rstd.dtype == np.float64
    arguments = (y, Saved(x, None, mean, rstd), (True, False, False))
    dx, *_ = served("layernorm", launcher).backward(*arguments)
    np.testing.assert_array_equal(served("layernorm", launcher).backward(*arguments, x)[0], dx + x)


def test_views_are_read_as_they_are(launcher):
    x = draw(np.random.default_rng(0), (8, 6)).T[::2]
    y, _, _ = served("layernorm", launcher).forward(x, None, None)
    np.testing.assert_allclose(y, reference_layernorm.forward(x, None, None)[0], atol=1e-6)


@pytest.mark.parametrize(("dtype", "columns"), [(FLOAT, 65), (BF16, 40), (FLOAT, 1500)])
def test_check_mode_finds_nothing(checking_launcher, dtype, columns):
    rng = np.random.default_rng(0)
    x, grad = draw(rng, (2, 11, columns), dtype)
    weight = draw(rng, columns)
    kernel = served("layernorm", checking_launcher)
    y, mean, rstd = kernel.forward(x, weight, weight)
    kernel.backward(grad, Saved(x, weight, mean, rstd), (True, True, True))
    kernel.backward(grad, Saved(x, weight, mean, rstd), (True, True, True), y)
    y, rstd = kernel.rms_forward(x, weight, None)
    kernel.rms_backward(grad, Saved(x, weight, None, rstd), (True, True, False), y)
