"""Causal depthwise convolution, against its definition in float64."""

import numpy as np
import pytest
from closeness import SIZES, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels import causal_convolution
from tinygrad_char.kernels.backend import asked_first
from tinygrad_char.kernels.causal_convolution import cpu, reference

BOTH = (True, True)
CHANNELS = st.one_of(st.sampled_from([*SIZES, 191, 192, 193]), st.integers(1, 70))
TAPS = st.sampled_from([1, 2, 3, 4, 5, 16, 17])


def drawn(batch, length, channels, taps, dtype=np.float32):
    rng = np.random.default_rng([batch, length, channels, taps])
    x, grad = rng.standard_normal((2, batch, length, channels)).astype(dtype)
    return x, grad, rng.standard_normal((taps, channels)).astype(dtype)


def naive(x, grad, weight):
    """Return y, dx and dweight in float64, and for each the sum of its terms' magnitudes."""
    x, grad, weight = (each.astype(np.float64) for each in (x, grad, weight))
    y, dx, dweight = x.copy(), grad.copy(), np.zeros_like(weight)
    sizes = [abs(each) for each in (y, dx, dweight)]
    for t in range(x.shape[1]):
        for k in range(min(len(weight), t + 1)):
            y[:, t] += weight[k] * x[:, t - k]
            dx[:, t - k] += weight[k] * grad[:, t]
            dweight[k] += (grad[:, t] * x[:, t - k]).sum(0)
            sizes[0][:, t] += abs(weight[k] * x[:, t - k])
            sizes[1][:, t - k] += abs(weight[k] * grad[:, t])
            sizes[2][k] += abs(grad[:, t] * x[:, t - k]).sum(0)
    return (y, dx, dweight), sizes


def assert_right(x, grad, weight):
    before = [each.copy() for each in (x, grad, weight)]
    found = [causal_convolution.forward(x, weight)]
    found += causal_convolution.backward(grad, x, weight, BOTH)
    for mine, truth, size in zip(found, *naive(x, grad, weight), strict=True):
        assert mine.dtype == x.dtype
        assert_close(mine, truth, size * (len(weight) + 2))
    for each, other in zip((x, grad, weight), before, strict=True):
        np.testing.assert_array_equal(each, other)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([1, 2, 3]), st.sampled_from(SIZES), CHANNELS, TAPS)
def test_both_directions_agree_with_float64(batch, length, channels, taps):
    assert_right(*drawn(batch, length, channels, taps))


@settings(deadline=None, max_examples=40)
@given(*(st.integers(1, each) for each in (3, 9, 5, 6)))
def test_backward_is_the_gradient_of_forward(batch, length, channels, taps):
    x, grad, weight = drawn(batch, length, channels, taps, np.float64)
    rng = np.random.default_rng(0)
    along_x, along_weight = rng.standard_normal(x.shape), rng.standard_normal(weight.shape)
    step = 1e-4

    def at(sign):
        return causal_convolution.forward(
            x + sign * step * along_x, weight + sign * step * along_weight
        )

    expected = (grad * (at(1) - at(-1))).sum() / (2 * step)
    dx, dweight = causal_convolution.backward(grad, x, weight, BOTH)
    found = (dx * along_x).sum() + (dweight * along_weight).sum()
    assert abs(found - expected) <= 1e-8 * (1 + abs(grad).sum())


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
def test_only_what_is_needed_is_computed(needs):
    x, grad, weight = drawn(2, 7, 9, 4)
    every = causal_convolution.backward(grad, x, weight, BOTH)
    for found, expected, need in zip(
        causal_convolution.backward(grad, x, weight, needs), every, needs, strict=True
    ):
        assert (found is not None) == need
        if need:
            np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(SIZES), st.integers(1, 6), st.integers(0, 128))
def test_no_position_sees_a_later_one(length, taps, cut):
    x, grad, weight = drawn(2, length, 33, taps)
    y = causal_convolution.forward(x, weight)
    dx, _ = causal_convolution.backward(grad, x, weight, BOTH)
    x[:, cut:] = grad[:, :cut] = np.nan
    np.testing.assert_array_equal(causal_convolution.forward(x, weight)[:, :cut], y[:, :cut])
    found, _ = causal_convolution.backward(grad, x, weight, BOTH)
    np.testing.assert_array_equal(found[:, cut:], dx[:, cut:])


def test_taps_before_the_first_position_count_nothing_even_if_infinite():
    x, grad, weight = drawn(2, 3, 5, 4)
    weight[3] = np.inf
    assert np.isfinite(causal_convolution.forward(x, weight)).all()
    assert np.isfinite(causal_convolution.backward(grad, x, weight, BOTH)[0]).all()


@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (3, 2, 0)])
def test_empty(shape):
    x, weight = np.zeros(shape, np.float32), np.ones((4, shape[2]), np.float32)
    assert causal_convolution.forward(x, weight).shape == shape
    dx, dweight = causal_convolution.backward(x, x, weight, BOTH)
    assert dx.shape == shape
    np.testing.assert_array_equal(dweight, np.zeros_like(weight))


def test_other_dtypes_and_views_are_served():
    assert_right(*drawn(2, 7, 5, 4, np.float64))
    x, grad, weight = drawn(4, 9, 10, 3)
    assert_right(x[::2, ::-1], grad[::2, ::-1], weight)
    assert_right(x[..., 1::3], grad[..., 1::3], weight[:, 1::3])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    *(st.integers(1, each) for each in (3, 70, 6)),
)
def test_positions_that_come_one_after_the_other_have_the_same_bits(lengths, batch, channels, taps):
    x, _, weight = drawn(batch, sum(lengths), channels, taps)
    whole = causal_convolution.forward(x, weight)
    history = np.full((batch, taps - 1, channels), np.nan, np.float32)
    history[...] = 7  # which has not been filled, and counts nothing
    filled = np.zeros(1, np.int64)
    start = 0
    for length in lengths:
        part = np.ascontiguousarray(x[:, start : start + length])
        y = causal_convolution.cached(part, weight, history, filled, causal_convolution.forward)
        start += length
        assert filled[0] == start
        np.testing.assert_array_equal(y, whole[:, start - length : start])
        kept = min(start, taps - 1)
        np.testing.assert_array_equal(history[:, taps - 1 - kept :], x[:, start - kept : start])


def test_the_version_is_the_one_that_its_name_says(request):
    name = request.node.callspec.params["version"]
    versions = {"reference": reference, "c": cpu}
    assert asked_first(causal_convolution.forward) is versions[name].forward
