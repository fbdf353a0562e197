"""Parameters under NumPy's and PyTorch's names."""

import inspect

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import Tensor
from tinygrad_char import functional as F
from tinygrad_char.spelling import spelled

X = Tensor(np.arange(24.0).reshape(2, 3, 4))
UNARY = {  # what a function needs besides x and the axis
    "gather": (np.zeros((2, 3, 4), np.int64),),
    "index_select": ([0],),
    "take": ([0],),
    "take_along_axis": (np.zeros((2, 3, 4), np.int64),),
    "scatter_add": (np.zeros((2, 3, 4), np.int64), np.zeros((2, 3, 4))),
    "split": (1,),
    "chunk": (2,),
    "topk": (1,),
    "roll": (1,),
    "repeat": (2,),
    "repeat_interleave": (2,),
    "narrow": (0, 1),
    "unflatten": ((1, -1),),
    "squeeze": (),
}


def named(owner):
    """Yield the public functions that have an axis."""
    for name in dir(owner):
        function = getattr(owner, name)
        if name.startswith("_") or not callable(function) or isinstance(function, type):
            continue
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            continue
        if "axis" in parameters:
            yield name, function


METHODS = dict(named(Tensor))
AXIS_FIRST = ("gather", "index_select", "scatter_add", "narrow", "unflatten")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_with_an_axis_takes_dim(name):
    x = Tensor(np.ones((1, 3, 4))) if name == "squeeze" else X
    rest = UNARY.get(name, ())
    parameters = list(inspect.signature(METHODS[name]).parameters)
    options = dict(zip([p for p in parameters[1:] if p != "axis"], rest, strict=False))
    if name == "repeat":
        expected, found = x.repeat(2, axis=0), x.repeat(2, dim=0)
    else:
        expected = METHODS[name](x, axis=0, **options)
        found = METHODS[name](x, dim=0, **options)
    for mine, other in zip(outputs(found), outputs(expected), strict=True):
        np.testing.assert_array_equal(mine, other)
    if name != "repeat":
        with pytest.raises(TypeError, match=f"{name}: .*axis and dim are two names"):
            METHODS[name](x, axis=0, dim=0, **options)
    if "keepdims" in parameters:
        np.testing.assert_array_equal(
            METHODS[name](x, axis=0, keepdims=True), METHODS[name](x, dim=0, keepdim=True)
        )
        with pytest.raises(TypeError, match=f"{name}: keepdims and keepdim are two names"):
            METHODS[name](x, axis=0, keepdims=True, keepdim=True)


def outputs(result):
    return [each.numpy() for each in (result if isinstance(result, list | tuple) else [result])]


def test_functions_take_them_as_methods_do():
    for name, function in {**dict(named(tg)), **dict(named(F))}.items():
        if name in METHODS and name not in ("squeeze", *UNARY):
            np.testing.assert_array_equal(function(X, dim=0), METHODS[name](X, axis=0))
    for function in (tg.cat, tg.stack):
        np.testing.assert_array_equal(function([X, X], dim=1), function([X, X], axis=1))


def test_a_position_counts_as_given():
    with pytest.raises(TypeError, match="sum: axis and dim are two names of one argument"):
        X.sum(0, dim=1)
    with pytest.raises(TypeError, match="sum: keepdims and keepdim"):
        X.sum(0, True, keepdim=True)
    with pytest.raises(TypeError, match="clip: low and min"):
        X.clip(0, min=1)


def test_two_other_names_of_one_parameter():
    with pytest.raises(TypeError, match="sum: dim and dims are two names"):
        X.sum(dim=0, dims=1)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (lambda: X.clip(min=3, max=5), lambda: X.clip(3, 5)),
        (lambda: X.clip(a_min=3, a_max=5), lambda: X.clip(3, 5)),
        (lambda: X.var(0, ddof=1), lambda: X.var(0, correction=1)),
        (lambda: X.norm(p=1, dim=0), lambda: X.norm(1, 0)),
        (lambda: X.norm(ord=1, axis=0), lambda: X.norm(1, 0)),
        (lambda: X.flip(dims=(0, 1)), lambda: X.flip(0, 1)),
        (lambda: X.flip(axis=1), lambda: X.flip(1)),
        (lambda: X.roll(1, dims=0), lambda: X.roll(1, 0)),
        (lambda: X.diagonal(dim1=0, dim2=2), lambda: X.diagonal(0, 0, 2)),
        (lambda: X.flatten(start_dim=1), lambda: X.flatten(1)),
        (lambda: X.flatten(start_dim=0, end_dim=1), lambda: X.reshape(6, 4)),
        (lambda: X.swapaxes(dim0=0, dim1=2), lambda: X.swapaxes(0, 2)),
        (lambda: X.pad(pad_width=((0, 0),) * 2 + ((1, 1),)), lambda: X.pad((1, 1))),
        (lambda: tg.tensordot(X, X, dims=3), lambda: tg.tensordot(X, X, 3)),
        (lambda: tg.linspace(0, 1, steps=5), lambda: tg.linspace(0, 1, 5)),
    ],
)
def test_names_of_single_functions(found, expected):
    np.testing.assert_array_equal(found().numpy(), expected().numpy())


def test_a_function_keeps_what_it_is():
    @spelled(low="min")
    def between(x, axis, low=0):
        """Say so."""
        return x, axis, low

    assert between.__doc__ == "Say so."
    assert list(inspect.signature(between).parameters) == ["x", "axis", "low"]
    assert between(1, dim=2, min=3) == between(1, 2, low=3) == (1, 2, 3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        between(1, 2, other=3)
