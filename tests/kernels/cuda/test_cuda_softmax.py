"""Softmax in CUDA against its reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import BF16, DTYPES, FLOAT, assert_precise, draw
from served import served

from tinygrad_char.kernels import softmax as reference_softmax

ROWS = st.integers(1, 20)
COLUMNS = st.sampled_from(
    [1, 3, 8, 31, 33, 64, 65, 127, 128, 129, 256, 384, 1000, 1024, 1500, 8200, 8201]
)
SEEDS = st.integers(0, 1000)
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


def test_double_precision_is_the_references(launcher):
    x = np.random.default_rng(0).standard_normal((3, 5))
    assert served("softmax", launcher).forward(x).dtype == np.float64


def test_rows_may_begin_anywhere(launcher):
    begun_anywhere = draw(np.random.default_rng(0), 65)[1:].reshape(4, 16)
    y = served("softmax", launcher).forward(begun_anywhere)
    np.testing.assert_allclose(y, reference_softmax.forward(begun_anywhere), rtol=1e-5)


@pytest.mark.parametrize(("dtype", "columns"), [(FLOAT, 65), (BF16, 40), (FLOAT, 1500)])
def test_check_mode_finds_nothing(checking_launcher, dtype, columns):
    rng = np.random.default_rng(0)
    x, grad = draw(rng, (2, 11, columns), dtype)
    kernel = served("softmax", checking_launcher)
    y = kernel.forward(x, rng.random((11, columns)) < 0.7)
    kernel.backward(grad, y)
