"""Bias and activation in one pass, against the definitions in float64."""

import math

import numpy as np
import pytest
from closeness import SIZES, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels import bias_activation

ACTIVATIONS = bias_activation.ACTIVATIONS
phi = np.vectorize(lambda x: (1 + math.erf(x / math.sqrt(2))) / 2, otypes=[float])


def activated(x, activation):
    if activation == "relu":
        return np.maximum(x, 0)
    if activation == "gelu":
        return x * phi(x)
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def slope(x, activation):
    if activation == "relu":
        return (x > 0).astype(float)
    step = 1e-5
    return (activated(x + step, activation) - activated(x - step, activation)) / (2 * step)


def drawn(rows, columns, dtype=np.float32):
    rng = np.random.default_rng([rows, columns])
    z, grad = (3 * rng.standard_normal((2, rows, columns))).astype(dtype)
    return z, grad, rng.standard_normal(columns).astype(dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("columns", SIZES)
def test_forward_and_backward_agree_with_float64(activation, with_bias, columns):
    z, grad, bias = drawn(7, columns)
    bias = bias if with_bias else None
    x = (z + bias if with_bias else z).astype(np.float64)  # rounded as it is on the way
    y, kept = bias_activation.forward(z.copy(), bias, activation)
    assert_close(y, activated(x, activation), np.abs(x), units=4)

    before = [None if each is None else each.copy() for each in (grad, *kept)]
    dz, dbias = bias_activation.backward(grad, kept, activation, need_bias=True)
    truth = grad * slope(x, activation)
    allowed = np.abs(grad) * (4 * (1 + np.abs(x)) * np.finfo(np.float32).eps + 1e-8)
    assert (np.abs(dz - truth) <= allowed).all()
    assert dz.dtype == dbias.dtype == np.float32
    assert_close(dbias, dz.astype(np.float64).sum(0), np.abs(dz).sum(0))
    for each, old in zip((grad, *kept), before, strict=True):
        np.testing.assert_array_equal(each, old)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_bias_has_no_gradient_where_none_is_needed(activation):
    z, grad, bias = drawn(3, 5)
    _, kept = bias_activation.forward(z, bias, activation)
    both = bias_activation.backward(grad, kept, activation, need_bias=True)
    only, none = bias_activation.backward(grad, kept, activation, need_bias=False)
    assert none is None
    np.testing.assert_array_equal(only, both[0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(5,), (0, 3), (3, 0), (2, 3, 5)])
def test_shapes(activation, shape):
    rng = np.random.default_rng(0)
    z, grad = rng.standard_normal((2, *shape)).astype(np.float32)
    bias = rng.standard_normal(shape[-1]).astype(np.float32)
    y, kept = bias_activation.forward(z.copy(), bias, activation)
    dz, dbias = bias_activation.backward(grad, kept, activation, need_bias=True)
    assert y.shape == dz.shape == shape
    assert dbias.shape == shape[-1:]
    flat, _ = bias_activation.forward(z.reshape(math.prod(shape[:-1]), shape[-1]), bias, activation)
    np.testing.assert_array_equal(y, flat.reshape(shape))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_dtypes_and_views_are_served(activation, dtype):
    z, grad, bias = drawn(6, 5, dtype)
    y, kept = bias_activation.forward(z.copy(), bias, activation)
    dz, dbias = bias_activation.backward(grad, kept, activation, need_bias=True)
    assert y.dtype == dz.dtype == dbias.dtype == dtype
    turned = np.asfortranarray(grad)
    for mine, other in zip(
        bias_activation.backward(turned, kept, activation, need_bias=True), (dz, dbias), strict=True
    ):
        assert_close(mine, other.astype(np.float64), 1 + np.abs(other).astype(np.float64))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_not_finite_comes_out_as_the_definition_has_it(activation):
    """0 for relu far below, infinity far above, NaN for NaN and where infinity meets zero."""
    z = np.array([[np.nan, np.inf, -np.inf, 1e20, -1e20, 3e38, -3e38, 0.0, -0.0]], np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        y, kept = bias_activation.forward(z.copy(), None, activation)
        dz, _ = bias_activation.backward(np.ones_like(z), kept, activation, need_bias=False)
        lost, _ = bias_activation.backward(
            np.full_like(z, np.inf), kept, activation, need_bias=False
        )
    below = 0.0 if activation == "relu" else np.nan
    np.testing.assert_array_equal(
        y[0], np.array([np.nan, np.inf, below, 1e20, 0, 3e38, 0, 0, 0], np.float32)
    )
    expected = {
        "relu": [1, 1, 0, 1, 0, 1, 0, 0, 0],
        "gelu": [np.nan, np.nan, np.nan, 1, 0, 1, 0, 0.5, 0.5],
        "gelu_tanh": [np.nan] * 7 + [0.5, 0.5],  # the slope of its x^3 is infinite
    }
    np.testing.assert_array_equal(dz[0], np.array(expected[activation], np.float32))
    shut = lost[0][dz[0] == 0]
    assert (shut == 0).all() if activation == "relu" else np.isnan(shut).all()


@pytest.mark.parametrize("bias", [None, np.array([2, -2, 0], np.float32)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_relu_gives_nothing_of_what_it_shuts_off(value, bias):
    z = np.array([[-3.0, 1, 0], [-0.0, np.nan, 2]], np.float32)
    _, kept = bias_activation.forward(z.copy(), bias, "relu")
    open_ = ~(z + (0 if bias is None else bias) <= 0)
    expected = np.where(open_, np.float32(value), np.float32(0))
    dz, dbias = bias_activation.backward(np.full_like(z, value), kept, "relu", need_bias=True)
    np.testing.assert_array_equal(dz, expected)
    np.testing.assert_array_equal(dbias, expected.sum(0))


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([1, 2, 3, 7, 17, 31, 33, 65, 127, 129]),
    st.sampled_from([1, 2, 5, 31, 33, 64, 65, 127, 129]),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_relu_selects_at_every_size(rows, columns, dtype, shifted, seed):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((rows, columns)).astype(dtype)
    z[rng.random(z.shape) < 0.1] = np.nan
    grad = rng.choice(np.array([np.inf, -np.inf, np.nan, 1, -2], dtype), z.shape)
    bias = rng.standard_normal(columns).astype(dtype) if shifted else None
    y, kept = bias_activation.forward(z.copy(), bias, "relu")
    dz, _ = bias_activation.backward(grad, kept, "relu", need_bias=False)
    np.testing.assert_array_equal(dz, np.where(y <= 0, dtype(0), grad))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_a_loss_that_is_not_finite_are_hidden_by_a_shut_gate_alone(activation):
    z = np.array([[1.0, -1.0, 2.0]], np.float32)
    _, kept = bias_activation.forward(z, None, activation)
    grad = np.array([[np.nan, np.nan, 1.0]], np.float32)
    dz, dbias = bias_activation.backward(grad, kept, activation, need_bias=True)
    expected = [True, activation != "relu", False]
    assert np.isnan(dz[0]).tolist() == np.isnan(dbias).tolist() == expected


@pytest.mark.parametrize(("activation", "approximate"), [("gelu", "none"), ("gelu_tanh", "tanh")])
def test_gelu_agrees_with_pytorch(activation, approximate):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch")
    z = np.linspace(-9, 9, 2002, dtype=np.float32).reshape(2, 1001)
    leaf = torch.tensor(z, requires_grad=True)
    theirs = torch.nn.functional.gelu(leaf, approximate=approximate)
    theirs.sum().backward()
    y, kept = bias_activation.forward(z.copy(), None, activation)
    scale = np.abs(z).astype(np.float64) + 1
    assert_close(y, theirs.detach().double().numpy(), scale, units=4)
    dz, _ = bias_activation.backward(np.ones_like(z), kept, activation, need_bias=False)
    if approximate == "tanh":  # 1 - Phi, rounded to the size of 1, is multiplied by this
        scale += scale * (1 + 3 * 0.044715 * scale**2)
    assert_close(dz, leaf.grad.double().numpy(), 2 * scale, units=4)
