"""ReLU, exactly as its definition has it."""

import numpy as np
import pytest

from tinygrad_char.kernels import relu

X = np.array([-np.inf, -3, -1e-45, -0.0, 0, 1e-45, 2, np.inf, np.nan])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9,), (3, 3), (1, 9, 1)])
def test_what_lies_above_zero_is_kept_and_nan_stays(dtype, shape):
    x = X.astype(dtype).reshape(shape)
    before = x.copy()
    y = relu.forward(x)
    np.testing.assert_array_equal(y, np.where(x <= 0, dtype(0), x))
    assert y.dtype == dtype
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [1.5, -2, np.inf, -np.inf, np.nan])
def test_a_shut_gate_gives_zero_whatever_the_gradient_is(dtype, value):
    x = X.astype(dtype)
    grad = np.full_like(x, value)
    dx = relu.backward(grad, relu.forward(x))
    np.testing.assert_array_equal(dx, np.where(x <= 0, dtype(0), grad))
    assert dx.dtype == dtype
    np.testing.assert_array_equal(grad, np.full_like(x, value))


@pytest.mark.parametrize("shape", [(0,), (2, 0), (5, 7), ()])
def test_the_result_may_be_written_over_the_input(shape):
    x = np.random.default_rng(0).standard_normal((*shape, 3))
    expected = relu.forward(x)
    assert relu.forward(x, out=x) is x
    np.testing.assert_array_equal(x, expected)


def test_integers_are_served():
    np.testing.assert_array_equal(relu.forward(np.array([-1, 0, 4])), [0, 0, 4])


def test_backward_is_the_slope_by_central_differences():
    rng = np.random.default_rng(1)
    x, grad, step = rng.standard_normal(1001), rng.standard_normal(1001), 1e-6
    x[abs(x) < step] = 1
    slope = (relu.forward(x + step) - relu.forward(x - step)) / (2 * step)
    np.testing.assert_allclose(relu.backward(grad, relu.forward(x)), grad * slope, atol=1e-8)
