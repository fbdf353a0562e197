"""Dropout in CUDA against its reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import BF16, DTYPES, FLOAT, draw
from served import Alternating, served

from tinygrad_char.kernels.dropout import DropoutKey, keep_mask, keep_scale
from tinygrad_char.kernels.dropout.mask import RecordedKey

KEY = DropoutKey(0x123456789ABCDEF0, 77)
SEEDS = st.integers(0, 1000)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 5000), st.sampled_from(DTYPES), st.sampled_from([0.0, 0.1, 0.5, 1.0]), SEEDS)
def test_dropout_has_the_masks_of_its_reference(launcher, size, dtype, p, seed):
    x = draw(np.random.default_rng(seed), size, dtype)
    key = DropoutKey(seed * 0x9E3779B97F4A7C15 % (1 << 64), seed)
    mask = keep_mask(np, x.shape, p, key)
    expected = np.where(mask, x.astype(np.float32) * np.float32(keep_scale(p)), 0).astype(dtype)
    kernel = served("dropout", launcher)
    np.testing.assert_array_equal(kernel.forward(x, p, key), expected)
    np.testing.assert_array_equal(kernel.backward(x, p, key), expected)


def test_dropout_of_a_recorded_graph_counts_on_the_device(launcher):
    x = np.ones(3000, np.float32)
    recorded = np.array([5], np.uint64)
    key = RecordedKey(KEY.seed, KEY.call, recorded)
    kernel = served("dropout", launcher)
    for count in (5, 6):
        recorded[0] = count
        y = kernel.forward(x, 0.5, key)
        expected = kernel.forward(x, 0.5, DropoutKey(KEY.seed, KEY.call + count))
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(y > 0, keep_mask(np, x.shape, 0.5, key))
        assert key.keep_scale(0.5, x.dtype) == 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_dropped_gives_nothing_of_what_is_not_finite(launcher, dtype, value):
    grad = np.full((5, 132), value, dtype)
    expected = np.where(keep_mask(np, grad.shape, 0.5, KEY), np.float32(value), 0)
    dx = served("dropout", launcher).backward(grad, 0.5, KEY)
    np.testing.assert_array_equal(dx.astype(np.float32), expected)


def test_masks_from_elsewhere_are_the_references(launcher):
    y = served("dropout", launcher).forward(np.ones((2, 4), np.float32), 0.5, Alternating())
    assert y.tolist() == [[3, 0, 3, 0]] * 2


@pytest.mark.parametrize(("dtype", "columns"), [(FLOAT, 65), (BF16, 144)])
def test_check_mode_finds_nothing(checking_launcher, dtype, columns):
    x = draw(np.random.default_rng(0), (37, columns), dtype)
    served("dropout", checking_launcher).forward(x, 0.5, KEY)
