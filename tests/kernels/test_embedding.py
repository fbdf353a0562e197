"""Embedding: rows by index, and their gradients added up."""

import numpy as np
import pytest
from closeness import SIZES, assert_close

from tinygrad_char.kernels import embedding


@pytest.mark.parametrize("rows", [*SIZES, embedding.ONE_HOT_ROWS, embedding.ONE_HOT_ROWS + 1, 5000])
@pytest.mark.parametrize("shape", [(), (1,), (7, 31), (0,), (3, 0)])
def test_forward_and_backward(rows, shape):
    rng = np.random.default_rng(rows)
    idx = rng.integers(0, rows, shape)
    weight = rng.standard_normal((rows, 3)).astype(np.float32)
    np.testing.assert_array_equal(embedding.forward(idx, weight), weight[idx])

    grad = rng.standard_normal((*shape, 3)).astype(np.float32)
    truth, size = np.zeros((2, rows, 3))
    np.add.at(truth, idx, grad.astype(np.float64))
    np.add.at(size, idx, abs(grad))
    result = embedding.backward(grad, idx, rows)
    assert result.dtype == np.float32
    assert_close(result, truth, size)
    np.testing.assert_array_equal(result, embedding.backward(grad, idx, rows))


@pytest.mark.parametrize("columns", [0, 1, 3, 40])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((), 1), ((7,), 1), ((7,), 2), ((3, 5), 1), ((3, 5), 2), ((3, 5), 3), ((0, 5), 2)],
)
def test_addend_is_added_to_the_last_axes(shape, axes, columns):
    rng = np.random.default_rng(columns)
    idx, weight = rng.integers(0, 9, shape), rng.standard_normal((9, columns)).astype(np.float32)
    whole = (*shape, columns)
    addend = rng.standard_normal(whole[-axes:]).astype(np.float32)
    y = embedding.forward(idx, weight, addend)
    np.testing.assert_array_equal(y, weight[idx] + addend)

    grad = rng.standard_normal(whole).astype(np.float32)
    before = tuple(range(len(whole) - axes))
    result = embedding.backward_addend(grad, addend.shape)
    assert result.dtype == np.float32
    wide = grad.astype(np.float64)
    assert_close(result, wide.sum(before), abs(wide).sum(before))


def test_results_and_gradients_are_rounded_to_the_dtype_asked_for():
    weight, idx = np.full((2, 2), 1 + 2.0**-20, np.float32), np.array([1, 1])
    half = np.dtype(np.float16)
    y = embedding.forward(idx, weight, weight, half)
    assert (y.dtype, y.tolist()) == (half, [[2, 2], [2, 2]])
    for result in (
        embedding.backward(y, idx, 2, np.dtype(np.float64)),
        embedding.backward_addend(y, (2,), np.dtype(np.float64)),
    ):
        assert result.dtype == np.float64
        assert result[-1].tolist() in ([4, 4], 4)


@pytest.mark.parametrize("rows", [5, 2000])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_one_row_many_times(rows, dtype):
    idx = np.full((9, 100), 3, dtype)
    result = embedding.backward(np.ones((9, 100, 2), np.float32), idx, rows)
    assert (result[3] == 900).all()
    assert result.sum() == 1800


def test_gradient_may_be_a_view():
    grad = np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2)[::-1]
    idx = np.array([[0, 1], [1, 1], [2, 0]])
    for rows in (3, 2000):
        expected = np.zeros((rows, 4))
        np.add.at(expected, idx, grad)
        np.testing.assert_array_equal(embedding.backward(grad, idx, rows), expected)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [6, 2000])
@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_stays_in_its_row(wrong, rows, dtype, strided):
    grad = np.ones((40, 6), dtype)[:, ::2] if strided else np.ones((40, 3), dtype)
    grad[7, 1] = wrong
    result = embedding.backward(grad, np.arange(40) % 5, rows)
    expected = np.zeros((rows, 3))
    expected[:5], expected[2, 1] = 8, wrong
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("rows", [5, 2000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_gradients_of_one_row(rows, dtype):
    idx = np.zeros(100_000, np.int64)
    idx[::1000] = 4
    result = embedding.backward(np.full((100_000, 3), 100.1, dtype), idx, rows)
    limit = 16 * np.finfo(dtype).eps
    exact = np.float64(dtype(100.1)) * np.array([99_900, 0, 0, 0, 100])
    np.testing.assert_allclose(result[:5], np.repeat(exact[:, None], 3, 1), rtol=limit)


@pytest.mark.parametrize(
    ("idx", "message"),
    [
        ([[0, 1], [4, 0]], r"index at position \(1, 0\) is 4, .* from 0 to 3"),
        ([-1], r"index at position \(0,\) is -1"),
        (7, r"index at position \(\) is 7"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_index_outside_is_named(idx, message, dtype):
    with pytest.raises(IndexError, match=message):
        embedding.forward(np.array(idx), np.zeros((4, 2), dtype))


@pytest.mark.parametrize("rows", [4, 2000])
def test_backward_writes_nowhere_else(rows):
    with pytest.raises(IndexError):
        embedding.backward(np.ones((3, 2), np.float32), np.array([0, rows, 1]), rows)


def test_rows_that_are_not_finite_are_found():
    weight = np.array([[1, 2], [np.inf, np.nan], [3, -np.inf]], np.float32)
    idx = np.array([2, 1, 0, 1])
    np.testing.assert_array_equal(embedding.forward(idx, weight), weight[idx])
