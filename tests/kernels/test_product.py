"""Matrix products of kernels/linear/product.c, on each width of registers and by NumPy's BLAS."""

import ctypes
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from products import ProductsOfAnyPrecision, product_by

from tinygrad_char.kernels.backend import status
from tinygrad_char.kernels.cpu import blas
from tinygrad_char.kernels.cpu.extension import compiled

pytestmark = pytest.mark.skipif(compiled is None, reason=status())
WIDEST = 1 << 40
EPS = np.finfo(np.float32).eps
SIZES = [1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 32, 33, 64, 65, 127, 129]
LONG = [*SIZES, 384, 385, 800, 1153]  # one block of the depth, and several


@pytest.fixture(params=[4, 8, 16, "BLAS"])
def way(request):
    """Have products computed with registers of so many numbers, or by NumPy's BLAS."""
    if request.param == "BLAS":
        if not blas.bind(compiled):
            pytest.skip("NumPy has no BLAS that is known here")
        compiled.product_choose_lanes(4)
    else:
        compiled.bind_sgemm(0, 0, 0)
        if compiled.product_choose_lanes(request.param) != request.param:
            pytest.skip(f"this processor has no registers of {request.param} numbers")
    yield request.param
    compiled.product_choose_lanes(WIDEST)
    blas.bind(compiled)


multiply = product_by(lambda *arguments: compiled.product(*arguments))


def assert_near(c, a, b, onto=0.0):
    wide = a.astype(np.float64)
    size = abs(wide) @ abs(b) + abs(onto)
    assert c.dtype == np.float32
    assert (abs(c - (wide @ b + onto)) <= (a.shape[1] + 2) * EPS * size).all()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def check_any_sizes(data):
    rows, columns = (data.draw(st.sampled_from(SIZES)) for _ in "ac")
    depth = data.draw(st.sampled_from(LONG))
    transposed = data.draw(st.booleans()), data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    a = rng.standard_normal((rows, depth), dtype=np.float32)
    b = rng.standard_normal((depth, columns), dtype=np.float32)
    onto = rng.standard_normal((rows, columns), dtype=np.float32)
    assert_near(multiply(a, b, *transposed), a, b)
    assert_near(multiply(a, b, *transposed, onto), a, b, onto)


def test_agrees_with_float64(way):
    check_any_sizes()


class TestProducts(ProductsOfAnyPrecision):
    depth = 401
    multiply, assert_near = staticmethod(multiply), staticmethod(assert_near)


def test_same_bits_on_any_thread_and_at_any_address():
    rng = np.random.default_rng(2)
    a = rng.standard_normal((129, 500), dtype=np.float32)
    b = rng.standard_normal((500, 129), dtype=np.float32)
    expected = multiply(a, b)

    def again(offset):
        room = np.empty(129 * 129 + offset, np.float32)
        c = room[offset:].reshape(129, 129)
        moved = np.empty(a.size + offset, np.float32)[offset:].reshape(a.shape)
        moved[...] = a
        compiled.product(moved, b, c, 129, 129, 500, 0, 0, 0, 1)
        return c

    with ThreadPoolExecutor(4) as pool:
        for c in pool.map(again, range(32)):
            assert c.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("whole_bytes", "whole"), [(4, ctypes.c_int32), (8, ctypes.c_int64)])
def test_sizes_that_a_blas_cannot_be_told_are_not_given_to_it(whole_bytes, whole):
    given = []
    flag, pointer = ctypes.c_int, ctypes.c_void_p
    before_a = (flag, flag, flag, whole, whole, whole, ctypes.c_float)
    sgemm = ctypes.CFUNCTYPE(
        None, *before_a, pointer, whole, pointer, whole, ctypes.c_float, pointer, whole
    )(lambda *arguments: given.append(arguments[3:6]))
    address = ctypes.cast(sgemm, pointer).value
    rng = np.random.default_rng(0)
    try:
        compiled.product_choose_lanes(4)
        compiled.bind_sgemm(address, whole_bytes, 20)
        for rows, columns, depth in [(20, 20, 20), (21, 3, 3), (3, 21, 3), (3, 3, 21)]:
            a = rng.normal(size=(rows, depth)).astype(np.float32)
            b = rng.normal(size=(depth, columns)).astype(np.float32)
            for transpose_a in (False, True):
                c = multiply(a, b, transpose_a=transpose_a)
                if max(rows, columns, depth) > 20:
                    assert_near(c, a, b)
        assert given == [(20, 20, 20)] * 2
    finally:
        compiled.product_choose_lanes(WIDEST)
        blas.bind(compiled)


def test_the_largest_size_is_that_of_the_integers():
    assert (blas.largest(4), blas.largest(8)) == (2**31 - 1, 2**63 - 1)
