"""Addition: b of a's shape, of its last axes, broadcast otherwise, or a number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, mutually_broadcastable_shapes

from tinygrad_char.kernels import add

RNG = np.random.default_rng(0)


def draw(shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def check(a, b):
    y = add.forward(a, b)
    np.testing.assert_array_equal(y, a + b)
    assert y.dtype == a.dtype
    grad = draw(y.shape, y.dtype)
    needs = (True, True)
    grads = add.backward(grad, a.shape, b.shape, needs)
    for mine, operand in zip(grads, (a, b), strict=True):
        truth = grad.astype(np.float64)
        extra = truth.ndim - operand.ndim
        truth = truth.sum(axis=tuple(range(extra)))
        stretched = [n for n, size in enumerate(operand.shape) if size != truth.shape[n]]
        truth = truth.sum(axis=tuple(stretched), keepdims=True)
        assert (mine.shape, mine.dtype) == (operand.shape, operand.dtype)
        terms = max(1, grad.size // max(1, operand.size))
        eps = np.finfo(a.dtype).eps
        np.testing.assert_allclose(mine, truth, rtol=0, atol=8 * eps * terms)
    assert add.backward(grad, a.shape, b.shape, (False, False)) == (None, None)


@settings(deadline=None)
@given(array_shapes(max_dims=4, max_side=7), st.data())
def test_b_of_the_last_axes(shape, data):
    axes = data.draw(st.integers(0, len(shape)))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    check(draw(shape, dtype), draw(shape[axes:], dtype))


@settings(deadline=None)
@given(mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=5))
def test_any_shapes_that_broadcast(shapes):
    check(*(draw(each) for each in shapes.input_shapes))


def test_a_number_and_other_strides():
    a = draw((4, 6))
    np.testing.assert_array_equal(add.forward(a, 2.0), a + 2.0)
    np.testing.assert_array_equal(add.forward(2.0, a), a + 2.0)
    check(draw((6, 4)).T, a)
    check(a, a[:, ::-1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sum_is_written_to_where_an_operand_is(dtype):
    for size in (1, 33, 10**6):
        a, b = draw(size, dtype), draw(size, dtype)
        expected, out = a + b, np.empty_like(a)
        add.into(a, b, out)
        np.testing.assert_array_equal(out, expected)
        add.into(a, b, a)
        np.testing.assert_array_equal(a, expected)
        expected = out[::-1] + b
        add.into(out[::-1], b, b)
        np.testing.assert_array_equal(b, expected)


def test_shapes_that_do_not_broadcast():
    with pytest.raises(ValueError, match="broadcast"):
        add.forward(draw((2, 3)), draw((2, 4)))


def test_not_finite_values_are_added_as_they_are():
    a, b = np.array([[np.inf, np.nan], [-np.inf, 1]], np.float32), np.float32([-np.inf, 1])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(add.forward(a, b), a + b)
