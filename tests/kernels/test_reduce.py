"""Sums over axes: no error that grows with the number of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_char.kernels import reduce
from tinygrad_char.kernels.reduce import unbroadcast

DTYPES = [np.float16, np.float32, np.float64]


@pytest.fixture(autouse=True, params=["NumPy", "C"])
def _summed_by(request, monkeypatch):
    if request.param == "NumPy":
        monkeypatch.setattr(reduce, "compiled", None)
    elif reduce.compiled is None:
        pytest.skip("the kernels in C are not there")


@st.composite
def arrays(draw):
    """Arrays of up to four axes, one of them long, in any order in memory and with gaps."""
    shape = [draw(st.integers(1, 5)) for _ in range(draw(st.integers(1, 4)))]
    shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from([129, 300, 1031, 4000]))
    gaps = [draw(st.sampled_from([1, 1, 2, -1])) for _ in shape]
    order = draw(st.permutations(range(len(shape))))
    rng = np.random.default_rng(len(shape))
    lengths = [n * abs(gap) for n, gap in zip(shape, gaps, strict=True)]
    x = rng.uniform(1 / 512, 1 / 256, [lengths[i] for i in order]).astype(
        draw(st.sampled_from(DTYPES))
    )
    x = x.transpose(np.argsort(order))[tuple(slice(None, None, gap) for gap in gaps)]
    return x if draw(st.booleans()) else np.broadcast_to(x, (3, *x.shape))


@settings(deadline=None, max_examples=150)
@given(arrays(), st.data())
def test_sums_of_any_strides_are_as_exact_as_pairwise_ones(x, data):
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, x.ndim - 1)))))
    kept = data.draw(st.booleans())
    found = reduce.total(x, axes, kept)
    exact = x.astype(np.longdouble).sum(axis=axes, keepdims=kept)
    assert (found.shape, found.dtype) == (exact.shape, x.dtype)
    eps = np.finfo(x.dtype).eps
    limit = eps if x.dtype == np.float16 else 24 * eps
    np.testing.assert_allclose(found.astype(np.longdouble), exact, rtol=float(limit))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(10_000, 100), (10_000, 1), (1_000_000, 2), (40_000, 3, 5)])
def test_many_rows_of_one_number(shape, dtype):
    x = np.full(shape, 100.1, dtype)
    limit = 16 * np.finfo(dtype).eps
    np.testing.assert_allclose(reduce.mean(x, (0,)), x[0], rtol=limit)
    axes = tuple(range(1, x.ndim))
    np.testing.assert_allclose(reduce.mean(x.T, axes, True), x.T[:, :1][..., :1], rtol=limit)
    ends = unbroadcast(x, shape[1:]).astype(np.float64), shape[0] * x[0].astype(np.float64)
    np.testing.assert_allclose(*ends, rtol=limit)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("value", [1449.6, 100.1, 0.1, -1e10, 1e30, 3e-20])
def test_equal_numbers_do_not_deviate(value, overwrite, dtype):
    for count in (1, 2, 3, 7, 10, 16, 100, 257, 1000, 20_000):
        x = np.full((count, 3), value, dtype)
        for y, axes in ((x, (0,)), (x, (0, 1)), (x.T, (1,)), (x.T.copy(), (1,))):
            mean, centered, squares = reduce.moments(y, axes, overwrite=overwrite)
            assert (mean == dtype(value)).all()
            assert not centered.any()
            assert not squares.any()


@pytest.mark.parametrize("offset", [0, 100, 1e4, -3e5])
def test_squares_about_a_mean_far_from_zero(offset):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((5000, 4)) + offset).astype(np.float32)
    mean, _, squares = reduce.moments(x, (0,))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean[0], exact.mean(axis=0), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(squares[0] / len(x), exact.var(axis=0), rtol=2e-6)


def test_what_is_not_finite_stays_in_its_column():
    x = np.ones((3000, 4), np.float32)
    x[2000, 1], x[77, 2] = np.inf, np.nan
    found = reduce.total(x, (0,))
    np.testing.assert_array_equal(found, [3000, np.inf, np.nan, 3000])


def test_nothing_to_add_up():
    assert reduce.total(np.ones((1000, 0), np.float32), (0,)).shape == (0,)
    assert reduce.total(np.ones((0, 3), np.float32), (0,)).tolist() == [0, 0, 0]
    assert reduce.total(np.ones((500, 2), np.float32), ()).shape == (500, 2)


def test_integers_and_booleans_are_summed_as_numpy_does():
    x = np.full((1000, 2), 100, np.int8)
    assert reduce.total(x, (0,)).tolist() == [100_000] * 2
    assert reduce.total(x > 0, (0, 1)) == 2000


@settings(deadline=None, max_examples=60)
@given(arrays(), st.data())
def test_running_sums_keep_their_digits(x, data):
    x = x.astype(data.draw(st.sampled_from([np.float32, np.float64])), order="K")
    axis = data.draw(st.integers(0, x.ndim - 1))
    found = reduce.running_total(x, axis)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    exact = x.astype(np.longdouble).cumsum(axis=axis)
    np.testing.assert_allclose(found, exact, rtol=float(64 * np.finfo(x.dtype).eps))


def test_a_running_sum_of_a_million_numbers():
    x = np.full(1_000_000, 100.1, np.float32)
    exact = np.arange(1, 1_000_001) * float(x[0])
    np.testing.assert_allclose(reduce.running_total(x, 0), exact, rtol=5e-6)
    x[70_000] = np.inf
    found = reduce.running_total(x, 0)
    assert np.isfinite(found[:70_000]).all()
    assert (found[70_000:] == np.inf).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("count", [2, 3, 7, 100, 257, 5000])
def test_equal_numbers_of_which_the_sum_is_beyond_the_range(count, overwrite, dtype):
    value = dtype(0.8) * np.finfo(dtype).max
    for x, axes in ((np.full((count, 3), value), (0,)), (np.full((3, count), -value), (1,))):
        mean, centered, squares = reduce.moments(x, axes, overwrite=overwrite)
        np.testing.assert_allclose(mean, x[:1, :1] + 0 * mean, rtol=4 * np.finfo(dtype).eps)
        assert not squares.any()
        assert overwrite or not centered.any()


def assert_variance(x, axes, divisor, units):
    """Within so many units of rounding of what double precision has; the mean within one."""
    y, mean = reduce.variance(x, axes, divisor)
    wide = x.astype(np.longdouble)
    center = wide.mean(axis=axes, keepdims=True)
    exact = ((wide - center) ** 2).sum(axis=axes, keepdims=True) / divisor
    eps = np.finfo(x.dtype).eps
    assert (y.shape, y.dtype) == (mean.shape, mean.dtype) == (exact.shape, x.dtype)
    np.testing.assert_allclose(y, exact.astype(np.float64), rtol=float(units * eps), atol=1e-300)
    if units == 1:
        np.testing.assert_allclose(mean, center.astype(np.float64), rtol=float(eps))


def last_digit(dtype):
    """Return the units of rounding that a variance may be off: less than one where C adds up."""
    return 1 if reduce.compiled is not None and dtype == np.float32 else 200


@settings(deadline=None, max_examples=150)
@given(arrays(), st.data())
def test_variances_of_any_strides_have_all_their_digits(x, data):
    x = x.astype(data.draw(st.sampled_from([np.float32, np.float64])), order="K")
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, x.ndim - 1)))))
    assert_variance(x, axes, data.draw(st.sampled_from([1, 7, 0.5])), last_digit(x.dtype))


@pytest.mark.parametrize("offset", [0, 1, -1000, 3e5])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        *(((n,), (0,)) for n in (1, 2, 31, 33, 127, 4095, 4096, 4097, 8193, 100_003)),
        *(((n, 1000), (1,)) for n in (1, 3)),
        *(((129, n), (0,)) for n in (2, 7, 255, 256, 257, 511, 512, 513, 1025)),
        *(((n, 10), (0,)) for n in (1, 15, 16, 17, 128, 819, 20_011)),
        *(((5, n, 33), (1,)) for n in (1, 8, 9, 128, 131)),
        *(((7, 5, 9, 4), axes) for axes in ((0, 2), (1, 3), (0, 1, 3), (0, 1, 2, 3), ())),
    ],
)
def test_variances_at_ragged_sizes(shape, axes, offset):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, np.float32) + np.float32(offset)
    assert_variance(x, axes, 3, last_digit(x.dtype))


@pytest.mark.parametrize("at", [0, 1, 4095, 4096, 9999])
@pytest.mark.parametrize("columns", [1, 3, 600])
def test_one_element_far_from_the_others(at, columns):
    x = np.random.default_rng(0).standard_normal((10_000, columns), np.float32)
    x[at] = 1e8
    assert_variance(x, (0,), 10_000, last_digit(x.dtype))


@pytest.mark.parametrize("value", [1449.6, 100.1, 0.1, -1e10, 1e30, 3e-20, 2.7e38])
def test_equal_numbers_have_no_variance(value):
    for count in (1, 2, 7, 100, 257, 20_000):
        x = np.full((count, 3), value, np.float32)
        for y, axes in ((x, (0,)), (x, (0, 1)), (x.T, (1,)), (x.T.copy(), (1,))):
            variance, mean = reduce.variance(y, axes, 1)
            assert not variance.any()
            np.testing.assert_allclose(mean, np.float32(value), rtol=5e-7)


def test_variances_of_what_is_not_finite_or_not_there():
    x = np.ones((3000, 5), np.float32)
    x[2000, 1], x[0, 2], x[77, 3] = np.inf, -np.inf, np.nan
    with np.errstate(invalid="ignore"):
        y, _ = reduce.variance(x, (0,), 1)
    np.testing.assert_array_equal(y, [[0, np.nan, np.nan, np.nan, 0]])
    assert reduce.variance(np.ones((3, 0), np.float32), (0,), 1)[0].shape == (1, 0)
    assert reduce.variance(np.ones((0, 3), np.float32), (1,), 1)[0].shape == (0, 1)


def test_a_variance_within_the_range_of_a_sum_beyond_it():
    x = np.tile(np.float32([1e19, -1e19]), 500)
    y, _ = reduce.variance(x, (0,), len(x))
    if reduce.compiled is not None:
        np.testing.assert_allclose(y, [1e38], rtol=1e-6)
    else:
        assert y == np.inf  # NumPy's sum is single


@pytest.mark.parametrize("value", [1, 100.1, -3e-4, 1e30])
def test_running_sums_of_many_equal_numbers(value):
    for shape, axis in (((70_000,), 0), ((3, 9000), 1), ((5000, 3), 0), ((2, 5000, 7), 1)):
        x = np.full(shape, value, np.float32)
        exact = x.astype(np.float64).cumsum(axis=axis)
        found = reduce.running_total(x, axis)
        np.testing.assert_allclose(found, exact, rtol=float(64 * np.finfo(np.float32).eps))
        np.testing.assert_array_equal(reduce.running_total(x.T, x.ndim - 1 - axis), found.T)


def test_running_sums_without_numbers_and_of_sixteen_bits():
    for shape in ((0, 200), (200, 0), (3, 200, 0)):
        assert reduce.running_total(np.ones(shape, np.float32), 1).shape == shape
    ones = np.ones(5000, np.float16)  # 2048 + 1 is 2048 there
    assert reduce.running_total(ones, 0)[-1] == 5000
    assert reduce.running_total(np.ones(300, np.int8), 0)[-1] == 300


@st.composite
def indexed(draw):
    """A shape, an index that takes elements many times, and values of what it selects."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    taken = draw(st.sampled_from([(3,), (300,), (7, 90), (0,)]))
    kind = draw(st.sampled_from([np.int64, np.int8, np.uint8]))

    def integers(length):
        low = 0 if kind is np.uint8 else -length
        return rng.integers(low, length, taken).astype(kind)

    form = draw(st.sampled_from(["first", "all", "last", "mixed", "mask"]))
    index = {
        "first": integers(shape[0]),
        "all": tuple(integers(length) for length in shape),
        "last": (..., integers(shape[-1])),
        "mixed": (integers(shape[0]), *(slice(None, None, -1) for _ in shape[1:])),
        "mask": rng.random(shape) < 0.5,
    }[form]
    selected = np.zeros(shape)[index].shape
    return shape, index, rng.uniform(1 / 512, 1 / 256, selected)


@settings(deadline=None, max_examples=200)
@given(indexed(), st.sampled_from(DTYPES))
def test_sums_at_an_index(case, dtype):
    shape, index, values = case
    values = values.astype(dtype)
    found = reduce.total_at(shape, index, values)
    exact = np.zeros(shape, np.longdouble)
    np.add.at(exact, index, values.astype(np.longdouble))
    assert (found.shape, found.dtype) == (shape, dtype)
    limit = (1 if dtype == np.float16 else 40) * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found.astype(np.longdouble), exact, rtol=limit)


def test_sums_at_an_index_that_is_given_twice_and_of_integers():
    i = np.tile(np.arange(3), 1000)
    found = reduce.total_at((3, 3), (i, i), np.full(3000, 100.1, np.float32))
    np.testing.assert_allclose(found, np.eye(3) * 100_100, rtol=1e-6)
    assert reduce.total_at((4,), np.zeros(300, int), np.ones(300, np.int8)).tolist() == [
        44,
        0,
        0,
        0,
    ]


def test_what_is_not_finite_is_added_at_its_index():
    values = np.ones((1000, 2), np.float32)
    values[7, 1], values[8, 0] = np.inf, np.nan
    found = reduce.total_at((3, 2), np.arange(1000) % 3, values)
    np.testing.assert_array_equal(found, [[334, 334], [333, np.inf], [np.nan, 333]])


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
