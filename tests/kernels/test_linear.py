"""Linear layers against float64."""

import numpy as np
import pytest
from closeness import SIZES, assert_close

from tinygrad_char.kernels import linear


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
