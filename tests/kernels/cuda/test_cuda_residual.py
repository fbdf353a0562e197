"""Residual connections in CUDA against their reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import BF16, DTYPES, FLOAT, assert_precise, draw
from served import Alternating, served

from tinygrad_char.kernels import residual as reference_residual
from tinygrad_char.kernels.cuda import operation
from tinygrad_char.kernels.dropout import DropoutKey, keep_mask

KEY = DropoutKey(0x123456789ABCDEF0, 77)
ROWS = st.integers(1, 140)
COLUMNS = st.sampled_from([1, 2, 5, 16, 31, 33, 64, 65, 127, 128, 129, 144, 256, 300])
SEEDS = st.integers(0, 1000)


@settings(deadline=None, max_examples=25)
@given(
    ROWS,
    COLUMNS,
    st.sampled_from(DTYPES),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.booleans(),
    st.booleans(),
    SEEDS,
)
def test_residual_is_its_reference(launcher, rows, columns, dtype, p, shifted, need_bias, seed):
    rng = np.random.default_rng(seed)
    residual, x, grad = draw(rng, (3, rows, columns), dtype)
    bias = draw(rng, columns) if shifted else None
    kernel = served("residual", launcher)
    y = kernel.forward(x, bias, residual, p, KEY)
    assert y.dtype == dtype
    assert_precise(
        y,
        lambda z, *rest: reference_residual.forward(z.copy(), *rest),
        (x, bias, residual, p, KEY),
    )
    grads = kernel.backward(grad, p, KEY, need_bias)
    assert grads[0].dtype == dtype
    assert_precise(grads, reference_residual.backward, (grad, p, KEY, need_bias), units=16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_dropped_gives_nothing_of_what_is_not_finite(launcher, dtype, value):
    grad = np.full((5, 132), value, dtype)
    expected = np.where(keep_mask(np, grad.shape, 0.5, KEY), np.float32(value), 0)
    kernel = served("residual", launcher)
    dz, _ = kernel.backward(grad, 0.5, KEY, need_bias=False)
    y = kernel.forward(grad, None, np.zeros_like(grad), 0.5, KEY)
    for each in (dz, y):
        np.testing.assert_array_equal(each.astype(np.float32), expected)


def test_masks_from_elsewhere_are_the_references(launcher):
    x, expected = np.ones((2, 4), np.float32), [[3, 0, 3, 0]] * 2
    kernel = served("residual", launcher)
    y = kernel.forward(x.copy(), None, x, 0.5, Alternating())
    assert (y == x + expected).all()
    dz, dbias = kernel.backward(x, 0.5, Alternating(), True)
    assert (dz == expected).all()
    assert (dbias == [6, 0, 6, 0]).all()


@pytest.mark.parametrize(("dtype", "columns"), [(FLOAT, 65), (BF16, 144)])
def test_check_mode_finds_nothing(checking_launcher, dtype, columns):
    rng = np.random.default_rng(0)
    x, grad = draw(rng, (2, 37, columns), dtype)
    kernel = served("residual", checking_launcher)
    kernel.forward(x, draw(rng, columns), grad, 0.5, KEY)
    kernel.backward(grad, 0.5, KEY, True)


def test_more_rows_than_kernels_count_are_the_references(launcher, monkeypatch):
    monkeypatch.setattr(operation, "MOST_ROWS", 3)
    launched = []
    monkeypatch.setattr(launcher, "run", launched.append)
    x = np.ones((4, 5), np.float32)
    served("residual", launcher).forward(x.copy(), np.ones(5, np.float32), x.copy())
    served("residual", launcher).backward(x, 0.0, None, need_bias=True)
    assert launched == []
