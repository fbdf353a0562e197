"""Arrays whose elements lie in memory in other orders than that of their axes, and other axes."""

import numpy as np
from hypothesis import strategies as st


def draw(rng, shape, laid_out):
    """Return float32 elements whose memory is contiguous, or that of another order of the axes."""
    if laid_out == "contiguous":
        return rng.standard_normal(shape, np.float32)
    if laid_out == "transposed":
        return rng.standard_normal((*shape[:-2], *shape[:-3:-1]), np.float32).swapaxes(-1, -2)
    return rng.standard_normal((*shape[:-1], 2 * shape[-1]), np.float32)[..., ::2]


LAYOUTS = st.sampled_from(["contiguous", "transposed", "stepped"])


def assert_along_axis(operation, axis):
    """Assert that an operation along an axis is that along the last one of the axes moved."""
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    moved = np.moveaxis(x, axis, -1)
    y = operation.forward(x, axis=axis)
    np.testing.assert_array_equal(y, np.moveaxis(operation.forward(moved), -1, axis))
    dx = operation.backward(x, y, axis)
    again = operation.backward(moved, np.moveaxis(y, axis, -1))
    np.testing.assert_allclose(dx, np.moveaxis(again, -1, axis), rtol=1e-14)


def assert_of_nothing(operation):
    """Assert that results of arrays without elements have their shapes."""
    for shape in ((0, 3), (3, 0), (0, 0)):
        x = np.zeros(shape, np.float32)
        y = operation.forward(x)
        assert y.shape == shape
        assert operation.backward(x, y).shape == shape
