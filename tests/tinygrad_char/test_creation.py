"""Functions that make tensors."""

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import Tensor

FILLED = [tg.zeros, tg.ones, tg.empty, tg.rand, tg.randn]


@pytest.mark.parametrize("function", FILLED)
def test_shapes_as_numpy_and_as_pytorch_write_them(function):
    for arguments, shape in (
        *(((2, 3), (2, 3)), (((2, 3),), (2, 3)), (([2, 3],), (2, 3)), ((4,), (4,)), ((), ())),
        *(((np.int64(2), np.int32(0)), (2, 0)), ((Tensor(np.zeros((2, 1))).shape,), (2, 1))),
    ):
        result = function(*arguments)
        assert (result.shape, result.dtype) == (shape, np.float32)
    assert function((2, 3), np.float64).dtype == np.float64
    assert function((2, 3), "f8").dtype == np.float64
    assert function(2, 3, dtype="f2").dtype == np.float16
    assert function(2, requires_grad=True).requires_grad
    for wrong in ((2, -1), (-3,)):
        with pytest.raises(ValueError, match="expected lengths of at least 0"):
            function(*wrong)
    with pytest.raises(TypeError, match="expected integers"):
        function(2.5)
    with pytest.raises(TypeError, match="give one of them"):
        function((2,), "f4", dtype="f8")


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(3, "i8"), (3.0, "f4"), (True, "?"), (np.float64(3), "f8"), (np.int8(3), "i1")],
)
def test_the_value_says_the_dtype(value, dtype):
    result = tg.full((2,), value)
    assert result.dtype == dtype
    assert result.tolist() == [value, value]
    assert tg.full((2,), value, np.float64).dtype == np.float64
    assert tg.full(2, value).shape == (2,)


def test_what_is_like_another_tensor():
    like = Tensor(np.zeros((2, 3), np.float64), requires_grad=True)
    for function, value in ((tg.zeros_like, 0), (tg.ones_like, 1)):
        assert function(like).tolist() == [[value] * 3] * 2
        assert (function(like).dtype, function(like).requires_grad) == (np.float64, False)
        assert function(like, dtype="i4").dtype == np.int32
        assert function(like, requires_grad=True).requires_grad
    assert tg.full_like(like, 2.5).tolist() == [[2.5] * 3] * 2
    assert tg.full_like(Tensor([1, 2]), 7).dtype == np.int64
    with pytest.raises(OverflowError, match="300"):
        tg.full_like(Tensor(np.zeros(2, np.int8)), 300)
    for function in (tg.empty_like, tg.rand_like, tg.randn_like):
        assert (function(like).shape, function(like).dtype) == ((2, 3), np.float64)
        assert function(like, dtype="f4").dtype == np.float32


def test_identities_and_equal_distances():
    assert tg.eye(2).tolist() == [[1, 0], [0, 1]]
    assert tg.eye(2, 3, 1).tolist() == [[0, 1, 0], [0, 0, 1]]
    assert tg.eye(2, dtype=bool).dtype == bool
    assert tg.linspace(0, 1, 5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert tg.linspace(0, 1, 4, endpoint=False).tolist() == [0, 0.25, 0.5, 0.75]
    assert tg.linspace(0, 1).shape == (50,)
    assert tg.linspace(3, 5, 1).tolist() == [3]
    assert tg.linspace(3, 5, 0).shape == (0,)
    assert tg.linspace(0, 1, 3, dtype="f8").dtype == np.float64
    with pytest.raises(ValueError, match="linspace: -1 numbers"):
        tg.linspace(0, 1, -1)


def test_bounds_by_position_and_by_name():
    assert tg.arange(3).tolist() == tg.arange(stop=3).tolist() == tg.arange(end=3).tolist()
    assert tg.arange(1, 7, 2).tolist() == tg.arange(1, stop=7, step=2).tolist() == [1, 3, 5]
    assert tg.arange(start=1, end=3).tolist() == tg.arange(1, end=3).tolist() == [1, 2]
    assert tg.arange(3, step=2).tolist() == [0, 2]
    assert tg.arange(0, 1, 0.5).dtype == np.float32
    assert tg.arange(Tensor(3)).dtype == np.int64
    assert tg.linspace(Tensor(0.0), Tensor(1.0), 3).tolist() == [0, 0.5, 1]
    for arguments, options in (
        ((), {}),
        ((1, 2, 3, 4), {}),
        ((1, 2), {"stop": 3}),
        ((1, 2, 3), {"step": 1}),
        ((), {"start": 1}),
    ):
        with pytest.raises(TypeError, match="arange: "):
            tg.arange(*arguments, **options)


# Random numbers


def test_one_seed_gives_the_same_numbers_and_leaves_initial_weights_alone():
    def drawn():
        tg.manual_seed(7)
        return [
            each.tolist()
            for each in (tg.rand(3), tg.randn(3), tg.randint(0, 99, (3,)), tg.randperm(9))
        ]

    assert drawn() == drawn()
    tg.manual_seed(7)
    weight = tg.nn.Linear(2, 2).weight.tolist()
    tg.manual_seed(7)
    tg.randn(100)
    assert tg.nn.Linear(2, 2).weight.tolist() == weight
    generator = tg.Generator(3)
    assert tg.rand(4, generator=generator).tolist() != tg.rand(4, generator=generator).tolist()
    assert (
        tg.rand(4, generator=tg.Generator(3)).tolist()
        == tg.rand(4, generator=tg.Generator(3)).tolist()
    )


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_distributions(dtype):
    uniform = tg.rand(100_000, dtype=dtype).numpy().astype(np.float64)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.005
    assert abs(uniform.std() - 12**-0.5) < 0.005
    normal = tg.randn(100_000, dtype=dtype).numpy().astype(np.float64)
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    if dtype == "f8":  # more digits than float32 has
        assert (uniform != uniform.astype(np.float32)).mean() > 0.9


def test_random_integers():
    values = tg.randint(-2, 3, (10_000,)).numpy()
    assert np.unique(values).tolist() == [-2, -1, 0, 1, 2]
    assert values.dtype == np.int64
    assert set(tg.randint(3, size=(500,)).tolist()) == {0, 1, 2}
    assert set(tg.randint(3, (500,)).tolist()) == {0, 1, 2}
    assert tg.randint(5).shape == ()
    assert tg.randint(0, 256, (2, 2), dtype="u1").dtype == np.uint8
    assert sorted(tg.randperm(20).tolist()) == list(range(20))
    assert tg.randperm(0).shape == (0,)
    for wrong in ((3, 3), (0,), (5, -5)):
        with pytest.raises(ValueError, match="randint: no integer"):
            tg.randint(*wrong)
    with pytest.raises(ValueError, match="randint: uint8 does not hold"):
        tg.randint(0, 257, (2,), dtype="u1")
    with pytest.raises(TypeError, match="rand: dtype int64, expected one of floats"):
        tg.rand(2, dtype=np.int64)
