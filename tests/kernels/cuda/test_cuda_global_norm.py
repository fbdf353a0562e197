"""The norm of all gradients in CUDA against its reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import DTYPES, assert_precise, draw
from served import served

from tinygrad_char.kernels import global_norm as reference_global_norm


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([0, 1, 2, 7, 255, 257, 4096, 50_001]), st.sampled_from(DTYPES))
def test_norm_is_its_reference(launcher, size, dtype):
    grad = draw(np.random.default_rng(size), size, dtype)
    norm = served("global_norm", launcher).forward(grad)
    assert norm.dtype == np.float64
    assert_precise(norm, reference_global_norm.forward, (grad,))
    np.testing.assert_array_equal(norm, served("global_norm", launcher).forward(grad))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [1e-30, 1e-20, 1e20, 1e30, 3e38])
def test_squares_may_leave_the_range_of_the_gradients(launcher, dtype, value):
    grad = np.full(1000, value).astype(dtype)
    expected = float(grad[0]) * 1000**0.5
    np.testing.assert_allclose(served("global_norm", launcher).forward(grad), expected, rtol=1e-6)


def test_norm_of_what_is_not_finite_is_not_finite(launcher):
    grad = np.ones(1000, np.float32)
    for value in (np.nan, np.inf):
        grad[321] = value
        assert not np.isfinite(served("global_norm", launcher).forward(grad))
    assert served("global_norm", launcher).forward(np.ones(4)).dtype == np.float64


@pytest.mark.parametrize("dtype", DTYPES)
def test_check_mode_finds_nothing(checking_launcher, dtype):
    norm = served("global_norm", checking_launcher).forward(np.ones(5001, dtype))
    np.testing.assert_allclose(norm, 5001**0.5, rtol=1e-12)
