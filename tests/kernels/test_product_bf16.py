"""Matrix products in bfloat16 of kernels/linear/product.c: by AVX512_BF16, and without it."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from products import ProductsOfAnyPrecision, product_by

from tinygrad_char.kernels.array import to_bfloat16
from tinygrad_char.kernels.backend import status
from tinygrad_char.kernels.cpu.extension import compiled

pytestmark = pytest.mark.skipif(compiled is None, reason=status())
BEST = 2
EPS = np.finfo(np.float32).eps
SIZES = [1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 47, 64, 65, 127, 129]
LONG = [*SIZES, 768, 769, 800, 1537]  # one block of the depth, and several
WAYS = {0: "what each processor has", 1: "registers wider than four numbers", BEST: "AVX512_BF16"}


@pytest.fixture(autouse=True)
def restored():
    yield
    compiled.product_choose_bf16(BEST)


@pytest.fixture(params=WAYS, ids=WAYS.get)
def way(request):
    """Have products computed in each way that this processor has."""
    choose(request.param)
    return request.param


def choose(way):
    if compiled.product_choose_bf16(way) != way:
        pytest.skip(f"this processor has no {WAYS[way]}")


multiply = product_by(lambda *arguments: compiled.product_bf16(*arguments))


def same_bits(a, b):
    """Whether all bits are the same, but for those of what is no number."""
    return ((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all()


def assert_near(c, a, b, onto=0.0):
    """Compare with the product, in float64, of operands that NumPy has rounded."""
    wide, other = (each.astype(ml_dtypes.bfloat16).astype(np.float64) for each in (a, b))
    size = abs(wide) @ abs(other) + abs(onto)
    assert c.dtype == np.float32
    assert (abs(c - (wide @ other + onto)) <= (a.shape[1] + 2) * EPS * size).all()


@st.composite
def operands(draw):
    """Draw matrices of normal numbers, some of them of small ones or of any bits at all."""
    rows, columns = (draw(st.sampled_from(SIZES)) for _ in "ac")
    depth = draw(st.sampled_from(LONG))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    shapes = (rows, depth), (depth, columns), (rows, columns)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes], rng


@settings(deadline=None, max_examples=60)
@given(operands(), st.booleans(), st.booleans())
def check_any_sizes(drawn, transpose_a, transpose_b):
    (a, b, onto), _ = drawn
    assert_near(multiply(a, b, transpose_a, transpose_b), a, b)
    assert_near(multiply(a, b, transpose_a, transpose_b, onto), a, b, onto)


def test_agrees_with_float64_of_rounded_operands(way):
    check_any_sizes()


@pytest.mark.parametrize("other", [0, 1])
def test_bits_are_those_of_the_instruction(other):
    """Of any numbers, infinities and NaN among them; most products are far too large or small."""
    choose(other)
    choose(BEST)

    @settings(deadline=None, max_examples=80)
    @given(operands(), st.sampled_from(["normal", "small", "any"]), st.booleans(), st.booleans())
    def check(drawn, kind, transpose_a, transpose_b):
        (a, b, onto), rng = drawn
        if kind == "small":  # products around the smallest numbers with all digits
            a, b, onto = a * np.float32(2.0**-65), b * np.float32(2.0**-62), onto * EPS**5
        elif kind == "any":
            a, b, onto = (
                rng.integers(0, 1 << 32, each.shape, np.uint32).view(np.float32)
                for each in (a, b, onto)
            )
        found = []
        for each in (other, BEST):
            compiled.product_choose_bf16(each)
            found.append(multiply(a, b, transpose_a, transpose_b))
            found.append(multiply(a, b, transpose_a, transpose_b, onto))
        assert same_bits(found[0], found[2])
        assert same_bits(found[1], found[3])

    check()


def test_a_pair_is_two_sums_of_float32_the_second_of_the_pair_first(way):
    """2^24 + 1 + 1 depends on what is added first; what is below 2^-126 is no more."""
    a = np.array([[1, 2.0**24, 1, 1]], np.float32)  # (0 + 2^24) + 1, and 1 is lost; twice
    assert multiply(a, np.ones((4, 1), np.float32))[0, 0] == 2.0**24
    a = np.array([[2.0**24, 1, 1, 1]], np.float32)  # (0 + 1) + 2^24
    assert multiply(a, np.ones((4, 1), np.float32))[0, 0] == 2.0**24
    a = np.array([[1, 1, 0, 2.0**24]], np.float32)  # (1 + 1) + 2^24
    assert multiply(a, np.ones((4, 1), np.float32))[0, 0] == 2.0**24 + 2
    small = np.array([[2.0**-126, 2.0**-127]], np.float32)
    assert multiply(small, np.ones((2, 1), np.float32))[0, 0] == 2.0**-126
    assert multiply(small, np.full((2, 1), 0.5, np.float32))[0, 0] == 0


class TestProducts(ProductsOfAnyPrecision):
    depth = 801
    multiply, assert_near = staticmethod(multiply), staticmethod(assert_near)


def test_where_operands_lie_changes_no_bit(way):
    rng = np.random.default_rng(4)
    a = rng.standard_normal((67, 801), dtype=np.float32)
    b = rng.standard_normal((801, 45), dtype=np.float32)
    found = [multiply(a, b, *each) for each in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({each.tobytes() for each in found}) == 1
    assert multiply(a[5:6], b).tobytes() == found[0][5:6].tobytes()


def test_numpy_rounds_as_ml_dtypes_does():
    rng = np.random.default_rng(5)
    x = rng.integers(0, 1 << 32, 1 << 18, np.uint32).view(np.float32)
    given = x.copy()
    with np.errstate(invalid="ignore"):
        expected = x.astype(ml_dtypes.bfloat16).astype(np.float32)
        tiny = abs(x) < 2.0**-126
    expected[tiny] = np.copysign(np.float32(0), x[tiny])
    assert same_bits(to_bfloat16(x), expected)
    assert same_bits(to_bfloat16(x[::3]), expected[::3])
    assert x.tobytes() == given.tobytes()
    assert to_bfloat16(np.float64([1 + 2**-40]))[0] == 1 + 2**-40


def test_products_round_as_numpy_does(way):
    """Products with the identity are what an operand is rounded to."""
    rng = np.random.default_rng(6)
    x = rng.integers(0, 0x7F800000, (33, 64), np.uint32).view(np.float32)
    x[::2] *= -1
    one = np.eye(64, dtype=np.float32)
    assert (multiply(x, one) == to_bfloat16(x)).all()
    assert (multiply(one, np.ascontiguousarray(x.T)) == to_bfloat16(x.T)).all()


@pytest.mark.parametrize("inputs", [1, 31, 63, 64, 65, 129, 8192, 8200, 17000])
@pytest.mark.parametrize("rows", [1, 3])
def test_few_rows_have_the_bits_of_the_instruction(way, rows, inputs):
    """A product by itself, that reads the weights as they lie."""
    rng = np.random.default_rng(inputs)
    x, weight, bias = (
        rng.standard_normal(shape, dtype=np.float32) for shape in ((rows, inputs), (7, inputs), 7)
    )
    x[0, ::3] *= np.float32(2.0**-70)
    weight[0] *= np.float32(2.0**-64)

    def multiply():
        y = np.full((rows, 7), np.nan, np.float32)
        compiled.linear_few_rows_bf16(x, weight, bias, y, rows, inputs, 7, 2)
        return y

    found = multiply()
    wide, other = (each.astype(ml_dtypes.bfloat16).astype(np.float64) for each in (x, weight))
    size = abs(wide) @ abs(other).T + abs(bias)
    assert (abs(found - (wide @ other.T + bias)) <= (inputs + 3) * EPS * size).all()
    if compiled.product_choose_bf16(BEST) == BEST:
        assert multiply().tobytes() == found.tobytes()
