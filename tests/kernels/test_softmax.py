"""Softmax against its definition in float64."""

import numpy as np
import pytest
from closeness import SIZES, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, assert_along_axis, assert_of_nothing, draw

from tinygrad_char.kernels import softmax
from tinygrad_char.kernels import softmax as reference_softmax  # conftest replaces the other name

SCALES, SEEDS = st.sampled_from([1.0, 0.125, 3.0]), st.integers(0, 1000)


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


def assert_softmax(x, grad, seen, y, dx, scale):
    """Assert that y and dx, of rows (N, C), are the softmax of scale * x and its gradient."""
    truth = reference(scale * x.astype(np.float64), seen)
    # the product, and what it is less the peak, are rounded to their size before exp
    size = np.where(seen, np.abs(scale * x), 0).max(-1, keepdims=True, initial=0)
    assert_close(y, truth, (1 + size) * truth + 1e-38)
    assert (y[~seen] == 0).all()
    wide = np.where(seen, grad, 0).astype(np.float64)
    bound = scale * np.abs(wide).max(-1, keepdims=True, initial=0) * (1 + size) * (y + truth)
    assert_close(dx, scale * vector_jacobian(wide, truth), bound + 1e-38)
    assert (dx[~seen] == 0).all()


@settings(deadline=None, max_examples=60)
@given(
    *(st.integers(1, 3), st.integers(1, 40), st.integers(1, 70), SCALES, LAYOUTS),
    *(st.sampled_from(["none", "rows", "columns", "all"]), SEEDS),
)
def test_causal_softmax_is_that_of_what_is_seen(
    batch, rows, columns, scale, laid_out, masked, seed
):
    rng = np.random.default_rng(seed)
    shape = (2, batch, rows, columns)
    x, grad = draw(rng, shape, laid_out), draw(rng, shape, laid_out)
    mask = {
        "none": None,
        "rows": rng.random((rows, 1)) < 0.7,
        "columns": rng.random(columns) < 0.7,
        "all": rng.random(shape) < 0.7,
    }[masked]
    seen = np.tri(rows, columns, columns - rows, dtype=bool) & (True if mask is None else mask)
    before = x.copy(), grad.copy()
    y = softmax.forward(x, mask, causal=True, scale=scale)
    dx = softmax.backward(grad, y, causal=True, scale=scale)
    assert y.dtype == dx.dtype == np.float32
    assert y.shape == dx.shape == shape
    flat = [each.reshape(-1, columns) for each in (x, grad, np.broadcast_to(seen, shape), y, dx)]
    assert_softmax(*flat, scale)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(grad, before[1])


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 300), SCALES, LAYOUTS, st.booleans(), SEEDS
)
def test_softmax_of_scaled_rows(batch, rows, columns, scale, laid_out, masked, seed):
    rng = np.random.default_rng(seed)
    shape = (batch, rows, columns)
    x, grad = draw(rng, shape, laid_out), draw(rng, shape, laid_out)
    mask = rng.random((rows, columns)) < 0.7
    y = softmax.forward(x, mask if masked else None, scale=scale)
    dx = softmax.backward(grad, y, scale=scale)
    seen = np.broadcast_to(mask if masked else True, shape)
    assert_softmax(*[each.reshape(-1, columns) for each in (x, grad, seen, y, dx)], scale)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.0, -1.0])
def test_what_is_not_finite_is_where_the_reference_has_it(value, causal, masked, scale):
    x = np.random.default_rng(0).standard_normal((3, 20, 40)).astype(np.float32)
    x[0, 3, 5] = x[0, 7, 39] = x[1, 4:6] = value
    x[2, :, 20:] = value
    mask = np.arange(40) % 3 > 0 if masked else None
    with np.errstate(invalid="ignore", over="ignore"):
        y = softmax.forward(x, mask, causal=causal, scale=scale)
        expected = reference_softmax.forward(x, mask, causal=causal, scale=scale)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-37)
        grad = x[::-1]
        dx = softmax.backward(grad, y, causal=causal, scale=scale)
        expected = reference_softmax.backward(grad, y, causal=causal, scale=scale)
        largest = np.abs(grad, where=np.isfinite(grad), out=np.zeros_like(grad)).max()
        np.testing.assert_allclose(dx, expected, rtol=1e-4, atol=1e-5 * largest)
    if np.isnan(value) or value * scale == np.inf:
        assert np.isnan(expected).any()


@pytest.mark.parametrize("hidden", [np.inf, np.nan, 3e38, -np.inf])
def test_what_lies_above_the_diagonal_is_ignored(hidden):
    x = np.array([[hidden, hidden], [1, hidden], [1, 1], [np.nan, 1]], np.float32)[None]
    with np.errstate(invalid="ignore"):
        y = softmax.forward(x[:, :3], causal=True)
        assert y.tolist() == [[[0, 0], [1, 0], [0.5, 0.5]]]
        grad = np.array([[hidden, hidden], [2, hidden], [1, 2]], np.float32)[None]
        assert softmax.backward(grad, y, causal=True).tolist() == [[[0, 0], [0, 0], [-0.25, 0.25]]]


def test_causal_softmax_along_the_last_axis_but_one():
    x = np.random.default_rng(0).standard_normal((2, 5, 7)).astype(np.float32)
    mask = softmax.causal_mask(np, 5, 7)
    y = softmax.forward(x, axis=1, causal=True)
    np.testing.assert_array_equal(y, softmax.forward(x, mask, 1))
    dx = softmax.backward(x, y, 1, causal=True)
    np.testing.assert_array_equal(dx, softmax.backward(x, y, 1))


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


def test_many_rows_are_those_of_few(monkeypatch):
    """More than one thread is worth, with matrices that begin within a thread's part."""
    monkeypatch.setattr("tinygrad_char.kernels.cpu.cores.available_cores", lambda: 3)
    x, grad = np.random.default_rng(0).standard_normal((2, 41, 33, 65)).astype(np.float32)
    y = softmax.forward(x, causal=True)
    dx = softmax.backward(grad, y, causal=True)
    for i in range(len(x)):
        np.testing.assert_array_equal(y[i], softmax.forward(x[i], causal=True))
        np.testing.assert_array_equal(dx[i], softmax.backward(grad[i], y[i], causal=True))


def test_minus_infinity_has_no_weight():
    x = np.array([[-np.inf, 0.0, -np.inf, 0.0]], np.float32)
    y = softmax.forward(x)
    assert y.tolist() == [[0, 0.5, 0, 0.5]]
    assert softmax.backward(np.ones_like(x) * 3, y).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_axis(axis):
    assert_along_axis(softmax, axis)


def test_empty():
    assert_of_nothing(softmax)
