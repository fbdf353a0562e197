"""Matrix products, the linear layer, and the backward of broadcasting."""

import numpy as np
import pytest
from closeness import SIZES, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_char.kernels import linear, matmul
from tinygrad_char.kernels.reduce import unbroadcast


@pytest.mark.parametrize("inner", SIZES)
@pytest.mark.parametrize("rows", [1, 33])
def test_linear_agrees_with_float64(inner, rows):
    rng = np.random.default_rng(inner)
    x = rng.standard_normal((2, rows, inner)).astype(np.float32)
    weight = rng.standard_normal((5, inner)).astype(np.float32)
    bias = rng.standard_normal(5).astype(np.float32)
    grad = rng.standard_normal((2, rows, 5)).astype(np.float32)
    w = weight.astype(np.float64)
    y = linear.forward(x, weight, bias)
    size = np.einsum("btk,ok->bto", abs(x), abs(w)) + abs(bias)
    assert_close(y, np.einsum("btk,ok->bto", x, w) + bias, size)
    dx, dweight, dbias = linear.backward(grad, x, weight, (True, True, True))
    assert_close(dx, np.einsum("bto,ok->btk", grad, w), np.einsum("bto,ok->btk", abs(grad), abs(w)))
    wide = grad.astype(np.float64)
    size = np.einsum("bto,btk->ok", abs(wide), abs(x))
    assert_close(dweight, np.einsum("bto,btk->ok", wide, x), size)
    assert_close(dbias, wide.sum((0, 1)), abs(wide).sum((0, 1)))


@pytest.mark.parametrize(
    "needs", [(True, False, False), (False, True, False), (False, False, True)]
)
def test_linear_returns_only_what_is_needed(needs):
    x = np.ones((2, 3))
    grads = linear.backward(np.ones((2, 4)), x, np.ones((4, 3)), needs)
    assert [each is not None for each in grads] == list(needs)


@settings(deadline=None, max_examples=60)
@given(
    shapes=hnp.mutually_broadcastable_shapes(
        signature="(m?,k),(k,n?)->(m?,n?)", min_side=0, max_side=4
    ),
    seed=st.integers(0, 1000),
)
def test_matmul_backward_is_the_adjoint(shapes, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-9, 9, shape).astype(np.float64) for shape in shapes.input_shapes)
    y = matmul.forward(a, b)
    np.testing.assert_array_equal(y, np.matmul(a, b))
    grad = rng.integers(-9, 9, y.shape).astype(np.float64)
    da, db = matmul.backward(grad, a, b, (True, True))
    assert da.shape == a.shape
    assert db.shape == b.shape
    # integers, so every sum is exact: <dy, (a + e) b> - <dy, a b> = <da, e>
    e, f = (rng.integers(-9, 9, each.shape) for each in (a, b))
    assert (grad * np.matmul(e, b)).sum() == (da * e).sum()
    assert (grad * np.matmul(a, f)).sum() == (db * f).sum()
    assert matmul.backward(grad, a, b, (False, True))[0] is None
    assert matmul.backward(grad, a, b, (True, False))[1] is None


@settings(deadline=None, max_examples=100)
@given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=4),
    seed=st.integers(0, 1000),
)
def test_unbroadcast_is_the_adjoint_of_broadcasting(shapes, seed):
    rng = np.random.default_rng(seed)
    grad = rng.integers(-9, 9, shapes.result_shape).astype(np.float32)
    for shape in shapes.input_shapes:
        x = rng.integers(-9, 9, shape).astype(np.float32)
        result = unbroadcast(grad, shape)
        assert result.shape == shape
        assert result.dtype == grad.dtype
        assert (result * x).sum() == (grad * np.broadcast_to(x, grad.shape)).sum()
