"""Integers: what a dtype does not hold is an error where a tensor is made or changed; rounding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_char as tg
from tinygrad_char import Tensor

INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
SOURCES = {
    "array": lambda n: np.array([1, n]),
    "number of NumPy's": np.int64,
    "list": lambda n: [1, n],
    "number": lambda n: n,
    "list of NumPy's numbers": lambda n: [np.int64(1), np.int64(n)],
    "list of arrays": lambda n: [np.array([1, n]), np.array([1, 1])],
    "tensor": lambda n: Tensor([1, n]),
    "list of tensors": lambda n: [Tensor([1, n])],
    "floats": lambda n: np.array([1.0, n]),
    "a float": float,
    "float16": lambda n: np.array([n], np.float16),
    "big-endian": lambda n: np.array([n], ">i4"),
    "DLPack": lambda n: Dlpack(np.array([1, n])),
}
MAKERS = {
    "Tensor": lambda data, dtype: Tensor(data, dtype),
    "tensor": lambda data, dtype: tg.tensor(data, dtype=dtype),
}


class Dlpack:
    def __init__(self, array):
        self.array = array
        self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("dtype", "number"), [("i1", 300), ("i1", -129), ("u1", 256), ("u1", -1)])
def test_a_tensor_is_not_made_of_numbers_that_wrap(make, source, dtype, number, device):
    data = SOURCES[source](number)
    with pytest.raises(OverflowError, match=rf"{number}(\.0)? does not fit into u?int8, which hol"):
        MAKERS[make](data, dtype)
    if isinstance(data, Tensor):
        with pytest.raises(OverflowError, match="does not fit"):
            MAKERS[make](data.to(device), dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_floats_that_are_no_integer_of_the_dtype(dtype, value):
    for data in (np.array([1, value]), np.float32(value), [1.0, value]):
        with pytest.raises(OverflowError, match="does not fit into"):
            Tensor(data, dtype)


@pytest.mark.parametrize("source", SOURCES)
def test_what_fits_is_converted(source):
    assert Tensor(SOURCES[source](100), "i1").array.max() == 100
    assert Tensor(SOURCES[source](100), "i1").dtype == np.int8


def test_what_is_cut_or_needs_no_room():
    assert Tensor(np.array([127.9, -128.9]), "i1").tolist() == [127, -128]
    assert Tensor(np.array([], np.int64), "i1").shape == (0,)
    assert Tensor(np.array([True]), "i1").tolist() == [1]
    assert Tensor(np.array([300]), bool).tolist() == [True]
    assert Tensor(np.array([2**40]), "f4").tolist() == [2.0**40]
    assert Tensor(np.array([70000]), "f2").tolist() == [np.inf]


def test_astype_wraps_as_numpys():
    values = np.array([300, -129, 127])
    assert Tensor(values).astype("i1").tolist() == values.astype("i1").tolist()
    assert Tensor(values).to("i1").tolist() == values.astype("i1").tolist()


@pytest.mark.parametrize("dtype", ["i1", "u1"])
def test_other_ways_to_write_a_number(dtype, device):
    x = tg.zeros(2, dtype=dtype, device=device)
    for change in (
        lambda: x.fill_(300),
        lambda: x.fill_(Tensor(300, device=device)),
        lambda: x.copy_(np.array([1, 300])),
        lambda: x.copy_(Tensor([1.0, 300.0], device=device)),
        lambda: x.__setitem__(0, 300),
        lambda: x.__setitem__(slice(None), np.array([300, 1])),
        lambda: tg.full((2,), 300, dtype),
        lambda: tg.full((2,), np.int64(300), dtype),
        lambda: tg.full_like(x, 300),
        lambda: tg.arange(300, 302, dtype=dtype),
        lambda: tg.linspace(0, 300, 3, dtype=dtype),
    ):
        with pytest.raises(OverflowError, match="300"):
            change()
    assert x.tolist() == [0, 0]
    assert tg.zeros_like(Tensor([300, -300]), dtype=dtype).tolist() == [0, 0]
    assert tg.ones_like(Tensor([300, -300]), dtype=dtype).tolist() == [1, 1]


def nearest(number, places):
    """Return a Python integer rounded to a multiple of 10^places, halves to even."""
    return round(number, -places) if places < 400 else 0


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(INTEGERS), st.integers(0, 25), st.data())
def test_integers_are_rounded_exactly_or_refused(dtype, places, data):
    held = np.iinfo(dtype)
    edge = 10**places
    near = [edge // 2 * k + d for k in (-3, -1, 1, 3, 5) for d in (-1, 0, 1)]
    within = [n for n in near if held.min <= n <= held.max]
    number = st.integers(int(held.min), int(held.max))
    values = data.draw(st.lists(number | st.sampled_from(within) if within else number, max_size=4))
    expected = [nearest(each, places) for each in values]
    x = Tensor(np.array(values, dtype))
    if all(held.min <= each <= held.max for each in expected):
        result = x.round(-places)
        assert result.tolist() == expected
        assert result.dtype == dtype
    else:
        with pytest.raises(OverflowError, match=f"round: .* does not fit into {x.dtype}"):
            x.round(-places)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("decimals", [0, 1, 400, -400, -(10**30)])
def test_far_decimals_of_integers(dtype, decimals, device):
    x = Tensor(np.array([4, 100, 0], dtype), device=device)
    expected = [4, 100, 0] if decimals >= 0 else [0, 0, 0]
    assert x.round(decimals).tolist() == expected
    assert round(x, decimals).dtype == dtype


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("decimals", [39, 40, 308, 310, 400, 10**30])
def test_far_decimals_of_floats(dtype, decimals, device):
    values = np.array([1.5, -2.25, 1e4, np.inf, np.nan, 0], dtype)
    x = Tensor(values, device=device, requires_grad=True)
    np.testing.assert_array_equal(x.round(decimals).detach().to("cpu").numpy(), values)
    y = x.round(-decimals)
    found = y.detach().to("cpu").numpy()
    np.testing.assert_array_equal(found[[0, 1, 2, 5]], 0)
    assert np.signbit(found[1])
    assert found[3] == np.inf
    y[:3].sum().backward()
    assert x.grad.tolist() == [0] * 6


def test_decimals_are_an_integer():
    with pytest.raises(TypeError):
        Tensor([2.5]).round(0.5)


@given(st.sampled_from(INTEGERS), st.sampled_from(["floor", "trunc"]), st.data())
@settings(deadline=None, max_examples=200)
def test_whole_quotients_of_integers_are_exact(dtype, mode, data):
    held = np.iinfo(dtype)
    a = data.draw(st.integers(int(held.min), int(held.max)))
    b = data.draw(st.integers(int(held.min), int(held.max)).filter(lambda n: n not in (0, -1)))
    expected = a // b if mode == "floor" or a % b == 0 or (a < 0) == (b < 0) else a // b + 1
    x, y = Tensor(np.array([a], dtype)), Tensor(np.array([b], dtype))
    for result in (x.div(y, rounding_mode=mode), tg.div(a, y, rounding_mode=mode)):
        assert (result.tolist(), result.dtype) == ([expected], dtype)
