"""ReLU in CUDA against its reference."""

import numpy as np
import pytest
from precision import draw
from served import served

from tinygrad_char.kernels import relu as reference_relu


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_relu_leaves_its_input_alone_whatever_serves_it(launcher, dtype, shape):
    x = np.full(shape, -1, dtype)
    y = served("relu", launcher).forward(x)
    np.testing.assert_array_equal(y, np.zeros_like(x))
    np.testing.assert_array_equal(x, np.full(shape, -1))


def test_what_is_not_finite_stays(launcher):
    x = np.array([np.nan, np.inf, -np.inf, 0, -0.0], np.float32)
    np.testing.assert_array_equal(served("relu", launcher).forward(x), reference_relu.forward(x))


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (0, 4), (2, 130)])
def test_relu_is_its_reference(launcher, shape):
    x, grad = draw(np.random.default_rng(0), (2, *shape))
    kernel = served("relu", launcher)
    y = kernel.forward(x)
    np.testing.assert_array_equal(y, reference_relu.forward(x))
    np.testing.assert_array_equal(kernel.backward(grad, y), reference_relu.backward(grad, y))
