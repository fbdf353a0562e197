"""GELU and the error function in it."""

import math

import numpy as np
import pytest
from closeness import SIZES, assert_close, ulps

from tinygrad_char.kernels import gelu, relu
from tinygrad_char.kernels.gelu.erf import MIDDLE, SMALL, erf

SPECIAL = [0.0, -0.0, 1e-300, 5e-324, 1e-8, SMALL, MIDDLE, 1.0, 5.5, 5.9, 6.0, 10, 27, 1e3, 1e300]


def points():
    near = [np.nextafter(edge, side) for edge in (SMALL, MIDDLE) for side in (0, 9)]
    positive = np.concatenate(
        [np.linspace(0, 7, 20_001), np.geomspace(1e-20, 30, 5_000), SPECIAL, near]
    )
    return np.concatenate([positive, -positive])


def test_erf_is_within_two_units_of_the_last_place():
    x = points()
    truth = np.array([math.erf(each) for each in x])
    assert ulps(erf(x), truth).max() <= 2


def test_erf_in_float32():
    x = np.linspace(-5, 5, 20_001).astype(np.float32)
    truth = np.array([math.erf(each) for each in x.tolist()])
    y = erf(x)
    assert y.dtype == np.float32
    assert ulps(y, truth).max() <= 4


def test_erf_at_the_ends():
    x = np.array([np.inf, -np.inf, np.nan, -0.0])
    y = erf(x)
    assert y[0] == 1
    assert y[1] == -1
    assert np.isnan(y[2])
    assert math.copysign(1, y[3]) == -1


def exact(x):
    return x * (1 + math.erf(x / math.sqrt(2))) / 2


def approximated(x):
    return x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("approximate", "scalar"), [("none", exact), ("tanh", approximated)])
@pytest.mark.parametrize("size", SIZES)
def test_gelu_agrees_with_its_definition(dtype, approximate, scalar, size):
    x = np.random.default_rng(size).uniform(-8, 8, size).astype(dtype)
    wide = x.astype(np.float64).tolist()
    y = gelu.forward(x, approximate)
    # 1 + erf cancels below zero: the error is relative to |x|, not to the result
    assert_close(y, np.array([scalar(each) for each in wide]), np.abs(x), units=4)

    grad = np.random.default_rng(size).standard_normal(size).astype(dtype)
    step = 1e-6
    slope = np.array([(scalar(each + step) - scalar(each - step)) / (2 * step) for each in wide])
    dx = gelu.backward(grad, x, approximate)
    assert dx.dtype == dtype
    allowed = np.abs(grad) * (4 * (1 + np.abs(x)) * np.finfo(dtype).eps + 1e-8)
    assert (np.abs(dx - grad * slope) <= allowed).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_agrees_with_pytorch(dtype, approximate):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch")
    x = np.linspace(-9, 9, 2001).astype(dtype)
    grad = np.linspace(1, 2, 2001).astype(dtype)
    leaf = torch.tensor(x, requires_grad=True)
    result = torch.nn.functional.gelu(leaf, approximate=approximate)
    result.backward(torch.tensor(grad))
    scale = np.abs(x).astype(np.float64) + 1
    assert_close(gelu.forward(x, approximate), result.detach().double().numpy(), scale, units=4)
    truth = leaf.grad.double().numpy()
    if approximate == "tanh":  # 1 - Phi, rounded to the size of 1, is multiplied by this
        scale += scale * (1 + 3 * 0.044715 * scale**2)
    assert_close(gelu.backward(grad, x, approximate), truth, 2 * scale, units=4)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_far_out_is_the_identity_or_zero(approximate):
    x = np.array([-1e4, -100, 100, 1e4], np.float32)
    assert gelu.forward(x, approximate).tolist() == [0, 0, 100, 1e4]
    assert gelu.backward(np.ones_like(x), x, approximate).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (5, 7)])
def test_relu(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    y = relu.forward(x)
    np.testing.assert_array_equal(y, np.where(x > 0, x, np.float32(0)))
    grad = np.full(shape, 3, np.float32)
    np.testing.assert_array_equal(relu.backward(grad, y), np.where(x > 0, grad, np.float32(0)))


def test_relu_keeps_nan_with_its_gradient_and_has_no_slope_at_zero():
    x = np.array([np.nan, 0.0, -0.0])
    y = relu.forward(x)
    assert np.isnan(y[0])
    assert relu.backward(np.ones(3), y).tolist() == [1, 0, 0]
