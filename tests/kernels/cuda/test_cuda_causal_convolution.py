"""Causal depthwise convolution in CUDA against its reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import BF16, DTYPES, FLOAT, assert_precise, draw
from served import served

from tinygrad_char.kernels import causal_convolution
from tinygrad_char.kernels.causal_convolution import cuda

LENGTHS = st.sampled_from([1, 2, 3, 31, 32, 33, 65, 130])
CHANNELS = st.sampled_from([1, 31, 32, 33, 64, 128, 132])
BOTH = (True, True)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 3),
    LENGTHS,
    CHANNELS,
    st.sampled_from([2, 3, 4]),
    st.sampled_from(DTYPES),
    st.integers(0, 99),
)
def test_causal_convolution_is_its_reference(launcher, batch, length, channels, taps, dtype, seed):
    rng = np.random.default_rng(seed)
    x, grad = draw(rng, (2, batch, length, channels), dtype)
    weight = draw(rng, (taps, channels))
    kernel = served("causal_convolution", launcher)
    y = kernel.forward(x, weight)
    assert y.dtype == dtype
    assert_precise(y, causal_convolution.forward, (x, weight))
    grads = kernel.backward(grad, x, weight, BOTH)
    assert grads[0].dtype == dtype
    assert grads[1].dtype == FLOAT
    assert_precise(grads, causal_convolution.backward, (grad, x, weight, BOTH), units=32)
    alone = kernel.backward(grad, x, weight, (True, False))
    np.testing.assert_array_equal(alone[0], grads[0])
    assert alone[1] is None


@pytest.mark.parametrize("blocks", [1, 2])
def test_sums_of_several_blocks_and_stretches_are_whole(launcher, monkeypatch, blocks):
    monkeypatch.setattr(cuda, "MOST_PARTS", blocks)
    rng = np.random.default_rng(0)
    x, grad = draw(rng, (2, 5, 150, 40), FLOAT)
    weight = draw(rng, (4, 40))
    grads = served("causal_convolution", launcher).backward(grad, x, weight, (False, True))
    assert grads[0] is None
    expected = causal_convolution.backward(
        *(each.astype(np.float64) for each in (grad, x, weight)), BOTH
    )[1]
    np.testing.assert_allclose(grads[1], expected, rtol=1e-4, atol=1e-3)


def test_no_position_sees_what_it_has_no_part_in(launcher):
    rng = np.random.default_rng(0)
    x, grad = draw(rng, (2, 1, 100, 3), FLOAT)
    weight = draw(rng, (4, 3))
    kernel = served("causal_convolution", launcher)
    y, (dx, _) = kernel.forward(x, weight), kernel.backward(grad, x, weight, BOTH)
    x[:, 40:] = grad[:, :40] = np.nan
    np.testing.assert_array_equal(kernel.forward(x, weight)[:, :40], y[:, :40])
    found, _ = kernel.backward(grad, x, weight, BOTH)
    np.testing.assert_array_equal(found[:, 40:], dx[:, 40:])


@pytest.mark.parametrize(("dtype", "channels"), [(FLOAT, 65), (FLOAT, 128), (BF16, 144)])
def test_check_mode_finds_nothing(checking_launcher, dtype, channels):
    rng = np.random.default_rng(0)
    x, grad = draw(rng, (2, 2, 37, channels), dtype)
    weight = draw(rng, (4, channels))
    kernel = served("causal_convolution", checking_launcher)
    kernel.forward(x, weight)
    kernel.backward(grad, x, weight, BOTH)


def test_what_is_not_served_goes_the_usual_way(launcher):
    rng = np.random.default_rng(0)
    kernel = served("causal_convolution", launcher)
    x = draw(rng, (2, 20, 4))
    for arrays in (
        (x, draw(rng, (5, 4))),
        (x, draw(rng, (1, 4))),
        (x.astype(np.float64), draw(rng, (4, 4))),
    ):
        np.testing.assert_array_equal(kernel.forward(*arrays), causal_convolution.forward(*arrays))
    empty = np.empty((0, 3, 4), np.float32)
    assert kernel.forward(empty, draw(rng, (4, 4))).shape == (0, 3, 4)
