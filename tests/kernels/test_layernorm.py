"""LayerNorm and RMSNorm against their definitions in float64."""

import numpy as np
import pytest
from closeness import SIZES, assert_close

from tinygrad_char.kernels import layernorm
from tinygrad_char.kernels.layernorm import Saved


def reference(x, weight, bias, eps):
    mean = x.mean(-1, keepdims=True)
    rstd = ((x - mean) ** 2).mean(-1, keepdims=True)
    rstd = (rstd + eps) ** -0.5
    return (x - mean) * rstd * weight + bias, mean, rstd


def jacobian(normalized, rstd):
    """Return dy/dx of one row without weight: rstd (I - 1/C - n n^T / C)."""
    channels = len(normalized)
    return rstd * (np.eye(channels) - (1 + np.outer(normalized, normalized)) / channels)


@pytest.mark.parametrize("channels", SIZES)
@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (3000, 1), (-1000, 0.02), (3, 1)])
def test_forward_and_backward_agree_with_float64(channels, mean, deviation):
    rng = np.random.default_rng(channels)
    x, grad = rng.standard_normal((2, 7, channels)).astype(np.float32)
    x = x * np.float32(deviation) + np.float32(mean)
    weight, bias = rng.standard_normal((2, channels)).astype(np.float32)
    wide = [each.astype(np.float64) for each in (x, weight, bias)]
    truth, true_mean, true_rstd = reference(*wide, 1e-5)

    y, kept_mean, rstd = layernorm.forward(x, weight, bias)
    # the mean is rounded to the size of the inputs, and nothing else is
    assert_close(kept_mean, true_mean, np.abs(x).max())
    assert_close(rstd, true_rstd, true_rstd)
    assert_close(y, truth, (1 + np.abs(truth)) * (1 + np.abs(weight)))

    dx, dweight, dbias = layernorm.backward(
        grad, Saved(x, weight, kept_mean, rstd), (True, True, True)
    )
    normalized = (wide[0] - true_mean) * true_rstd
    g = grad * wide[1]
    true_dx = np.stack(
        [jacobian(n, r[0]) @ row for n, r, row in zip(normalized, true_rstd, g, strict=True)]
    )
    largest = 1 + np.abs(normalized).max(-1, keepdims=True)
    assert_close(dx, true_dx, true_rstd * largest**2 * np.abs(g).max())
    spread = (np.abs(grad) * largest).sum(0)
    assert_close(dweight, (grad * normalized).sum(0), spread)
    assert_close(dbias, grad.astype(np.float64).sum(0), np.abs(grad).sum(0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_addend_is_added_to_the_gradient(dtype):
    rng = np.random.default_rng(0)
    x, grad, addend = rng.standard_normal((3, 7, 33)).astype(dtype)
    weight = rng.standard_normal(33).astype(dtype)
    _, mean, rstd = layernorm.forward(x, weight, None)
    arguments = (grad, Saved(x, weight, mean, rstd), (True, True, True))
    before = addend.copy()
    dx, *others = layernorm.backward(*arguments)
    sums = [
        layernorm.backward(*arguments, each)[0]
        for each in (addend, np.repeat(addend, 2, 1)[:, ::2])
    ]
    np.testing.assert_array_equal(sums[0], dx + addend)
    np.testing.assert_allclose(sums[1], dx + addend, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(addend, before)
    for mine, expected in zip(layernorm.backward(*arguments, addend)[1:], others, strict=True):
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("channels", SIZES)
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_rms_norm_agrees_with_float64_however_large_rows_are(channels, size):
    rng = np.random.default_rng(channels)
    x, grad = rng.standard_normal((2, 7, channels)).astype(np.float32)
    x = x * np.float32(size) + np.float32(3 * size)
    weight, bias, addend = rng.standard_normal((3, channels)).astype(np.float32)
    addend = np.broadcast_to(addend, x.shape).copy()
    wide = x.astype(np.float64)
    true_rstd = ((wide**2).mean(-1, keepdims=True) + 1e-12) ** -0.5
    normalized = wide * true_rstd

    y, rstd = layernorm.rms_forward(x, weight, bias, 1e-12)
    assert_close(rstd, true_rstd, true_rstd)
    truth = normalized * weight + bias
    assert_close(y, truth, np.abs(normalized * weight) + np.abs(bias))

    saved = Saved(x, weight, None, rstd)
    dx, dweight, dbias = layernorm.rms_backward(grad, saved, (True, True, True))
    g = grad.astype(np.float64) * weight
    true_dx = true_rstd * (g - normalized * (g * normalized).mean(-1, keepdims=True))
    largest = 1 + np.abs(normalized).max(-1, keepdims=True)
    assert_close(dx, true_dx, true_rstd * largest**2 * np.abs(g).max())
    assert_close(dweight, (grad * normalized).sum(0), (np.abs(grad) * largest).sum(0))
    assert_close(dbias, grad.astype(np.float64).sum(0), np.abs(grad).sum(0))
    more = layernorm.rms_backward(grad, saved, (True, False, False), addend)[0]
    np.testing.assert_array_equal(more, dx + addend)


def test_rms_norm_of_zeros_is_zero_and_of_infinity_is_not_a_number():
    x = np.zeros((3, 4), np.float32)
    x[1, 2] = np.inf
    with np.errstate(invalid="ignore"):
        y, rstd = layernorm.rms_forward(x, None, None, 1e-4)
    np.testing.assert_allclose(rstd[:, 0], [100, 0, 100], rtol=1e-6)
    np.testing.assert_array_equal(y[[0, 2]], 0)
    np.testing.assert_array_equal(y[1], [0, 0, np.nan, 0])


def test_variance_far_from_zero_is_not_cancelled():
    x = (3000 + np.random.default_rng(0).standard_normal((1, 1000))).astype(np.float32)
    exact = x.astype(np.float64).std(axis=-1)
    rstd = layernorm.forward(x, None, None, 0.0)[2]
    assert abs(float(rstd[0, 0]) * exact[0] - 1) < 1e-4


def test_constant_row_gives_the_bias_and_no_gradient():
    x = np.full((2, 5), 7, np.float32)
    bias = np.arange(5, dtype=np.float32)
    y, mean, rstd = layernorm.forward(x, None, bias)
    assert (y == bias).all()
    grad = np.ones_like(x)
    dx, dweight, dbias = layernorm.backward(grad, Saved(x, None, mean, rstd), (True, False, True))
    assert np.abs(dx).max() == 0
    assert dweight is None
    assert (dbias == 2).all()


@pytest.mark.parametrize("number", [1449.6, 1.1e30, -1.1e30])
def test_equal_numbers_have_no_variance_however_large(number):
    x = np.full((2, 16), number, np.float32)
    y, mean, rstd = layernorm.forward(x, None, None)
    assert (y == 0).all()
    assert (mean == x[:, :1]).all()
    np.testing.assert_allclose(rstd, 1e-5**-0.5, rtol=1e-6)


def test_a_wide_row_loses_no_digits_to_its_length():
    x, grad = np.random.default_rng(0).standard_normal((2, 2, 200_003)).astype(np.float32)
    x, grad = x + np.float32(1), grad + np.float32(30)
    truth, true_mean, true_rstd = reference(x.astype(np.float64), 1, 0, 1e-5)
    y, mean, rstd = layernorm.forward(x, None, None)
    assert_close(mean, true_mean, 1)
    assert_close(rstd, true_rstd, 1)
    assert_close(y, truth, 1 + np.abs(truth))
    dx = layernorm.backward(grad, Saved(x, None, mean, rstd), (True, False, False))[0]
    wide = grad.astype(np.float64)
    wide -= wide.mean(-1, keepdims=True) + truth * (wide * truth).mean(-1, keepdims=True)
    assert_close(dx, wide * true_rstd, np.abs(grad).max() * (1 + np.abs(truth)))


@pytest.mark.parametrize(
    "needs", [(True, False, False), (False, True, False), (False, False, True)]
)
def test_only_what_is_needed_is_returned(needs):
    x = np.arange(6, dtype=np.float64).reshape(2, 3)
    weight = np.ones(3)
    _, mean, rstd = layernorm.forward(x, weight, weight)
    grads = layernorm.backward(x, Saved(x, weight, mean, rstd), needs)
    assert [each is not None for each in grads] == list(needs)


def test_inputs_are_left_alone():
    x, weight, bias, grad = (np.arange(12, dtype=np.float64).reshape(4, 3) for _ in range(4))
    before = x.copy()
    _, mean, rstd = layernorm.forward(x, weight[0], bias[0])
    for w in (weight[0], None):
        layernorm.backward(grad, Saved(x, w, mean, rstd), (True, True, True))
    for each in (x, weight, bias, grad):
        assert (each == before).all()
