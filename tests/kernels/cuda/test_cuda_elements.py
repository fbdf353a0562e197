"""Activations, dropout and residual connections in CUDA against their references."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import BF16, DTYPES, FLOAT, assert_precise, draw
from served import served

from tinygrad_char.kernels import bias_activation as reference_bias_activation
from tinygrad_char.kernels import gelu as reference_gelu
from tinygrad_char.kernels import relu as reference_relu
from tinygrad_char.kernels import residual as reference_residual
from tinygrad_char.kernels.cuda import operation
from tinygrad_char.kernels.dropout import DropoutKey, keep_mask, keep_scale
from tinygrad_char.kernels.dropout.mask import RecordedKey

KEY = DropoutKey(0x123456789ABCDEF0, 77)
ROWS = st.integers(1, 140)
COLUMNS = st.sampled_from([1, 2, 5, 16, 31, 33, 64, 65, 127, 128, 129, 144, 256, 300])
SEEDS = st.integers(0, 1000)
ACTIVATIONS = reference_bias_activation.ACTIVATIONS


@settings(deadline=None, max_examples=25)
@given(
    ROWS,
    COLUMNS,
    st.sampled_from(DTYPES),
    st.sampled_from(ACTIVATIONS),
    st.booleans(),
    st.booleans(),
    SEEDS,
)
def test_bias_activation_is_its_reference(
    launcher, rows, columns, dtype, activation, shifted, need_bias, seed
):
    rng = np.random.default_rng(seed)
    x, grad = draw(rng, (2, rows, columns), dtype)
    bias = draw(rng, columns) if shifted else None
    kernel = served("bias_activation", launcher)
    y, kept = kernel.forward(x, bias, activation)
    assert y.dtype == dtype
    assert_precise(
        y,
        lambda x, bias: reference_bias_activation.forward(x.copy(), bias, activation)[0],
        (x, bias),
        units=8,
    )
    grads = kernel.backward(grad, kept, activation, need_bias)
    assert grads[0].dtype == dtype
    assert grads[1] is None or grads[1].dtype == np.float32
    assert_precise(
        grads,
        lambda grad, *kept: reference_bias_activation.backward(grad, kept, activation, need_bias),
        (grad, *kept),
        units=16,
    )


def test_activations_keep_what_is_not_finite(launcher):
    x = np.array([np.nan, np.inf, -np.inf, 0, -0.0], np.float32)
    y = served("relu", launcher).forward(x)
    np.testing.assert_array_equal(y, reference_relu.forward(x))
    y = served("gelu", launcher).forward(x[:2], "tanh")
    assert np.isnan(y[0])
    assert y[1] == np.inf


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_gates_that_are_shut_give_nothing_of_what_is_not_finite(launcher, dtype, value):
    x = np.tile(np.array([np.nan, -2, -0.0, 3], np.float32), (5, 33)).astype(dtype)
    grad = np.full_like(x, value)
    _, kept = served("bias_activation", launcher).forward(x.copy(), None, "relu")
    dx, _ = served("bias_activation", launcher).backward(grad, kept, "relu", need_bias=False)
    mask = keep_mask(np, x.shape, 0.5, KEY)
    dropped = [
        served("dropout", launcher).backward(grad, 0.5, KEY),
        served("residual", launcher).backward(grad, 0.5, KEY, need_bias=False)[0],
        served("residual", launcher).forward(grad, None, np.zeros_like(grad), 0.5, KEY),
    ]
    for result, chosen in [(dx, ~(x.astype(np.float32) <= 0)), *((each, mask) for each in dropped)]:
        expected = np.where(chosen, np.float32(value), 0)
        np.testing.assert_array_equal(result.astype(np.float32), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_relu_leaves_its_input_alone_whatever_serves_it(launcher, dtype, shape):
    x = np.full(shape, -1, dtype)
    y = served("relu", launcher).forward(x)
    np.testing.assert_array_equal(y, np.zeros_like(x))
    np.testing.assert_array_equal(x, np.full(shape, -1))


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (0, 4), (2, 130)])
def test_activations_alone_are_their_references(launcher, shape):
    x, grad = draw(np.random.default_rng(0), (2, *shape))
    kernel = served("relu", launcher)
    y = kernel.forward(x)
    np.testing.assert_array_equal(y, reference_relu.forward(x))
    np.testing.assert_array_equal(kernel.backward(grad, y), reference_relu.backward(grad, y))
    kernel = served("gelu", launcher)
    for approximate in reference_gelu.APPROXIMATE:
        y = kernel.forward(x, approximate)
        assert_precise(y, reference_gelu.forward, (x, approximate))
        dx = kernel.backward(grad, x, approximate)
        assert_precise(dx, reference_gelu.backward, (grad, x, approximate))


def test_sum_over_more_rows_than_blocks_repeats_itself(launcher):
    grad, x = draw(np.random.default_rng(0), (2, 9000, 3))
    kernel = served("bias_activation", launcher)
    first = kernel.backward(grad, (x, None), "gelu", True)
    again = kernel.backward(grad, (x, None), "gelu", True)
    np.testing.assert_array_equal(first[1], again[1])
    assert_precise(
        first,
        lambda grad, x: reference_bias_activation.backward(grad, (x, None), "gelu", True),
        (grad, x),
    )


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


@settings(deadline=None, max_examples=25)
@given(
    ROWS,
    COLUMNS,
    st.sampled_from(DTYPES),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.booleans(),
    st.booleans(),
    SEEDS,
)
def test_residual_is_its_reference(launcher, rows, columns, dtype, p, shifted, need_bias, seed):
    rng = np.random.default_rng(seed)
    residual, x, grad = draw(rng, (3, rows, columns), dtype)
    bias = draw(rng, columns) if shifted else None
    kernel = served("residual", launcher)
    y = kernel.forward(x, bias, residual, p, KEY)
    assert y.dtype == dtype
    assert_precise(
        y,
        lambda z, *rest: reference_residual.forward(z.copy(), *rest),
        (x, bias, residual, p, KEY),
    )
    grads = kernel.backward(grad, p, KEY, need_bias)
    assert grads[0].dtype == dtype
    assert_precise(grads, reference_residual.backward, (grad, p, KEY, need_bias), units=16)


class Alternating:
    """A mask from elsewhere: every second element is kept."""

    def keep_mask(self, shape, p, start):
        return np.arange(np.prod(shape)).reshape(shape) % 2 == 0

    def keep_scale(self, p, dtype):
        return 3.0


def test_masks_from_elsewhere_are_the_references(launcher):
    x = np.ones((2, 4), np.float32)
    expected = [[3, 0, 3, 0]] * 2
    assert (served("dropout", launcher).forward(x, 0.5, Alternating()) == expected).all()
    y = served("residual", launcher).forward(x.copy(), None, x, 0.5, Alternating())
    assert (y == x + expected).all()
    dx, dbias = served("residual", launcher).backward(x, 0.5, Alternating(), True)
    assert (dx == expected).all()
    assert (dbias == [6, 0, 6, 0]).all()


@pytest.mark.parametrize(("dtype", "columns"), [(FLOAT, 65), (BF16, 144)])
def test_check_mode_finds_nothing(checking_launcher, dtype, columns):
    rng = np.random.default_rng(0)
    x, grad = draw(rng, (2, 37, columns), dtype)
    bias = draw(rng, columns)
    kernel = served("bias_activation", checking_launcher)
    _, kept = kernel.forward(x, bias, "gelu")
    kernel.backward(grad, kept, "gelu", True)
    served("dropout", checking_launcher).forward(x, 0.5, KEY)
    served("residual", checking_launcher).forward(x, bias, grad, 0.5, KEY)
    served("residual", checking_launcher).backward(grad, 0.5, KEY, True)


def test_more_rows_than_kernels_count_are_the_references(launcher, monkeypatch):
    monkeypatch.setattr(operation, "MOST_ROWS", 3)
    launched = []
    monkeypatch.setattr(launcher, "run", launched.append)
    x, bias = np.ones((4, 5), np.float32), np.ones(5, np.float32)
    y, kept = served("bias_activation", launcher).forward(x.copy(), bias, "gelu")
    served("bias_activation", launcher).backward(y, kept, "gelu", need_bias=True)
    served("residual", launcher).forward(x.copy(), bias, y)
    served("residual", launcher).backward(x, 0.0, None, need_bias=True)
    assert launched == []
