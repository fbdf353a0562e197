"""Linear layers against float64, also of operands that are rounded to bfloat16."""

import ml_dtypes
import numpy as np
import pytest
from closeness import SIZES, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels import linear
from tinygrad_char.kernels.backend import CPU, DeviceError
from tinygrad_char.kernels.operations import Settings, using


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


def rounded(*arrays):
    return [each.astype(ml_dtypes.bfloat16).astype(np.float64) for each in arrays]


@settings(deadline=None)
@given(st.sampled_from(SIZES), st.sampled_from(SIZES), st.sampled_from(SIZES), st.booleans())
def test_in_bfloat16_the_operands_of_products_are_rounded_and_nothing_else(n, inner, outer, biased):
    rng = np.random.default_rng(n * inner)
    x = rng.standard_normal((n, inner)).astype(np.float32)
    weight = rng.standard_normal((outer, inner)).astype(np.float32)
    bias = rng.standard_normal(outer).astype(np.float32) if biased else None
    grad = rng.standard_normal((n, outer)).astype(np.float32)
    low_x, low_weight, low_grad = rounded(x, weight, grad)
    added = bias if biased else np.zeros(outer)
    y = linear.forward(x, weight, bias, bf16=True)
    assert_close(y, low_x @ low_weight.T + added, abs(low_x) @ abs(low_weight).T + abs(added))
    dx, dweight, dbias = linear.backward(grad, x, weight, (True, True, True), bf16=True)
    assert_close(dx, low_grad @ low_weight, abs(low_grad) @ abs(low_weight))
    assert_close(dweight, low_grad.T @ low_x, abs(low_grad).T @ abs(low_x))
    assert_close(dbias, grad.sum(0, np.float64), abs(grad).sum(0, np.float64))


def test_bfloat16_leaves_float64_as_it_is():
    x, weight = np.full((3, 2), 1 + 2.0**-40), np.ones((4, 2))
    assert (linear.forward(x, weight, None, bf16=True) == 2 + 2.0**-39).all()
    grads = linear.backward(np.ones((3, 4)), x, weight, (True, True, False), bf16=True)
    assert grads[1][0, 0] == 3 + 3 * 2.0**-40


def test_settings_choose_bfloat16():
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal((6, 6)).astype(np.float32) for _ in "xw")
    backend = CPU.under(Settings(bf16=True))
    expected = linear.forward(x, weight, None, bf16=True)
    assert (backend.kernels[linear.forward](x, weight, None) == expected).all()
    assert (expected != linear.forward(x, weight, None)).any()
    with using(bf16=True), using(check=True):
        served = CPU.chosen().kernels
        assert (served[linear.forward](x, weight, None) == expected).all()
        assert served[served[linear.forward]] is not None  # whoever has it finds it again
        grads = served[linear.backward](x, x, weight, (True, True, False))
        with using(bf16=False):
            exact = CPU.chosen().kernels[linear.forward](x, weight, None)
    assert (exact == linear.forward(x, weight, None)).all()
    others = linear.backward(x, x, weight, (True, True, False), bf16=True)
    assert all((each == other).all() for each, other in zip(grads[:2], others[:2], strict=True))


def test_devices_round_no_float32_for_products_alone(on_cpu):
    with pytest.raises(DeviceError, match="multiplies in bfloat16 what is bfloat16"):
        on_cpu.under(Settings(bf16=True))
