"""The running mean in CUDA against its reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import DTYPES, assert_precise, draw
from served import served

from tinygrad_char.kernels import running_mean

LENGTHS = st.sampled_from([1, 2, 7, 8, 9, 31, 127, 128, 129, 300])
CHANNELS = st.sampled_from([1, 31, 32, 33, 65])


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), LENGTHS, CHANNELS, st.sampled_from(DTYPES), st.integers(0, 99))
def test_running_mean_is_its_reference(launcher, batch, length, channels, dtype, seed):
    x = draw(np.random.default_rng(seed), (batch, length, channels), dtype)
    kernel = served("running_mean", launcher)
    for name in ("forward", "backward"):
        result = getattr(kernel, name)(x)
        assert result.dtype == dtype
        # bfloat16 results are rounded once, and so is the reference's
        assert_precise(result, getattr(running_mean, name), (x,))


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_no_position_sees_what_it_has_no_part_in(launcher, name):
    x = draw(np.random.default_rng(0), (1, 200, 3))
    function = getattr(served("running_mean", launcher), name)
    expected = function(x)
    seen = slice(None, 140) if name == "forward" else slice(140, None)
    hidden = slice(140, None) if name == "forward" else slice(None, 140)
    x[:, hidden] = np.nan
    np.testing.assert_array_equal(function(x)[:, seen], expected[:, seen])


@pytest.mark.parametrize("channels", [1, 5])
def test_long_sequences_lose_no_digits(launcher, channels):
    x = np.full((1, 20_000, channels), 100.1, np.float32)
    exact = float(x[0, 0, 0])
    np.testing.assert_allclose(served("running_mean", launcher).forward(x), exact, rtol=2e-6)
    shares = exact / np.arange(1.0, 20_001)[:, None]
    sums = np.broadcast_to(np.flip(np.cumsum(np.flip(shares, 0), 0), 0), x.shape)
    np.testing.assert_allclose(served("running_mean", launcher).backward(x), sums, rtol=2e-6)


def test_what_is_infinite_stays_so(launcher):
    x = np.ones((1, 700, 2), np.float32)
    x[0, 200, 0], x[0, 300, 1] = np.inf, np.nan
    mean = served("running_mean", launcher).forward(x)[0]
    np.testing.assert_array_equal(mean[:, 0], [1] * 200 + [np.inf] * 500)
    np.testing.assert_array_equal(mean[:, 1], [1] * 300 + [np.nan] * 400)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 130, 33), (1, 257, 40)])
def test_running_mean_is_clean(checking_launcher, dtype, shape):
    x = draw(np.random.default_rng(0), shape, dtype)
    kernel = served("running_mean", checking_launcher)
    for name in ("forward", "backward"):
        assert_precise(getattr(kernel, name)(x), getattr(running_mean, name), (x,))


def test_other_dtypes_and_empty_arrays_go_the_usual_way(launcher):
    x = draw(np.random.default_rng(0), (2, 3, 4)).astype(np.float64)
    kernel = served("running_mean", launcher)
    np.testing.assert_array_equal(kernel.forward(x), running_mean.forward(x))
    np.testing.assert_array_equal(kernel.backward(x), running_mean.backward(x))
    assert kernel.forward(np.empty((0, 3, 4), np.float32)).shape == (0, 3, 4)
