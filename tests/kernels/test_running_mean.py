"""The mean of all positions so far, against its definition in float64."""

import numpy as np
import pytest
from closeness import SIZES, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels import running_mean
from tinygrad_char.kernels.backend import asked_first
from tinygrad_char.kernels.cpu import cores
from tinygrad_char.kernels.running_mean import cpu, loops, reference

AROUND_A_BLOCK = (511, 512, 513, 1025)


def weights(length):
    """Return the matrix of which forward is the product, and backward that of its transpose."""
    return np.tri(length) / np.arange(1, length + 1)[:, None]


def drawn(shape, dtype=np.float32):
    return np.random.default_rng(shape).standard_normal((2, *shape)).astype(dtype)


def assert_right(x, grad):
    """Compare; each of the additions up to a position rounds a sum of what it adds up."""
    matrix = weights(x.shape[1])
    positions = np.arange(1.0, x.shape[1] + 1)[:, None]
    for result, array, product, additions in (
        (running_mean.forward(x), x, matrix, positions),
        (running_mean.backward(grad), grad, matrix.T, positions[::-1]),
    ):
        wide = array.astype(np.float64)
        assert result.dtype == array.dtype
        assert_close(result, product @ wide, (product @ np.abs(wide)) * (additions + 2), units=1)


@settings(deadline=None, max_examples=60)
@given(
    batch=st.sampled_from([1, 2, 3, 5]),
    length=st.sampled_from(SIZES),
    channels=st.one_of(st.sampled_from([*SIZES, *AROUND_A_BLOCK]), st.integers(1, 70)),
)
def test_both_directions_agree_with_float64(batch, length, channels):
    x, grad = drawn((batch, length, channels))
    before = x.copy(), grad.copy()
    assert_right(x, grad)
    np.testing.assert_array_equal((x, grad), before)


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 9),
    channels=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_backward_is_the_gradient_of_forward(batch, length, channels, seed):
    rng = np.random.default_rng(seed)
    x, grad, direction = rng.standard_normal((3, batch, length, channels))
    step = 1e-3
    change = running_mean.forward(x + step * direction) - running_mean.forward(x - step * direction)
    expected = (grad * change).sum() / (2 * step)
    scale = np.abs(grad).sum() * (np.abs(x).max() + np.abs(direction).max())
    found = (running_mean.backward(grad) * direction).sum()
    assert abs(found - expected) <= 1e-12 * scale


@settings(deadline=None, max_examples=40)
@given(
    length=st.sampled_from(SIZES),
    channels=st.sampled_from(SIZES),
    cut=st.integers(0, 128),
)
def test_no_position_sees_a_later_one(length, channels, cut):
    x, grad = drawn((2, length, channels))
    mean, dx = running_mean.forward(x), running_mean.backward(grad)
    x[:, cut:] = grad[:, :cut] = np.nan
    np.testing.assert_array_equal(running_mean.forward(x)[:, :cut], mean[:, :cut])
    np.testing.assert_array_equal(running_mean.backward(grad)[:, cut:], dx[:, cut:])


@settings(deadline=None, max_examples=20)
@given(length=st.integers(1, 300), number=st.integers(-1000, 1000))
def test_the_mean_of_equal_whole_numbers_is_exact(length, number):
    x = np.full((1, length, 3), number, np.float32)
    np.testing.assert_array_equal(running_mean.forward(x), x)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_channel_and_its_sequence(value):
    x = np.ones((2, 5, 33), np.float32)
    x[1, 2, 7] = value
    later, earlier = np.zeros((2, *x.shape), bool)
    later[1, 2:, 7] = earlier[1, :3, 7] = True
    np.testing.assert_array_equal(running_mean.forward(x), np.where(later, value, 1))
    np.testing.assert_array_equal(~np.isfinite(running_mean.backward(x)), earlier)


@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 0)])
def test_empty(shape):
    x = np.zeros(shape, np.float32)
    assert running_mean.forward(x).shape == shape
    assert running_mean.backward(x).shape == shape


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_dtypes_are_served(dtype):
    assert_right(*drawn((2, 7, 5), dtype))


@pytest.mark.parametrize(
    "view", [np.asfortranarray, lambda x: x[::2, ::-1], lambda x: x[..., 1::3]]
)
def test_views_are_served(view):
    x, grad = drawn((4, 9, 10))
    assert_right(view(x), view(grad))


@pytest.mark.parametrize("processors", [2, 3, 8])
def test_the_number_of_cores_changes_no_bit(monkeypatch, processors):
    monkeypatch.setattr(cores, "WORTH_SPREADING", 0)
    x, grad = drawn((5, 33, 65))
    results = []
    for count in (1, processors):
        monkeypatch.setattr(cores, "available_cores", lambda n=count: n)
        results.append(running_mean.forward(x).tobytes() + running_mean.backward(grad).tobytes())
    assert results[0] == results[1]


def test_the_version_is_the_one_that_its_name_says(request):
    name = request.node.callspec.params["version"]
    asked = asked_first(running_mean.forward)
    versions = {"reference": reference, "loops": loops, "c": cpu}
    assert asked is versions[name].forward


@pytest.mark.parametrize("channels", [1, 3, 600])
def test_long_sequences_lose_no_digits(channels):
    length = 20_000 // channels + 1000
    x = np.full((1, length, channels), 100.1, np.float32)
    exact = float(x[0, 0, 0])
    np.testing.assert_allclose(running_mean.forward(x), exact, rtol=4e-6)
    shares = exact / np.arange(1.0, length + 1)[:, None]
    sums = np.flip(np.cumsum(np.flip(shares, 0), 0), 0)
    found = running_mean.backward(x)
    np.testing.assert_allclose(found, np.broadcast_to(sums, x.shape), rtol=4e-6)
