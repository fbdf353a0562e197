"""The square of each element, against its definition in float64; on each version."""

import numpy as np
import pytest
from closeness import SIZES, assert_close

from tinygrad_char.kernels import toy


@pytest.mark.parametrize("size", SIZES)
def test_forward_and_backward(size):
    x, grad = np.random.default_rng(size).standard_normal((2, size)).astype(np.float32)
    wide = x.astype(np.float64)
    assert_close(toy.forward(x), wide**2, wide**2)
    assert_close(toy.backward(grad, x), 2 * wide * grad, np.abs(2 * wide * grad))
