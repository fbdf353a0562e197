"""The logarithm of the softmax against its definition in float64."""

import numpy as np
import pytest
from closeness import SIZES, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, assert_along_axis, assert_of_nothing, draw

from tinygrad_char.kernels import log_softmax


def logarithms(x):
    """Return the logarithm of the softmax."""
    peak = x.max(-1, keepdims=True)
    return x - peak - np.log(np.exp(x - peak).sum(-1, keepdims=True))


@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_log_softmax_agrees_with_float64(columns, scale):
    rng = np.random.default_rng(columns)
    x = (scale * rng.standard_normal((5, columns))).astype(np.float32)
    grad = rng.standard_normal((5, columns)).astype(np.float32)
    truth = logarithms(x.astype(np.float64))
    y = log_softmax.forward(x)
    assert_close(y, truth, 1 + np.abs(truth))
    dx = log_softmax.backward(grad, y)
    total = grad.astype(np.float64).sum(-1, keepdims=True)
    bound = np.abs(grad) + np.abs(grad).sum(-1, keepdims=True) * np.exp(truth) * (
        1 - np.maximum(truth, -88)
    )
    assert_close(dx, grad - np.exp(truth) * total, bound)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 300), LAYOUTS, st.integers(0, 1000))
def test_log_softmax_of_rows_in_any_layout(batch, rows, columns, laid_out, seed):
    rng = np.random.default_rng(seed)
    shape = (batch, rows, columns)
    x, grad = draw(rng, shape, laid_out), draw(rng, shape, laid_out)
    truth = logarithms(x.astype(np.float64))
    y = log_softmax.forward(x)
    assert_close(y, truth, 1 + np.abs(truth))
    dx = log_softmax.backward(grad, y)
    total = grad.astype(np.float64).sum(-1, keepdims=True)
    bound = np.abs(grad) + np.abs(grad).sum(-1, keepdims=True) * np.exp(truth) * (1 + np.abs(truth))
    assert_close(dx, grad - np.exp(truth) * total, bound)


def test_many_rows_are_those_of_few(monkeypatch):
    """More than one thread is worth, with matrices that begin within a thread's part."""
    monkeypatch.setattr("tinygrad_char.kernels.cpu.cores.available_cores", lambda: 3)
    x, grad = np.random.default_rng(0).standard_normal((2, 41, 33, 65)).astype(np.float32)
    y, dx = log_softmax.forward(x), log_softmax.backward(grad, x)
    for i in range(len(x)):
        np.testing.assert_array_equal(y[i], log_softmax.forward(x[i]))
        np.testing.assert_array_equal(dx[i], log_softmax.backward(grad[i], x[i]))


def test_minus_infinity_has_no_weight():
    x = np.array([[-np.inf, 0.0, -np.inf, 0.0]], np.float32)
    assert log_softmax.forward(x)[0, 0] == -np.inf


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_axis(axis):
    assert_along_axis(log_softmax, axis)


def test_empty():
    assert_of_nothing(log_softmax)
