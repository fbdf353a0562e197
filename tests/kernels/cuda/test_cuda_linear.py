"""Linear layers by cuBLAS against their reference; its stand-in computes."""

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from served import served

from tinygrad_char.kernels import linear
from tinygrad_char.kernels.cuda.parameters import FlatParameters

BF16 = np.dtype(ml_dtypes.bfloat16)


FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize("dtype", [FLOAT, BF16])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_take_float32_parameters(launcher, products, dtype, bias):
    rng = np.random.default_rng(0)
    x, grad = rng.integers(-4, 4, (2, 3, 4)).astype(dtype), rng.integers(-4, 4, (2, 3, 5))
    weight = rng.integers(-4, 4, (5, 4)).astype(np.float32)
    offset = rng.integers(-4, 4, 5).astype(np.float32) if bias else None
    y = served("linear", launcher, products).forward(x, weight, offset)
    assert y.dtype == dtype
    expected = linear.forward(x.astype(np.float32), weight, offset)
    np.testing.assert_array_equal(y.astype(np.float32), expected)
    grads = served("linear", launcher, products).backward(
        grad.astype(dtype), x, weight, (True, True, True)
    )
    wide = linear.backward(grad.astype(np.float32), x.astype(np.float32), weight, (True,) * 3)
    assert [each.dtype for each in grads] == [dtype, FLOAT, FLOAT]
    for mine, theirs in zip(grads, wide, strict=True):
        np.testing.assert_array_equal(mine.astype(np.float32), theirs)
    alone = served("linear", launcher, products).backward(
        grad.astype(dtype), x, None, (False, True, False)
    )
    assert alone[0] is alone[2] is None
    assert alone[1].dtype == dtype


def test_parameters_of_one_buffer_are_rounded_once(launcher, products):
    flat = np.arange(1, 41, dtype=np.float32)
    first, second, elsewhere = flat[:12].reshape(4, 3), flat[12:24].reshape(3, 4), flat[:4].copy()
    bias = flat[24:28]
    parameters = FlatParameters(flat, [])
    ours = served("linear", launcher, products, parameters=parameters)
    x = np.ones((2, 3), BF16)
    y = ours.forward(x, first, bias)
    z = ours.forward(y, second, None)
    assert parameters.rounded(first, BF16).base is parameters.rounded(bias, BF16).base is not None
    assert parameters.rounded(elsewhere, BF16) is parameters.rounded(first.T, BF16) is None
    np.testing.assert_array_equal(y, served("linear", launcher, products).forward(x, first, bias))
    np.testing.assert_array_equal(z, served("linear", launcher, products).forward(y, second, None))


def parameter(array, buffer, grad=None):
    return SimpleNamespace(array=array, grad=grad, grad_buffer=SimpleNamespace(array=buffer))


def test_a_gradient_that_is_there_already_is_not_overwritten(launcher, products):
    weight, buffer = np.ones((4, 3), np.float32), np.full((4, 3), 7, np.float32)
    parameters = FlatParameters(weight.reshape(-1), [parameter(weight, buffer, grad=buffer)])
    ours = served("linear", launcher, products, parameters=parameters)
    grad, x = np.ones((2, 4), np.float32), np.ones((2, 3), np.float32)
    result = ours.backward(grad, x, weight, (False, True, False))[1]
    assert not np.may_share_memory(result, buffer)
    assert (buffer == 7).all()


def test_the_first_gradient_of_a_weight_is_written_where_it_belongs(launcher, products):
    flat, grads = np.arange(16, dtype=np.float32), np.zeros(16, np.float32)
    weight, buffer = flat[4:].reshape(4, 3), grads[4:].reshape(4, 3)
    square = flat[:4].reshape(2, 2)
    grad, x = np.ones((2, 4), np.float32), np.full((2, 3), 2, np.float32)
    needs = (True, True, False)
    small = parameter(square, grads[:4].reshape(2, 2))
    parameters = FlatParameters(flat, [parameter(weight, buffer), small])
    ours = served("linear", launcher, products, parameters=parameters)
    view = ours.backward(grad, x, weight[:], needs)[1]
    assert not np.may_share_memory(view, buffer)
    assert ours.backward(grad, x, weight, needs)[1] is buffer
    again = ours.backward(grad, x, weight, needs)[1]
    assert not np.may_share_memory(again, buffer)
    transposed = ours.backward(grad[:, :2], x[:, :2], square.T, needs)[1]
    assert not np.may_share_memory(transposed, grads)
    np.testing.assert_array_equal(buffer, again)
    np.testing.assert_array_equal(grads, [0] * 4 + [4] * 12)


def test_other_dtypes_are_the_references(launcher, products):
    a = np.ones((2, 2))
    kernel = served("linear", launcher, products)
    assert kernel.forward(a, a, None).dtype == np.float64
    assert kernel.backward(a, a, a, (True, True, True))[2].dtype == np.float64
