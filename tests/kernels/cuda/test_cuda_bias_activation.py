"""Bias and activation in CUDA against their reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import BF16, DTYPES, FLOAT, assert_precise, draw
from served import served

from tinygrad_char.kernels import bias_activation as reference_bias_activation
from tinygrad_char.kernels.cuda import operation

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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_gates_that_are_shut_give_nothing_of_what_is_not_finite(launcher, dtype, value):
    x = np.tile(np.array([np.nan, -2, -0.0, 3], np.float32), (5, 33)).astype(dtype)
    kernel = served("bias_activation", launcher)
    _, kept = kernel.forward(x.copy(), None, "relu")
    dx, _ = kernel.backward(np.full_like(x, value), kept, "relu", need_bias=False)
    expected = np.where(x.astype(np.float32) <= 0, 0, np.float32(value))
    np.testing.assert_array_equal(dx.astype(np.float32), expected)


@pytest.mark.parametrize(("dtype", "columns"), [(FLOAT, 65), (BF16, 144)])
def test_check_mode_finds_nothing(checking_launcher, dtype, columns):
    rng = np.random.default_rng(0)
    x, grad = draw(rng, (2, 37, columns), dtype)
    kernel = served("bias_activation", checking_launcher)
    _, kept = kernel.forward(x, draw(rng, columns), "gelu")
    kernel.backward(grad, kept, "gelu", True)


def test_more_rows_than_kernels_count_are_the_references(launcher, monkeypatch):
    monkeypatch.setattr(operation, "MOST_ROWS", 3)
    launched = []
    monkeypatch.setattr(launcher, "run", launched.append)
    x, bias = np.ones((4, 5), np.float32), np.ones(5, np.float32)
    y, kept = served("bias_activation", launcher).forward(x.copy(), bias, "gelu")
    served("bias_activation", launcher).backward(y, kept, "gelu", need_bias=True)
    assert launched == []
