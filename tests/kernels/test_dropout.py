"""Dropout's random bits: their rate, their independence, and that they can be drawn again."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels import dropout
from tinygrad_char.kernels.dropout import DropoutKey, keep_mask, keep_scale

KEY = DropoutKey(2**64 - 1, 12)
SIGMAS = 5
SIZE = 200_000


def within_sigmas(successes, trials, probability):
    deviation = math.sqrt(trials * probability * (1 - probability))
    return abs(successes - trials * probability) <= SIGMAS * deviation


@pytest.mark.parametrize("p", [0.01, 0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("key", [DropoutKey(0, 0), DropoutKey(0, 1), DropoutKey(1, 0), KEY])
def test_rate(p, key):
    assert within_sigmas(keep_mask(np, (SIZE,), p, key).sum(), SIZE, 1 - p)


def test_probabilities_are_rounded_to_sixteen_bits():
    assert keep_scale(0.5) == 2
    assert keep_scale(0) == 1
    p = 0.2
    assert abs(1 / keep_scale(p) - (1 - p)) <= 2**-17


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((DropoutKey(1, 1), 0), (DropoutKey(1, 2), 0)),
        ((DropoutKey(1, 1), 0), (DropoutKey(2, 1), 0)),
        ((DropoutKey(1, 2), 0), (DropoutKey(2, 1), 0)),
        ((DropoutKey(1, 1), 0), (DropoutKey(1, 1), SIZE)),
        ((DropoutKey(1, 1), 40), (DropoutKey(1, 1), 41)),
    ],
)
def test_other_keys_and_parts_are_independent(one, other):
    a, b = (keep_mask(np, (SIZE,), 0.5, key, start) for key, start in (one, other))
    assert within_sigmas((a & b).sum(), SIZE, 0.25)
    assert within_sigmas((a ^ b).sum(), SIZE, 0.5)
    # nor is one a shifted copy of the other
    for shift in (4, 16):
        assert within_sigmas((a[shift:] == b[:-shift]).sum(), SIZE - shift, 0.5)


def test_neighbours_are_independent():
    mask = keep_mask(np, (SIZE,), 0.5, KEY)
    for distance in (1, 2, 3, 4, 8, 64):
        same = (mask[distance:] == mask[:-distance]).sum()
        assert within_sigmas(same, SIZE - distance, 0.5)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**64 - 1),
    call=st.integers(0, 2**64 - 1),
    size=st.sampled_from([0, 1, 2, 3, 4, 5, 7, 31, 33, 65, 127, 129]),
    p=st.floats(0, 1),
)
def test_same_key_gives_the_same_mask_and_a_longer_one_starts_with_it(seed, call, size, p):
    key = DropoutKey(seed, call)
    mask = keep_mask(np, (size,), p, key)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, keep_mask(np, (size,), p, key))
    np.testing.assert_array_equal(mask, keep_mask(np, (size + 9,), p, key)[:size])
    np.testing.assert_array_equal(mask, keep_mask(np, (1, size, 1), p, key).ravel())


@settings(deadline=None, max_examples=30)
@given(start=st.integers(0, 100), size=st.integers(0, 70), p=st.floats(0, 1))
def test_any_part_of_a_mask_can_be_drawn_by_itself(start, size, p):
    whole = keep_mask(np, (start + size,), p, KEY)
    np.testing.assert_array_equal(keep_mask(np, (size,), p, KEY, start), whole[start:])


def test_nothing_is_dropped_with_probability_0():
    assert keep_mask(np, (200_000,), 0.0, KEY).all()


def test_element_is_kept_by_its_sixteen_bits():
    bits = np.random.Philox(key=np.array(KEY, np.uint64), counter=3).random_raw(2)
    values = [int(word) >> shift & 0xFFFF for word in bits for shift in (0, 16, 32, 48)]
    for p in (0.25, 0.5, 0.75):
        expected = [value >= round(p * 65536) for value in values]
        assert keep_mask(np, (8,), p, KEY, 48).tolist() == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_forward_and_backward_use_one_mask(dtype, p):
    x = np.arange(1, 34, dtype=dtype)
    mask = keep_mask(np, x.shape, p, KEY)
    expected = np.where(mask, x * dtype(keep_scale(p)), dtype(0))
    for result in (dropout.forward(x, p, KEY), dropout.backward(x, p, KEY)):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, expected)
    assert x[0] == 1
    if p == 0:
        assert (expected == x).all()
    if p == 1:
        assert (expected == 0).all()


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**64 - 1),
    call=st.integers(0, 2**64 - 1),
    size=st.sampled_from([0, 1, 15, 16, 17, 31, 511, 512, 513, 1025, 3001]),
    p=st.floats(0, 1),
)
def test_result_is_the_input_times_the_scale_or_zero(seed, call, size, p):
    key = DropoutKey(seed, call)
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    x[::7] = [np.inf, -np.inf, np.nan, -0.0, 1e-45][size % 5]
    with np.errstate(invalid="ignore"):
        scaled = x * np.float32(keep_scale(p))
        result = dropout.forward(x, p, key)
    expected = np.where(keep_mask(np, x.shape, p, key), scaled, np.float32(0))
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(np.signbit(result), np.signbit(expected))


class EveryThird:
    """A mask that comes from elsewhere."""

    def keep_mask(self, shape, p, start):
        return (np.arange(math.prod(shape)) % 3 == start).reshape(shape)

    def keep_scale(self, p, dtype):
        return 3.0


def test_any_mask_source_serves():
    x = np.arange(7, dtype=np.float32).reshape(1, 7)
    assert dropout.forward(x, 0.5, EveryThird()).tolist() == [[0, 0, 0, 9, 0, 0, 18]]
    assert dropout.backward(x, 0.5, EveryThird()).tolist() == [[0, 0, 0, 9, 0, 0, 18]]


def test_views_are_masked_in_their_own_order():
    x = np.arange(1, 36, dtype=np.float32).reshape(5, 7)
    for view in (x.T, x[::-1, ::2]):
        expected = view * keep_mask(np, view.shape, 0.5, KEY) * 2
        np.testing.assert_array_equal(dropout.forward(view, 0.5, KEY), expected)


def test_mean_is_kept():
    x = np.ones(SIZE)
    for p in (0.1, 0.5, 0.9):
        kept = 1 / keep_scale(p)
        deviation = math.sqrt((1 - kept) / kept / SIZE)
        assert abs(dropout.forward(x, p, KEY).mean() - 1) <= SIGMAS * deviation
