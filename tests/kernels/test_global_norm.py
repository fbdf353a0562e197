"""The norm of a flat buffer of gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels import global_norm
from tinygrad_char.kernels.backend import CPU, status
from tinygrad_char.kernels.cpu import cores
from tinygrad_char.kernels.cpu.extension import compiled

RNG = np.random.default_rng(0)
CHUNK = global_norm.CHUNK


@settings(deadline=None, max_examples=40)
@given(
    st.one_of(st.integers(0, 300), st.integers(CHUNK - 2, CHUNK + 2), st.just(3 * CHUNK + 17)),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([1e-9, 1.0, 1e9]),
)
def test_any_number_of_gradients_of_any_size(size, dtype, scale):
    grad = (scale * RNG.standard_normal(size)).astype(dtype)
    norm = global_norm.forward(grad)
    assert (norm.shape, norm.dtype) == ((), np.float64)
    truth = np.linalg.norm(grad.astype(np.float64))
    np.testing.assert_allclose(norm, truth, rtol=64 * np.finfo(dtype).eps)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, CHUNK, -1])
def test_one_that_is_not_finite_makes_the_norm_so(wrong, place):
    grad = RNG.standard_normal(2 * CHUNK + 3).astype(np.float32)
    grad[place] = wrong
    assert not np.isfinite(global_norm.forward(grad))


@pytest.mark.parametrize("size", [2, 1000, CHUNK + 1])
@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (np.float16, [6e-8, 1e-4, 300, 6e4]),
        (np.float32, [1e-44, 1e-30, 1e-20, 1e20, 1e30, 3e38]),
        (np.float64, [1e-320, 1e-200, 1e-150, 1e160, 1e200, 1e304]),
    ],
)
def test_squares_may_leave_the_range_of_the_gradients(size, dtype, values):
    for value in values:
        grad = np.full(size, value, dtype)
        expected = float(grad[0]) * np.sqrt(size)
        np.testing.assert_allclose(global_norm.forward(grad), expected, rtol=1e-6)
        grad[1:] = 0
        np.testing.assert_allclose(global_norm.forward(grad), float(grad[0]), rtol=1e-6)
    assert global_norm.forward(np.zeros(size, dtype)) == 0


def test_a_view_with_gaps():
    grad = RNG.standard_normal(999).astype(np.float32)[::3]
    np.testing.assert_allclose(global_norm.forward(grad), np.linalg.norm(grad), rtol=1e-6)


@pytest.mark.skipif(compiled is None, reason=status())
def test_the_number_of_threads_changes_no_bit(monkeypatch):
    grad = RNG.standard_normal(7 * CHUNK + 1).astype(np.float32)
    found = set()
    for threads in (1, 2, 3, 8):
        monkeypatch.setattr(cores, "available_cores", lambda count=threads: count)
        found.add(float(CPU.kernels[global_norm.forward](grad)))
    assert len(found) == 1
