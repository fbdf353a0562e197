"""Where the formulas of operations break, and what is refused."""

import math
import operator

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import Tensor

INF, NAN = math.inf, math.nan


def gradient(function, values, dtype=np.float64, cotangent=None):
    """Return the result of a function and the gradient of its sum, as lists."""
    x = Tensor(np.array(values, dtype), requires_grad=True)
    y = function(x)
    y.backward(np.ones(y.shape) if cotangent is None else np.array(cotangent))
    return y.tolist(), x.grad.tolist()


# Products


@pytest.mark.parametrize(
    ("values", "product", "expected"),
    [
        ([2.0, 3, 4], 24, [12, 8, 6]),
        ([0.0, 3, 4], 0, [12, 0, 0]),
        ([0.0, 3, 0], 0, [0, 0, 0]),
        ([0.0], 0, [1]),
        ([-0.0, 0, 0], 0, [0, 0, 0]),
        ([], 1, []),
        ([1e200, 1e-200, 3], 3, [3e-200, 3e200, 1]),
    ],
)
def test_a_product_with_zeros(values, product, expected):
    y, grad = gradient(lambda x: x.prod(), values)
    assert y == pytest.approx(product)
    assert grad == pytest.approx(expected)


@pytest.mark.parametrize("zeros", [(), (0,), (2,), (4,), (1, 3), (0, 4), (0, 1, 2, 3, 4)])
def test_a_running_product_with_zeros(zeros):
    values = np.array([1.5, -2, 0.5, 3, -1.25])
    values[list(zeros)] = 0
    weights = np.array([0.3, -1, 2, 0.7, 1.1])
    _, grad = gradient(lambda x: x.cumprod(0), values, cotangent=weights)
    expected = [
        sum(w * np.prod(np.delete(values[: i + 1], k)) for i, w in enumerate(weights) if i >= k)
        for k in range(5)
    ]
    assert grad == pytest.approx(expected, abs=1e-12)


def test_products_over_axes_with_zeros():
    values = np.array([[0.0, 2, 3], [4, 0, 6], [7, 8, 9]])
    _, grad = gradient(lambda x: x.prod((0, 1)), values)
    assert grad == np.zeros((3, 3)).tolist()
    _, grad = gradient(lambda x: x.prod(1), values)
    assert grad == [[6, 0, 0], [0, 24, 0], [72, 63, 56]]


# Norms and the logarithm of a sum of exponentials


@pytest.mark.parametrize("order", [0, 0.5, 1, 1.5, 2, 3, INF, -INF])
def test_the_norm_of_zeros_has_the_subgradient_zero(order):
    assert gradient(lambda x: x.norm(order), [0.0, 0, 0]) == (0, [0, 0, 0])
    # an infinite cotangent is not let through either
    assert gradient(lambda x: x.norm(order).sqrt(), [0.0, 0])[1] == [0, 0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", [1.5, 2, 3])
def test_norms_neither_overflow_nor_vanish(order, dtype):
    limits = np.finfo(dtype)
    for size in (float(limits.max) / 8, float(limits.tiny) * 8):
        x = Tensor(np.array([size, -size], dtype), requires_grad=True)
        y = x.norm(order)
        y.backward()
        assert y.item() == pytest.approx(size * 2 ** (1 / order), rel=8 * float(limits.eps))
        share = 2 ** (1 / order - 1)
        assert x.grad.tolist() == pytest.approx([share, -share], rel=8 * float(limits.eps))


def test_ties_of_infinite_norms_share_the_gradient():
    assert gradient(lambda x: x.norm(INF), [3.0, -3, 1]) == (3, [0.5, -0.5, 0])
    assert gradient(lambda x: x.norm(-INF), [3.0, -1, 1]) == (1, [0, -0.5, 0.5])


def test_norms_of_nothing():
    empty = Tensor(np.zeros((2, 0)))
    assert empty.norm(axis=1).tolist() == empty.norm(1, axis=1).tolist() == [0, 0]
    for order in (INF, -INF):
        with pytest.raises(ValueError, match=r"norm: shape \(2, 0\) holds no element"):
            empty.norm(order, axis=1)
    assert empty.norm(2, axis=0).shape == (0,)


@pytest.mark.parametrize("order", ["nuc", NAN, True])
def test_orders_that_are_none(order):
    with pytest.raises(ValueError, match="norm: order"):
        Tensor([1.0]).norm(order)


@pytest.mark.parametrize(
    ("values", "result", "expected"),
    [
        ([-INF, -INF], -INF, [0, 0]),
        ([-INF, 2.0], 2, [0, 1]),
        ([INF, 0.0], INF, [1, 0]),
        ([INF, 1e308, INF], INF, [0.5, 0, 0.5]),
        ([INF, -INF], INF, [1, 0]),
        ([1e300, 1e300], 1e300, [0.5, 0.5]),
        ([-1e300, -1e300], -1e300, [0.5, 0.5]),
    ],
)
def test_logsumexp_of_infinities(values, result, expected):
    y, grad = gradient(lambda x: x.logsumexp(), values)
    assert y == pytest.approx(result)
    assert grad == expected


def test_logsumexp_of_nothing_and_of_nan():
    assert Tensor(np.zeros((2, 0))).logsumexp(1).tolist() == [-INF, -INF]
    assert math.isnan(Tensor([NAN, 1.0]).logsumexp().item())


def test_logsumexp_keeps_its_digits_far_from_zero():
    values = np.random.default_rng(0).normal(size=64)
    _, near = gradient(lambda x: x.logsumexp(), values, np.float64)
    shifted = (values + 1000).astype(np.float32)
    _, far = gradient(lambda x: x.logsumexp(), shifted, np.float32)
    exact = np.exp(shifted.astype(np.float64) - 1000)
    np.testing.assert_allclose(far, exact / exact.sum(), rtol=1e-6)
    np.testing.assert_allclose(far, near, rtol=1e-3)


def test_logaddexp_of_infinities():
    for value in (INF, -INF):
        y, grad = gradient(lambda x, value=value: x.logaddexp(value), [value])
        assert (y, grad) == ([value], [0.5])
    assert gradient(lambda x: x.logaddexp(-INF), [1.0, INF]) == ([1, INF], [1, 1])
    assert gradient(lambda x: x.logaddexp(INF), [1.0, -INF]) == ([INF, INF], [0, 0])


# Division with whole quotients

VALUES = [7.0, -7.0, 0.0, -0.0, 0.1, -0.1, INF, -INF, NAN, 1e300, -5.5]


@pytest.mark.parametrize("divisor", [3.0, -3.0, 0.5, 0.0, -0.0, INF, -INF, NAN])
def test_quotients_and_remainders_are_numpys(divisor):
    a, b = np.array(VALUES), np.full(len(VALUES), divisor)
    with np.errstate(all="ignore"):
        for function in (operator.floordiv, operator.mod):
            expected = function(a, b)
            for result in (function(Tensor(a), divisor), function(Tensor(a), Tensor(b))):
                np.testing.assert_array_equal(result.numpy(), expected)
        np.testing.assert_array_equal(Tensor(a).fmod(divisor).numpy(), np.fmod(a, b))
        quotient, rest = divmod(Tensor(a), divisor)
        np.testing.assert_array_equal(quotient.numpy(), a // b)
        np.testing.assert_array_equal(rest.numpy(), a % b)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8])
def test_integers_divided(dtype):
    a = np.array([7, 0, 100, 13], dtype)
    a = a if dtype == np.uint8 else np.concatenate([a, -a])
    for divisor in (3, 5) if dtype == np.uint8 else (3, -3):
        for function in (operator.floordiv, operator.mod):
            result = function(Tensor(a), divisor)
            assert result.dtype == dtype
            np.testing.assert_array_equal(result.numpy(), function(a, dtype(divisor)))
    for function in (operator.floordiv, operator.mod, tg.fmod, divmod):
        for zero in (0, Tensor(np.array([3, 0], dtype)[:, None])):
            with pytest.raises(ZeroDivisionError, match="division by 0 of integers"):
                function(Tensor(a), zero)
        with pytest.raises(ZeroDivisionError, match="division by 0 of integers"):
            function(Tensor(a) * 0 + 1, 0)
    assert (Tensor(a) // 0.0).dtype == np.float32


def test_reflected_operands():
    t = Tensor(np.array([2, -3]))
    assert (7 // t).tolist() == [3, -3]
    assert (7 % t).tolist() == [1, -2]
    assert [each.tolist() for each in divmod(7, t)] == [[3, -3], [1, -2]]
    array = np.array([7, 7])
    assert (array // t).tolist() == [3, -3]
    assert (array % t).tolist() == [1, -2]


def test_operators_by_name():
    t = Tensor([1.0, 2.0, 3.0])
    for method, function, sign in (
        *(("add", tg.add, operator.add), ("sub", tg.subtract, operator.sub)),
        *(("mul", tg.multiply, operator.mul), ("div", tg.divide, operator.truediv)),
        *(("pow", tg.power, operator.pow), ("eq", tg.equal, operator.eq)),
        *(("ne", tg.not_equal, operator.ne), ("lt", tg.less, operator.lt)),
        *(("le", tg.less_equal, operator.le), ("gt", tg.greater, operator.gt)),
        ("ge", tg.greater_equal, operator.ge),
    ):
        expected = sign(t, 2).tolist()
        assert getattr(t, method)(2).tolist() == function(t, 2).tolist() == expected
        with pytest.raises(TypeError, match="expected a tensor, a number"):
            getattr(t, method)("text")
    assert tg.subtract(2, t).tolist() == [1, 0, -1]
    assert tg.negative(t).tolist() == [-1, -2, -3]
    with pytest.raises(TypeError, match="add: expected at least one tensor, got int and int"):
        tg.add(1, 2)


# Rounding


def test_rounding_halves_to_even_and_integers_as_they_are():
    t = Tensor([0.5, 1.5, -0.5, 2.5])
    assert round(t).tolist() == [0, 2, 0, 2]
    assert round(t, 1).tolist() == t.tolist()
    assert Tensor([123.456]).round(decimals=-1).tolist() == [120]
    integers = Tensor(np.array([12, -15], np.int8))
    for name in ("floor", "ceil", "trunc", "round"):
        assert getattr(integers, name)().dtype == np.int8
        assert getattr(integers, name)().tolist() == [12, -15]
        assert getattr(Tensor([True]), name)().dtype == bool
    assert math.floor(Tensor([1.5])).tolist() == [1]
    assert math.ceil(Tensor([1.5])).tolist() == [2]
    assert math.trunc(Tensor([-1.5])).tolist() == [-1]
    for function in (tg.floor, tg.ceil, tg.trunc, tg.round, tg.sign):
        assert gradient(function, [1.5, -1.5])[1] == [0, 0]


# Limits that are tensors


def test_clip_between_tensors():
    x = Tensor([-2.0, 0, 2, 5], requires_grad=True)
    low = Tensor([-1.0, -1, -1, 3], requires_grad=True)
    high = Tensor([1.0, 1, 1, 2], requires_grad=True)  # the last below its low
    y = x.clip(low, high)
    assert y.tolist() == [-1, 0, 1, 2]
    y.backward(np.array([1.0, 2, 3, 4]))
    assert x.grad.tolist() == [0, 2, 0, 0]
    assert low.grad.tolist() == [1, 0, 0, 0]
    assert high.grad.tolist() == [0, 0, 3, 4]


def test_what_clip_hides_has_no_part_in_an_infinite_gradient():
    x = Tensor([-1.0, 4.0], requires_grad=True)
    low = Tensor([0.0, 0.0], requires_grad=True)
    x.clip(low).sqrt().sum().backward()
    assert x.grad.tolist() == [0, 0.25]
    assert low.grad.tolist() == [INF, 0]


def test_clip_of_integers_and_arrays():
    t = Tensor(np.array([1, 5, 9]))
    assert t.clip(np.array([2, 2, 2]), 6).dtype == np.int64
    assert t.clip(np.array([2, 2, 2]), 6).tolist() == [2, 5, 6]
    assert t.clip(np.array([2.5], np.float32)).dtype == np.float32
    assert t.clip(2, np.array([4.5], np.float32)).tolist() == [2, 4.5, 4.5]
    assert math.isnan(Tensor([NAN]).clip(Tensor([0.0]), 1.0).item())
    assert gradient(lambda x: x.clip(Tensor([0.0])), [NAN], np.float32)[1] == [0]
    with pytest.raises(ValueError, match=r"clip: shapes \(3,\) and \(2,\) do not broadcast"):
        t.clip(np.array([1, 2]))


# Order


def test_equal_elements_keep_their_order():
    values = np.tile([2.0, 1, 2, 1, 3], 40)
    for descending in (False, True):
        order = Tensor(values).argsort(descending=descending).numpy()
        expected = sorted(range(200), key=lambda i: -values[i] if descending else values[i])
        assert order.tolist() == expected
        found = Tensor(values).sort(descending=descending)
        assert found.indices.tolist() == expected
        assert found.values.tolist() == values[expected].tolist()
    assert Tensor(values).topk(3).indices.tolist() == [4, 9, 14]
    assert Tensor(values).topk(2, largest=False).indices.tolist() == [1, 3]


def test_an_order_that_was_changed_is_refused():
    x = Tensor([3.0, 1.0], requires_grad=True)
    values, indices = x.sort()
    indices[0] = 0
    with pytest.raises(RuntimeError, match="changed in place"):
        values.sum().backward()
    index = Tensor([1, 0])
    y = x.gather(0, index)
    index[0] = 0
    y.backward([1.0, 2.0])  # gather keeps indices of its own
    assert x.grad.tolist() == [2, 1]


def test_nan_counts_as_largest():
    t = Tensor([NAN, 1.0, INF, -INF])
    assert t.argsort().tolist() == [3, 1, 2, 0]
    assert t.argsort(descending=True).tolist() == [0, 2, 1, 3]
    assert t.topk(2).indices.tolist() == [0, 2]


def test_sorting_of_integers_booleans_and_nothing():
    assert Tensor([3, 1, 2]).sort().values.tolist() == [1, 2, 3]
    assert Tensor([True, False]).sort().values.tolist() == [False, True]
    assert Tensor(np.zeros((2, 0))).sort().values.shape == (2, 0)
    assert Tensor(np.zeros((2, 0))).topk(0).indices.shape == (2, 0)
    assert Tensor([[3, 1], [2, 0]]).sort(axis=None).values.tolist() == [0, 1, 2, 3]
    assert Tensor([[3, 1], [2, 0]]).argsort(axis=None).tolist() == [3, 1, 2, 0]
    for k in (4, -1):
        with pytest.raises(ValueError, match=f"topk: k={k} for an axis of length 3"):
            Tensor([3, 1, 2]).topk(k)


# Indices


@pytest.mark.parametrize(
    "function",
    [
        lambda x, i: x.gather(0, [i]),
        lambda x, i: x.take_along_axis([i], 0),
        lambda x, i: x.scatter_add(0, [i], [1.0]),
        lambda x, i: x.take([i]),
        lambda x, i: x.index_select(0, [i]),
    ],
)
def test_indices_out_of_bounds(function):
    x = Tensor([1.0, 2.0, 3.0])
    for index in (3, -4):
        with pytest.raises(IndexError, match=f": index {index} for an axis of length 3"):
            function(x, index)
    assert function(x, -1).tolist() == function(x, 2).tolist()
    with pytest.raises(IndexError, match="expected integers"):
        function(x, 0.5)


def test_repeated_indices_add_up():
    x = Tensor(np.zeros(3), requires_grad=True)
    source = Tensor(np.array([1.0, 2, 3, 4]), requires_grad=True)
    y = x.scatter_add(0, [1, -2, 0, 1], source)
    assert y.tolist() == [3, 7, 0]
    y.backward(np.array([10.0, 20, 30]))
    assert x.grad.tolist() == [10, 20, 30]
    assert source.grad.tolist() == [20, 20, 10, 20]
    assert gradient(lambda x: x.gather(0, [0, 0, 2, 0]), [1.0, 2, 3])[1] == [3, 0, 1]


def test_what_the_indices_do_not_reach_of_a_source():
    x = Tensor(np.zeros((2, 3)))
    source = Tensor(np.ones((3, 4)), requires_grad=True)
    y = x.scatter_add(1, np.zeros((2, 2), int), source)
    assert y.tolist() == [[2, 0, 0], [2, 0, 0]]
    y.backward(np.ones((2, 3)))
    assert source.grad.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [np.int8, np.int64, bool, np.float16])
def test_scattering_keeps_the_dtype(dtype):
    x = Tensor(np.zeros(2, dtype))
    y = x.scatter_add(0, [1, 1], Tensor(np.ones(2, dtype)))
    assert y.dtype == dtype
    assert y.tolist() == [0, True if dtype is bool else 2]


def test_shapes_of_indices_that_do_not_fit():
    x = Tensor(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"gather: indices \(3, 3\) for shape \(2, 3\)"):
        x.gather(1, np.zeros((3, 3), int))
    with pytest.raises(ValueError, match=r"gather: indices \(2,\) for shape \(2, 3\)"):
        x.gather(0, [0, 0])
    with pytest.raises(ValueError, match=r"scatter_add: source \(1, 1\) for indices \(2, 1\)"):
        x.scatter_add(1, [[0], [0]], [[1.0]])
    with pytest.raises(ValueError, match=r"take_along_axis: indices \(3, 1\) and shape \(2, 3\)"):
        x.take_along_axis([[0], [0], [0]], 1)
    with pytest.raises(ValueError, match=r"index_select: indices \(1, 1\)"):
        x.index_select(0, [[0]])


def test_a_tensor_without_axes_has_an_axis_of_one_element():
    x = Tensor(np.float64(3), requires_grad=True)
    for axis in (0, -1):
        assert x.cumprod(axis).item() == x.cumsum(axis).item() == 3
        assert Tensor(3.0).cumsum(axis).item() == tg.grad(x.cumsum(axis), x)[0].item() * 3 == 3
        assert x.sort(axis).values.item() == x.topk(1, axis).values.item() == 3
        assert x.sort(axis).indices.item() == x.topk(1, axis).indices.item() == 0
        assert x.argsort(axis, descending=True).shape == ()
        assert x.gather(axis, np.array(0)).shape == x.take(0, axis).shape == ()
        assert x.gather(axis, [0, 0]).tolist() == x.take([0, -1], axis).tolist() == [3, 3]
        assert x.index_select(axis, [0]).shape == ()
        assert x.scatter_add(axis, np.array(0), np.array(2.0)).item() == 5
    assert x.topk(0).values.shape == (0,)
    for function in (
        lambda: x.sort(1),
        lambda: x.gather(1, np.array(0)),
        lambda: x.cumprod(-2),
        lambda: x.take(1, 0),
    ):
        with pytest.raises(IndexError, match=r"axis|index 1"):
            function()
    for function in (
        lambda x: x.cumprod(0),
        lambda x: x.sort().values,
        lambda x: x.topk(1, 0).values,
        lambda x: x.gather(0, np.array(0)),
        lambda x: x.index_select(0, [0]),
        lambda x: x.scatter_add(0, np.array(0), np.array(2.0)),
    ):
        assert gradient(function, 3.0)[1] == 1


def test_what_is_not_zero():
    values = np.array([[0.0, 2], [3, 0]])
    t = Tensor(values)
    rows, columns = t.nonzero()
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])
    assert t[t.nonzero()].tolist() == [2, 3]
    assert t.nonzero(as_tuple=False).tolist() == t.argwhere().tolist() == [[0, 1], [1, 0]]
    assert (t > 5).argwhere().shape == (0, 2)
    with pytest.raises(ValueError, match="nonzero: a tensor without axes"):
        Tensor(1.0).nonzero()


def test_a_mask_that_broadcasts():
    t = Tensor(np.arange(6.0).reshape(2, 3))
    assert t.masked_select([True, False, True]).tolist() == [0, 2, 3, 5]
    assert t.masked_select([[True], [False]]).tolist() == [0, 1, 2]
    with pytest.raises(TypeError, match="masked_select: mask is int64"):
        t.masked_select([1, 0, 1])
    with pytest.raises(ValueError, match=r"masked_select: mask \(2,\) and x \(2, 3\)"):
        t.masked_select([True, False])
    with pytest.raises(IndexError, match=r"getitem on shape \(2, 3\): boolean index"):
        t[Tensor([True, False, True])]


# Borders


def test_borders_as_pytorch_and_as_numpy_write_them():
    values = np.arange(6.0).reshape(2, 3)
    t = Tensor(values)
    pairs = ((1, 0), (2, 3))
    expected = np.pad(values, pairs, constant_values=7)
    for widths in (pairs, [2, 3, 1, 0], (2, 3, 1, 0), np.array(pairs)):
        assert t.pad(widths, value=7).tolist() == expected.tolist()
    assert t.pad(1).tolist() == t.pad(((1, 1),)).tolist() == np.pad(values, 1).tolist()
    assert t.pad(()).tolist() == t.pad((0, 0)).tolist() == values.tolist()
    assert t.pad((-1, -1)).tolist() == [[1], [4]]
    assert t.pad((-3, 0)).shape == (2, 0)
    assert t.pad((-3, 2)).tolist() == [[0, 0], [0, 0]]
    for mode, numpys in (("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")):
        assert (
            t.pad(((0, 0), (2, 2)), mode).tolist()
            == np.pad(values, ((0, 0), (2, 2)), mode=numpys).tolist()
        )
        assert t.pad((-1, 1), mode).shape == (2, 3)
    # an edge is repeated even if it is cut off, but the other end is what is left
    assert t.pad((-3, 2), "replicate").tolist() == [[2, 2], [5, 5]]
    assert t.pad((-1, 2), "circular").tolist() == [[1, 2, 1, 2], [4, 5, 4, 5]]
    with pytest.raises(ValueError, match=r"pad: .*something to fill a border from"):
        Tensor(np.zeros((2, 0))).pad((1, 0), "replicate")


@pytest.mark.parametrize(
    ("widths", "options"),
    [
        ((1,), {}),
        ((1, 2, 3), {}),
        ((1, 2) * 3, {}),
        ((1.5, 2), {}),
        (((1, 2), 3), {}),
        (((1, 2, 3),), {}),
        ("ab", {}),
        ((-2, -2), {}),
        ((-4, 3), {}),
        ((-3, 1), {"mode": "circular"}),
        ((1, 1), {"mode": "odd"}),
    ],
)
def test_borders_that_are_refused(widths, options):
    with pytest.raises(ValueError, match="pad: "):
        Tensor(np.zeros((2, 3))).pad(widths, **options)


def test_borders_of_integers():
    t = Tensor(np.array([1, 2], np.int8))
    assert t.pad((1, 0)).dtype == np.int8
    assert t.pad((1, 0), value=2.5).tolist() == [2.5, 1, 2]
    with pytest.raises(OverflowError, match="300"):
        t.pad((1, 0), value=300)


# Shapes


def test_expanding():
    t = Tensor(np.arange(3.0))
    assert t.expand(2, 3).shape == t.expand((2, -1)).shape == (2, 3)
    assert Tensor(1.0).expand(2, 3).shape == (2, 3)
    assert Tensor(np.zeros((1, 3))).expand(0, 3).shape == (0, 3)
    for wrong in ((2,), (-1, 3, 2), (4, 2)):
        with pytest.raises(ValueError, match=r"expand|broadcast_to"):
            t.expand(wrong)


def test_repeating_as_pytorch_and_as_numpy():
    values = np.array([[1.0, 2], [3, 4]])
    t = Tensor(values)
    assert t.repeat(1, 2).tolist() == t.repeat((1, 2)).tolist() == np.tile(values, (1, 2)).tolist()
    assert t.repeat(2, axis=0).tolist() == np.repeat(values, 2, axis=0).tolist()
    assert t.repeat(0, 1).shape == (0, 2)
    assert t.repeat_interleave(Tensor([0, 3]), 0).tolist() == [[3, 4]] * 3
    assert gradient(lambda x: x.tile(0), [1.0, 2])[1] == [0, 0]
    with pytest.raises(ValueError, match="repeat: 1 number"):
        t.repeat(2)
    with pytest.raises(ValueError, match=r"tile: .*at least 0"):
        t.tile(-1)
    with pytest.raises(ValueError, match="repeat_interleave: 3 numbers"):
        t.repeat_interleave([1, 2, 3], 0)


def test_chunks_may_be_fewer():
    t = Tensor(np.arange(5.0))
    assert [each.tolist() for each in t.chunk(4)] == [[0, 1], [2, 3], [4]]
    assert [each.shape for each in Tensor(np.zeros((0, 2))).chunk(3)] == [(0, 2)]
    with pytest.raises(ValueError, match="chunk: 0 parts"):
        t.chunk(0)


@pytest.mark.parametrize("device", ["cpu", "cuda-on-cpu"])
@pytest.mark.parametrize(("dtype", "number"), [("f2", 1e5), ("f4", 1e39)])
def test_numbers_beyond_the_range_of_floats_become_infinite(device, dtype, number):
    x = Tensor(np.array([1, -2], dtype), device=device, requires_grad=True)
    x.grad = number
    found = [x.grad, x.masked_fill([True, True], number), tg.where(x < 9, number, x)]
    x.grad = np.array([number, number])
    found += [x.grad, tg.full((2,), number, dtype), tg.full_like(x, number), x + number]
    found += [x.detach().clone().fill_(number), tg.linspace(number, 2 * number, 2, dtype=dtype)]
    for each in found:
        assert each.dtype == dtype
        assert each.tolist() == [np.inf, np.inf]


def test_angles_of_points_near_the_origin_have_gradients():
    y, x = Tensor([1e-40, 0.0, -1e-40], requires_grad=True), Tensor([0.0, 1e-40, 0.0])
    assert np.isinf(tg.grad(y.arctan2(x).sum(), y)[0].tolist()).tolist() == [False, True, False]
    assert tg.grad(y.arctan2(x)[::2].sum(), y)[0].tolist() == [0, 0, 0]


def test_diagonals_outside_are_empty():
    t = Tensor(np.zeros((2, 3)))
    assert t.diagonal(5).shape == (0,)
    assert t.trace(-4).item() == 0
    for name in ("diagonal", "trace"):
        with pytest.raises(ValueError, match="diagonal: shape"):
            getattr(Tensor([1.0]), name)()
    with pytest.raises(ValueError, match="diagonal: axis"):
        t.diagonal(0, 1, -1)


# Contractions


@pytest.mark.parametrize(
    ("subscripts", "shapes", "words"),
    [
        ("ij,jk->ik", [(2, 3), (4, 5)], "lengths 3 and 4"),
        ("ij->k", [(2, 3)], "'k' as the result"),
        ("ij->ii", [(2, 3)], "'ii' as the result"),
        ("ijk", [(2, 3)], "'ijk' for 2 axes"),
        ("ij", [(2, 3, 4)], "'ij' for 3 axes"),
        ("ij,jk", [(2, 3)], "2 subscript"),
        ("i1", [(2, 3)], "'1' in the subscripts"),
        ("ii", [(2, 3)], "lengths"),
        ("i...->i..", [(2, 3)], "'i..' as the result"),
        ("i..j", [(2, 3)], "'i..j'"),
    ],
)
def test_subscripts_that_do_not_fit(subscripts, shapes, words):
    with pytest.raises(ValueError, match="einsum: ") as error:
        tg.einsum(subscripts, *(Tensor(np.zeros(shape)) for shape in shapes))
    assert words in str(error.value)


def test_einsum_of_other_dtypes():
    integers = Tensor(np.arange(4).reshape(2, 2))
    assert tg.einsum("ij,jk", integers, integers).dtype == np.int64
    mixed = tg.einsum("ij,jk", integers, Tensor(np.ones((2, 2), np.float32)))
    assert mixed.dtype == np.float32
    with pytest.raises(TypeError, match="einsum: dtypes float32, float64"):
        tg.einsum("i,i", Tensor([1.0]), Tensor(np.ones(1)))
    many = Tensor(np.full((4096,), 17, np.float16))
    assert tg.einsum("i,i->", many, Tensor(np.ones(4096, np.float16)) * -1).item() == -INF
    assert tg.einsum("i,i->", many, many * 0).item() == 0


def test_einsum_of_one_operand_is_a_copy():
    t = Tensor(np.zeros((2, 2)))
    y = tg.einsum("ij->ji", t)
    assert not np.shares_memory(y.numpy(), t.numpy())


def test_products_of_vectors_and_numbers():
    v = Tensor([1.0, 2.0])
    assert tg.dot(v, v).item() == 5
    assert tg.dot(v, 3).tolist() == [3, 6]
    assert tg.outer([1.0, 2.0], v).tolist() == [[1, 2], [2, 4]]
    assert tg.outer(v.reshape(1, 2), v).shape == (2, 2)
    values = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
    other = np.arange(40.0, dtype=np.float32).reshape(2, 4, 5)
    np.testing.assert_allclose(tg.dot(Tensor(values), Tensor(other)), np.dot(values, other))
    np.testing.assert_allclose(
        tg.dot(Tensor(values), Tensor(other[0, :, 0])), values @ other[0, :, 0]
    )
    assert tg.tensordot(v, v, 0).tolist() == [[1, 2], [2, 4]]
    with pytest.raises(ValueError, match="tensordot: 2 axes"):
        tg.tensordot(v, v)
    with pytest.raises(ValueError, match=r"tensordot: axes .* differ in length"):
        tg.tensordot(v, Tensor([1.0]), 1)


# dtypes


def test_dtypes_asked_for():
    t = Tensor(np.array([200, 100], np.uint8))
    assert t.sum(dtype="f4").dtype == np.float32
    assert t.sum(dtype=np.uint8).item() == 44
    assert t.mean(dtype=np.float64).dtype == np.float64
    assert t.prod(dtype=np.int64).item() == 20000
    assert t.cumsum(0, dtype=np.int64).tolist() == [200, 300]
    assert t.cumprod(0, dtype=np.float64).tolist() == [200, 20000]
    assert Tensor([3, 4]).norm(dtype=np.float64).dtype == np.float64
    half = Tensor(np.ones(4, np.float16), requires_grad=True)
    half.sum(dtype="f4").backward()
    assert half.grad.dtype == np.float16
    for name, dtype in {
        "float": np.float32,
        "double": np.float64,
        "half": np.float16,
        "int": np.int32,
        "long": np.int64,
        "bool": np.bool_,
    }.items():
        assert getattr(Tensor([1.5, 0.0]), name)().dtype == dtype


def test_softmax_in_another_dtype():
    half = Tensor(np.array([1.0, 2, 3], np.float16), requires_grad=True)
    for function in (tg.functional.softmax, tg.functional.log_softmax, Tensor.softmax):
        y = function(half, dtype="f8")
        assert y.dtype == np.float64
        assert function(Tensor([1, 2]), dtype=np.float64).dtype == np.float64
        y.backward(np.array([1.0, 0, 0]))
        assert half.grad.dtype == np.float16


def test_integers_become_floats_where_they_must():
    t = Tensor([1, 4])
    for name in ("sin", "log1p", "rsqrt", "reciprocal", "erf", "exp2", "logsumexp", "norm"):
        assert getattr(t, name)().dtype == np.float32
    for name in ("square", "sign", "prod"):
        assert getattr(t, name)().dtype == np.int64
    assert tg.arctan2(t, 2).dtype == np.float32
    for name in ("isnan", "isinf", "isfinite"):
        assert getattr(t, name)().dtype == bool
    assert Tensor([NAN, INF, 1.0]).isnan().tolist() == [True, False, False]
    assert Tensor([NAN, INF, 1.0]).isinf().tolist() == [False, True, False]
    assert Tensor([NAN, INF, 1.0]).isfinite().tolist() == [False, False, True]


def test_joined_tensors_promote_as_operators_do():
    integers, floats = Tensor([1, 2]), Tensor([0.5])
    assert tg.cat([integers, floats]).tolist() == [1, 2, 0.5]
    assert tg.cat([integers, floats]).dtype == np.float32
    assert tg.stack([Tensor([True]), Tensor([3])]).dtype == np.int64
    assert tg.cat([Tensor(np.array([1], np.int8)), Tensor(np.array([300], np.int16))]).dtype == "i2"
    assert tg.vstack([integers, np.array([3, 4])]).tolist() == [[1, 2], [3, 4]]
    assert tg.hstack([Tensor(1.0), floats]).tolist() == [1, 0.5]
    with pytest.raises(TypeError, match="cat: dtypes float32, float64"):
        tg.cat([floats, Tensor(np.ones(1))])
