"""The residual connection with bias and dropout in one pass, against its parts."""

import numpy as np
import pytest
from closeness import SIZES, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels import residual
from tinygrad_char.kernels.dropout import DropoutKey, keep_mask, keep_scale

KEY = DropoutKey(2**64 - 1, 7)


class EveryThird:
    """A mask that comes from elsewhere."""

    def keep_mask(self, shape, p, block):
        return (np.arange(np.prod(shape)) % 3 == block).reshape(shape)

    def keep_scale(self, p, dtype):
        return 3.0


def drawn(shape, dtype=np.float32):
    rng = np.random.default_rng(shape)
    z, x, grad = rng.standard_normal((3, *shape)).astype(dtype)
    return z, rng.standard_normal(shape[-1]).astype(dtype), x, grad


def factors(shape, p, dtype=np.float32, key=KEY):
    if p == 0:
        return np.ones(shape, dtype)
    return keep_mask(np, shape, p, key) * dtype(key.keep_scale(p, dtype))


@settings(deadline=None, max_examples=40)
@given(
    rows=st.sampled_from([1, 3, 31]),
    columns=st.sampled_from([*SIZES, 700]),
    p=st.sampled_from([0.0, 1e-6, 0.2, 0.9, 1.0]),
    with_bias=st.booleans(),
    with_x=st.booleans(),
)
def test_forward_is_the_sum_of_its_parts_to_the_last_bit(rows, columns, p, with_bias, with_x):
    z, bias, x, _ = drawn((rows, columns))
    expected = (z + bias if with_bias else z) * factors(z.shape, p)
    if with_x:
        expected = expected + x
    before = bias.copy(), x.copy()
    y = residual.forward(z, bias if with_bias else None, x if with_x else None, p, KEY)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(bias, before[0])
    np.testing.assert_array_equal(x, before[1])


@settings(deadline=None, max_examples=40)
@given(
    rows=st.sampled_from([1, 3, 4, 31]),
    columns=st.sampled_from([*SIZES, 700]),
    p=st.sampled_from([0.0, 0.2, 0.9, 1.0]),
)
def test_backward_draws_the_mask_of_forward_and_adds_up_the_rows(rows, columns, p):
    grad = drawn((rows, columns))[3]
    expected = grad * factors(grad.shape, p)
    before = grad.copy()
    dz, dbias = residual.backward(grad, p, KEY, need_bias=True)
    np.testing.assert_array_equal(dz, expected)
    assert dbias.dtype == np.float32
    assert_close(dbias, expected.astype(np.float64).sum(0), np.abs(expected).sum(0))
    np.testing.assert_array_equal(grad, before)
    again, none = residual.backward(grad, p, KEY, need_bias=False)
    np.testing.assert_array_equal(again, expected)
    assert none is None


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(5,), (0, 3), (3, 0), (2, 3, 5)])
def test_shapes(shape, p):
    z, bias, x, grad = drawn(shape)
    expected = (z + bias) * factors(shape, p) + x
    np.testing.assert_array_equal(residual.forward(z, bias, x, p, KEY), expected)
    dz, dbias = residual.backward(grad, p, KEY, need_bias=True)
    assert dz.shape == shape
    assert dbias.shape == shape[-1:]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_other_dtypes_and_views_are_served(dtype, p):
    z, bias, x, grad = drawn((4, 5), dtype)
    expected = (z + bias) * factors(z.shape, p, dtype) + x
    np.testing.assert_array_equal(residual.forward(z, bias, x, p, KEY), expected)
    for each in (grad, np.asfortranarray(grad)):
        dz, dbias = residual.backward(each, p, KEY, need_bias=True)
        np.testing.assert_array_equal(dz, grad * factors(grad.shape, p, dtype))
        assert dz.dtype == dbias.dtype == dtype


def test_any_mask_source_serves():
    z, bias, x, grad = drawn((2, 7))
    kept = factors(z.shape, 0.5, key=EveryThird())
    expected = (z + bias) * kept + x
    np.testing.assert_array_equal(residual.forward(z, bias, x, 0.5, EveryThird()), expected)
    dz, dbias = residual.backward(grad, 0.5, EveryThird(), need_bias=True)
    np.testing.assert_array_equal(dz, grad * kept)
    assert_close(dbias, dz.astype(np.float64).sum(0), np.abs(dz).sum(0))


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_what_is_not_finite_comes_out_as_the_parts_have_it(p):
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, 1e-45] * 3, np.float32)
    z, bias, x, _ = drawn((len(special), 33))
    z += special[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        kept = factors(z.shape, p)
        expected = np.where(kept > 0, (z + bias) * kept, 0) + x
        dz, _ = residual.backward(z, p, KEY, need_bias=False)
        np.testing.assert_array_equal(dz, np.where(kept > 0, z * kept, 0))
        np.testing.assert_array_equal(residual.forward(z, bias, x, p, KEY), expected)


def test_the_mean_of_a_dropped_row_is_kept():
    z = np.ones((1, 100_000), np.float32)
    kept = 1 / keep_scale(0.3)
    deviation = np.sqrt((1 - kept) / kept / z.size)
    assert abs(residual.forward(z, None, None, 0.3, KEY).mean() - 1) < 5 * deviation
