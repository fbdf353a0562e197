"""GELU in CUDA against its reference."""

import numpy as np
import pytest
from precision import assert_precise, draw
from served import served

from tinygrad_char.kernels import gelu as reference_gelu


def test_what_is_not_finite_stays(launcher):
    y = served("gelu", launcher).forward(np.array([np.nan, np.inf], np.float32), "tanh")
    assert np.isnan(y[0])
    assert y[1] == np.inf


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (0, 4), (2, 130)])
@pytest.mark.parametrize("approximate", reference_gelu.APPROXIMATE)
def test_gelu_is_its_reference(launcher, shape, approximate):
    x, grad = draw(np.random.default_rng(0), (2, *shape))
    kernel = served("gelu", launcher)
    assert_precise(kernel.forward(x, approximate), reference_gelu.forward, (x, approximate))
    dx = kernel.backward(grad, x, approximate)
    assert_precise(dx, reference_gelu.backward, (grad, x, approximate))
