"""Operands: numbers that a dtype does not hold, objects that are no operands, byte orders."""

import fractions
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_char as tg
from tinygrad_char import Tensor
from tinygrad_char import functional as F
from tinygrad_char.autograd import grad
from tinygrad_char.kernels.devices import get_backend
from tinygrad_char.modes import no_grad

INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
DEVICES = ["cpu", "cuda-on-cpu"]
ARITHMETIC = [
    *(operator.add, operator.sub, operator.mul, operator.pow),
    *(operator.floordiv, operator.mod),
]
LOGICAL = [operator.and_, operator.or_, operator.xor]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
MASK = np.array([True, False, True])


def small(dtype, device="cpu"):
    return Tensor(np.array([1, 2, 3], dtype), device=device)


def beyond(dtype):
    limits = np.iinfo(dtype)
    return [int(limits.max) + 1, int(limits.min) - 1, 10**30, -(10**400)]


TAKES = {
    **{each.__name__: each for each in [*ARITHMETIC, *LOGICAL]},
    **{f"r{each.__name__}": lambda x, n, f=each: f(n, x) for each in [*ARITHMETIC, *LOGICAL]},
    "maximum": tg.maximum,
    "minimum": lambda x, n: tg.minimum(n, x),
    "where": lambda x, n: tg.where(x > 1, n, x),
    "where, other": lambda x, n: tg.where(x > 1, x, n),
    "masked_fill": lambda x, n: x.masked_fill(x > 1, n),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("name", TAKES)
def test_a_number_beyond_the_dtype_is_an_error_that_names_both(name, dtype, device):
    x = small(dtype, device)
    for number in beyond(dtype):
        said = str(number) if abs(number) < 1 << 256 else "a number of"
        with pytest.raises(OverflowError, match=rf"{said}.* does not fit into {x.dtype}"):
            TAKES[name](x, number)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("name", TAKES)
@pytest.mark.parametrize("kind", [int, np.int64])
def test_a_number_within_it_takes_the_tensors_dtype(name, dtype, kind, device):
    result = TAKES[name](small(dtype, device), kind(2))
    assert result.dtype == dtype
    assert result.device == device
    known = {"power": [1, 4, 9], "rpow": [2, 4, 8], "and_": [0, 2, 2], "masked_fill": [1, 2, 2]}
    if name in known:
        assert result.tolist() == known[name]


@given(
    st.sampled_from(INTEGERS),
    st.sampled_from(COMPARISONS),
    st.integers(-(2**70), 2**70) | st.integers(-300, 300),
    st.data(),
)
@settings(deadline=None, max_examples=200)
def test_comparisons_with_any_integer_are_those_of_the_numbers(dtype, compare, number, data):
    limits = np.iinfo(dtype)
    held = st.integers(int(limits.min), int(limits.max))
    values = [*data.draw(st.lists(held, min_size=1, max_size=3)), int(limits.max)]
    x = Tensor(np.array(values, dtype))
    assert compare(x, number).tolist() == [compare(each, number) for each in values]
    assert compare(number, x).tolist() == [compare(number, each) for each in values]


def test_booleans_meet_integers_as_numpys_do():
    flags = Tensor([True, False])
    assert (flags & 3).tolist() == [1, 0]
    assert (flags + 3).dtype == np.int64
    assert (flags & True).dtype == bool
    assert (small("i1") & True).dtype == np.int8
    assert (True | small("u8")).dtype == np.uint64
    with pytest.raises(OverflowError, match="does not fit into int64"):
        flags + 2**63
    with pytest.raises(TypeError, match="bitwise_and: uint64 and int64"):
        small("u8") & small("i8")


def test_quotients_and_floats_have_room():
    x = small("i1")
    assert (x / 300).dtype == np.float32
    assert (x * 300.0).tolist() == [300, 600, 900]
    assert tg.where(x > 1, 300.0, x).tolist() == [1, 300, 300]
    assert (Tensor([1.0]) * 10**39).tolist() == [float("inf")]
    with pytest.raises(OverflowError, match=r"multiply: a number of .* bits does not fit into f"):
        Tensor([1.0]) * 10**400


@pytest.mark.parametrize("data", [2**64, [2**64, 1], [2**63, -1], [[-(2**63) - 1]], 10**400])
def test_integers_that_no_dtype_holds(data):
    with pytest.raises(OverflowError, match=r"tensor: .* does not fit into int64"):
        Tensor(data)


@pytest.mark.parametrize("data", [[300], 300, [[-129]], [300.0]])
def test_a_dtype_that_does_not_hold_the_data(data):
    with pytest.raises(OverflowError, match="int8"):
        Tensor(data, "i1")


@pytest.mark.parametrize("device", DEVICES)
def test_limits_beyond_the_dtype_limit_nothing(device):
    x = small("i1", device)
    assert x.clip(2, 300).tolist() == [2, 2, 3]
    assert x.clip(-1000, 2).tolist() == [1, 2, 2]
    assert x.clip(-1000, 1000).dtype == np.int8
    for low, high in ((200, None), (200, 300), (None, -200)):
        with pytest.raises(OverflowError, match=r"clip: -?200 does not fit into int8"):
            x.clip(low, high)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: tg.full((2,), n, "i1"),
        lambda n: tg.full_like(small("i1"), n),
        lambda n: tg.arange(n, n + 1, dtype="i1"),
        lambda n: tg.arange(n, n + 1, 0.5, dtype="i1"),
        lambda n: tg.linspace(0, n, 3, dtype="i1"),
        lambda n: small("i1").pad(1, value=n),
    ],
)
@pytest.mark.parametrize("number", [128, 300, -129, 300.0])
def test_what_is_made_of_a_number_does_not_wrap(make, number):
    with pytest.raises(OverflowError, match=rf"{number}.* does not fit into int8"):
        make(number)


def test_tensors_of_other_integers_promote():
    x = small("i1")
    for y in (
        x.scatter_add(0, [0], [299]),
        tg.cat([x, Tensor([300])]),
        tg.stack([x, 300 * x.int()]),
    ):
        assert y.dtype in (np.int64, np.int32)
        assert y.array.max() >= 300
    assert x.masked_fill(MASK, Tensor(300)).tolist() == [300, 2, 300]
    assert x.clip(Tensor(300)).tolist() == [300] * 3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("index", [2**63, 2**64 - 1, 2**64 - 100])
def test_indices_beyond_int64_do_not_become_negative(index, device):
    idx = Tensor(np.array([index], "u8"), device=device)
    x = Tensor(np.ones((3, 2), "f4"), device=device)
    for take in (
        lambda: x[idx],
        lambda: x.take(idx, 0),
        lambda: F.embedding(idx, x),
        lambda: F.cross_entropy(x[:1], idx),
        lambda: F.nll_loss(x[:1].log_softmax(), idx),
    ):
        with pytest.raises(IndexError):
            take()


def test_arrays_of_the_host_index_tensors_of_a_device():
    x = Tensor(np.ones((3, 4), "f4"), device="cuda-on-cpu", requires_grad=True)
    mask = np.eye(3, 4, dtype=bool)
    for index in (np.array([0, 0, 2]), mask, (slice(None), np.array([1])), [2, 0], (1, [0, 0])):
        x.grad = None
        x[index].sum().backward()
        expected = np.zeros((3, 4))
        np.add.at(expected, index, 1)
        np.testing.assert_array_equal(x.grad.cpu().numpy(), expected)


def test_ranges_of_small_dtypes():
    assert tg.arange(120, 128, dtype="i1").tolist() == list(range(120, 128))
    assert tg.arange(0, 2, 0.5, dtype="i1").tolist() == [0, 0, 1, 1]
    assert tg.full((2,), 3).dtype == np.int64
    assert tg.full((2,), True).dtype == bool
    assert tg.full((2,), 3.0).dtype == np.float32
    assert tg.full((2,), 127.0, "i1").tolist() == [127, 127]


# Objects that are no operands


class Reflecting:
    """Answers an operator with its name and the other operand."""


def _reflected(name):
    return lambda self, other: (name, other)


OPERATORS = [
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"),
]
for _name in [*(f"r{each}" for each in OPERATORS), *["eq", "ne", "lt", "le", "gt", "ge"]]:
    setattr(Reflecting, f"__{_name}__", _reflected(_name))


@pytest.mark.parametrize("dtype", ["f4", "i8", "?"])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_others_method_is_asked(name, dtype):
    x = Tensor(np.ones(2, dtype))
    operate = getattr(operator, f"__{name}__")
    said, given = operate(x, Reflecting())
    assert said == f"r{name}"
    assert given is x
    for other in (None, 1j, object(), {1: 2}):
        for both in ((x, other), (other, x)):
            with pytest.raises(TypeError, match=r"unsupported operand|as an index|concatenate"):
                operate(*both)


@pytest.mark.parametrize("compare", COMPARISONS)
def test_comparisons_ask_the_other_too(compare):
    swapped = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
    name = compare.__name__
    said, given = compare(Tensor([1.0]), Reflecting())
    assert said == swapped.get(name, name)
    assert isinstance(given, Tensor)


@pytest.mark.parametrize("other", [None, "a", "", 1j, object(), {}, fractions.Fraction(1)])
def test_no_operand_is_equal_to_a_tensor(other):
    x = Tensor([1.0, 2.0])
    assert (x == other) is False
    assert (x != other) is True
    assert (other == x) is False
    assert other not in [x]
    with pytest.raises(TypeError, match="not supported between instances"):
        assert x < other


def test_none_in_a_list_of_tensors():
    x = Tensor([1.0, 2.0])
    assert None not in [x, x]
    assert None in [x, None]
    assert [None, x].index(None) == 0


def test_arrays_lists_and_numbers_are_operands():
    x = Tensor([1.0, 2.0])
    for other in (np.array([1, 2]), np.array([1, 2], "f4"), [1, 2], (1, 2), np.int8(1), 1, True):
        assert (x + other).tolist()[0] == (other + x).tolist()[0] == 2


# Byte orders


BIG = np.array([1.0, 2.0, 3.0], ">f4")


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", ">i2", ">i8", ">u4"])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "make",
    [
        lambda a, device: Tensor(a, device=device),
        lambda a, device: Tensor(a[::2], device=device),
        lambda a, device: Tensor(a.tolist(), a.dtype, device=device),
        lambda a, device: Tensor(np.array(a.tolist()), device=device).astype(a.dtype),
        lambda a, device: Tensor(np.array(a.tolist()), device=device).to(a.dtype),
        lambda a, device: tg.from_numpy(a).to(device),
        lambda a, device: (
            tg.from_numpy(a[0]).to(device) if a[0].ndim else tg.from_numpy(a[:1]).to(device)
        ),
        lambda a, device: Tensor([a, a], a.dtype, device=device)[0],
        lambda a, device: tg.zeros((3,), a.dtype, device=device),
        lambda a, device: tg.full((3,), 2, a.dtype, device=device),
        lambda a, device: tg.arange(3, dtype=a.dtype, device=device),
        lambda a, device: Tensor(np.zeros(3, a.dtype.newbyteorder("=")), device=device) + a,
    ],
)
def test_tensors_have_this_machines_byte_order(make, dtype, device):
    array = np.array([1, 2, 3], dtype)
    x = make(array, device)
    assert x.dtype == np.dtype(dtype).newbyteorder("=")
    assert x.dtype.isnative
    assert x.dtype.str[0] in "<="


def test_gradients_of_what_came_in_the_other_byte_order():
    x = tg.from_numpy(BIG).requires_grad_()
    weight = Tensor(np.eye(3, dtype=">f4"), requires_grad=True)
    loss = (F.linear(x, weight, activation="relu").softmax() * BIG).sum()
    loss.backward()
    assert x.grad.dtype == weight.grad.dtype == np.float32
    y = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    ((y.softmax() * [1.0, 2.0, 3.0]).sum()).backward()
    np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-6)


def test_cotangents_values_hooks_and_indices_in_the_other_byte_order():
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    (x * 2).backward(BIG)
    assert x.grad.tolist() == [2, 4, 6]
    assert grad(x * 2, x, BIG)[0].tolist() == [2, 4, 6]
    x.grad = None
    x.register_hook(lambda gradient: gradient.numpy().astype(">f4") * np.array(2, ">f4"))
    (x * 2).sum().backward()
    assert x.grad.tolist() == [4, 4, 4]
    y = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    y[np.array([0, 0, 2], ">i8")].sum().backward()
    assert y.grad.tolist() == [2, 0, 1]
    with no_grad():
        y.copy_(BIG)
        y[:2] = np.array([7, 8], ">i4")
    assert y.tolist() == [7, 8, 3]
    loss = F.cross_entropy(Tensor(np.zeros((2, 3), ">f4")), np.array([0, 2], ">i8"))
    assert loss.item() == pytest.approx(np.log(3))
    rows = F.embedding(np.array([1, 0], ">i4"), Tensor(np.eye(2, dtype=">f4")))
    assert rows.tolist() == [[0, 1], [1, 0]]


def test_from_numpy_shares_memory_in_this_machines_byte_order_alone():
    array = np.zeros(3, "f4")
    assert np.shares_memory(tg.from_numpy(array).array, array)
    assert not np.shares_memory(tg.from_numpy(BIG).array, BIG)
    assert get_backend("cpu").xp is np
