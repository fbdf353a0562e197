"""Rotary positions in CUDA against their reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import BF16, DTYPES, FLOAT, assert_precise, draw
from served import served

from tinygrad_char.kernels import rotary
from tinygrad_char.kernels.rotary import Options

HALVES = st.sampled_from([1, 3, 4, 8, 15, 16, 17, 32, 33, 64, 72])


def table(positions, size):
    return rotary.angles(positions, size).astype(FLOAT)


def turned_back(grad, *arguments):
    """Return the gradient that backward writes in place, with the dtype of the others."""
    grad = grad.copy()
    rotary.backward(grad, *arguments)
    return grad


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 3),
    st.sampled_from([1, 2, 31, 33, 70]),
    st.integers(1, 3),
    HALVES,
    st.booleans(),
    st.sampled_from(DTYPES),
)
def test_rotary_is_its_reference(launcher, batch, length, heads, half, normalize, dtype):
    rng = np.random.default_rng([batch, length, heads, half])
    qkv, grad = draw(rng, (2, batch, length, 6 * heads * half), dtype)
    options = Options(heads, table(length + 2, 2 * half), normalize)
    kernel = served("rotary", launcher)
    y = kernel.forward(qkv, options)
    assert y.dtype == dtype
    assert_precise(y, rotary.forward, (qkv, options))
    found = grad.copy()
    kernel.backward(found, qkv, options)
    assert_precise(found, turned_back, (grad, qkv, options), units=16)


@pytest.mark.parametrize(("dtype", "half"), [(FLOAT, 5), (FLOAT, 16), (BF16, 16), (BF16, 40)])
def test_check_mode_finds_nothing(checking_launcher, dtype, half):
    rng = np.random.default_rng(0)
    qkv, grad = draw(rng, (2, 2, 7, 6 * 3 * half), dtype)
    kernel = served("rotary", checking_launcher)
    for normalize in (False, True):
        kernel.forward(qkv, Options(3, table(7, 2 * half), normalize))
        kernel.backward(grad, qkv, Options(3, table(7, 2 * half), normalize))


def test_positions_continue_where_a_cache_ends(launcher):
    rng = np.random.default_rng(0)
    qkv = draw(rng, (2, 9, 48), FLOAT)
    kernel, angles = served("rotary", launcher), table(9, 8)
    whole = kernel.forward(qkv, Options(2, angles))
    late = kernel.cached(qkv[:, 5:].copy(), np.array([5]), Options(2, angles), kernel.forward)
    np.testing.assert_array_equal(late, whole[:, 5:])


def test_what_is_not_served_goes_the_usual_way(launcher):
    rng = np.random.default_rng(0)
    kernel = served("rotary", launcher)
    qkv = draw(rng, (2, 5, 24)).astype(np.float64)
    angles = rotary.angles(5, 4)
    expected = rotary.forward(qkv, Options(2, angles))
    np.testing.assert_array_equal(kernel.forward(qkv, Options(2, angles)), expected)
    empty = np.empty((0, 3, 24), np.float32)
    assert kernel.forward(empty, Options(2, table(3, 4))).shape == (0, 3, 2, 2, 4)
    with pytest.raises(ValueError, match="5 positions from 0 on"):
        kernel.forward(draw(rng, (2, 5, 24)), Options(2, table(4, 4)))
