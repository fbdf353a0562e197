"""Softmax and its logarithm against their definitions in float64."""

import numpy as np
import pytest
from closeness import SIZES, assert_close

from kernels import log_softmax, softmax


def reference(x, mask):
    """Return the softmax of rows (N, C), element by element."""
    y = np.zeros(x.shape)
    for row in range(len(x)):
        seen = np.flatnonzero(mask[row])
        if len(seen):
            weights = np.exp(x[row, seen] - x[row, seen].max())
            y[row, seen] = weights / weights.sum()
    return y


def vector_jacobian(grad, y):
    """Return grad @ (diag(y) - y y^T) of each row."""
    return np.stack(
        [g @ (np.diag(row) - np.outer(row, row)) for g, row in zip(grad, y, strict=True)]
    )


@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("masked", [False, True])
def test_softmax_agrees_with_float64(columns, scale, masked):
    rng = np.random.default_rng(columns)
    x = (scale * rng.standard_normal((5, columns))).astype(np.float32)
    grad = rng.standard_normal((5, columns)).astype(np.float32)
    mask = rng.random((5, columns)) < 0.5
    mask[0] = False
    seen = mask if masked else np.ones_like(mask)
    truth = reference(x.astype(np.float64), seen)

    y = softmax.forward(x, mask if masked else None)
    # x - max is rounded to its own size before exp, where exp does not make it vanish
    distance = np.where(truth > 0, np.log(np.maximum(truth, 1e-300)), 0)
    condition = 1 - np.maximum(distance, -88)
    assert_close(y, truth, condition * truth + 1e-38)
    assert (y[~seen] == 0).all()
    assert_close(y.sum(-1), seen.any(-1).astype(np.float64), 1)

    dx = softmax.backward(grad, y)
    bound = np.abs(grad).max() * (y + (condition * truth).max(-1, keepdims=True))
    assert_close(dx, vector_jacobian(grad.astype(np.float64), truth), bound)
    assert (dx[~seen] == 0).all()


@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_log_softmax_agrees_with_float64(columns, scale):
    rng = np.random.default_rng(columns)
    x = (scale * rng.standard_normal((5, columns))).astype(np.float32)
    grad = rng.standard_normal((5, columns)).astype(np.float32)
    wide = x.astype(np.float64)
    peak = wide.max(-1, keepdims=True)
    truth = wide - peak - np.log(np.exp(wide - peak).sum(-1, keepdims=True))
    y = log_softmax.forward(x)
    assert_close(y, truth, 1 + np.abs(truth))
    dx = log_softmax.backward(grad, y)
    total = grad.astype(np.float64).sum(-1, keepdims=True)
    bound = np.abs(grad) + np.abs(grad).sum(-1, keepdims=True) * np.exp(truth) * (
        1 - np.maximum(truth, -88)
    )
    assert_close(dx, grad - np.exp(truth) * total, bound)


def test_minus_infinity_has_no_weight():
    x = np.array([[-np.inf, 0.0, -np.inf, 0.0]], np.float32)
    y = softmax.forward(x)
    assert y.tolist() == [[0, 0.5, 0, 0.5]]
    assert softmax.backward(np.ones_like(x) * 3, y).tolist() == [[0, 0, 0, 0]]
    assert log_softmax.forward(x)[0, 0] == -np.inf


@pytest.mark.parametrize("hidden", [np.inf, np.nan, 3e38, -np.inf])
def test_what_the_mask_hides_is_ignored(hidden):
    x = np.array([[hidden, 1.0, 1.0], [hidden, hidden, hidden]], np.float32)
    mask = np.array([[False, True, True], [False, False, False]])
    y = softmax.forward(x, mask)
    assert y.tolist() == [[0, 0.5, 0.5], [0, 0, 0]]
    dx = softmax.backward(np.array([[5, 1, 2], [3, 4, 5]], np.float32), y)
    assert dx.tolist() == [[0, -0.25, 0.25], [0, 0, 0]]


def test_row_whose_visible_part_is_minus_infinity_gives_zeros():
    x = np.array([[-np.inf, -np.inf, 1]], np.float32)
    mask = np.array([[True, True, False]])
    y = softmax.forward(x, mask)
    assert (y == 0).all()
    assert (softmax.backward(np.ones_like(x), y) == 0).all()


@pytest.mark.parametrize("rows", [1, 3, 5, 7])
@pytest.mark.parametrize("columns", [1, 3, 5, 7])
def test_causal_mask_ends_with_the_last_row_seeing_all(rows, columns):
    mask = softmax.causal_mask(np, rows, columns)
    expected = [[j <= i + columns - rows for j in range(columns)] for i in range(rows)]
    assert mask.dtype == bool
    assert mask.tolist() == expected


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_axis(axis):
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    moved = np.moveaxis(x, axis, -1)
    for kernel in (softmax, log_softmax):
        y = kernel.forward(x, axis=axis)
        np.testing.assert_array_equal(y, np.moveaxis(kernel.forward(moved), -1, axis))
        dx = kernel.backward(x, y, axis)
        again = kernel.backward(moved, np.moveaxis(y, axis, -1))
        np.testing.assert_allclose(dx, np.moveaxis(again, -1, axis), rtol=1e-14)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty(shape):
    x = np.zeros(shape, np.float32)
    for kernel in (softmax, log_softmax):
        y = kernel.forward(x)
        assert y.shape == shape
        assert kernel.backward(x, y).shape == shape
