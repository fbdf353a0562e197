"""Axis arguments: several where an operation knows what to do with them, else a named error."""

import itertools

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import Tensor, gradcheck
from tinygrad_char import functional as F

SHAPE = (2, 3, 4)
X = np.random.default_rng(0).standard_normal(SHAPE)
SEVERAL = [
    None,
    (),
    (0, 1),
    (1, 0),
    (0, 2),
    (2, -2),
    (-1, 0, 1),
    [0, 1],
    (1,),
    -1,
]


def softmax(x, axis, mask=None):
    """Return NumPy's over all of the axes at once; zeros where nothing is seen."""
    axis = tuple(axis) if isinstance(axis, list) else axis
    e = np.exp(x) if mask is None else np.where(mask, np.exp(x), 0)
    total = e.sum(axis, keepdims=True)
    return e / np.where(total == 0, 1, total)


@pytest.mark.parametrize("axis", SEVERAL)
@pytest.mark.parametrize("device", ["cpu", "cuda-on-cpu"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_softmax_over_several_axes_is_over_all_of_them(axis, dtype, device):
    x = Tensor(X.astype(dtype), device=device)
    expected = softmax(X, axis)
    for found in (x.softmax(axis), F.softmax(x, axis), F.softmax(2 * x, axis, scale=0.5)):
        assert found.shape == SHAPE
        np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=1e-5)
    for found in (x.log_softmax(axis), F.log_softmax(x, axis)):
        np.testing.assert_allclose(found.cpu().numpy(), np.log(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", SEVERAL)
def test_gradients_of_softmax_over_several_axes(axis):
    x = Tensor(X, requires_grad=True)
    mask = np.arange(4) != 1
    gradcheck(lambda x: x.softmax(axis), x)
    gradcheck(lambda x: x.log_softmax(axis), x)
    gradcheck(lambda x: F.softmax(x, axis, mask=mask, scale=0.5), x)
    gradcheck(lambda x: F.softmax(x, axis, mask="causal"), x)


@pytest.mark.parametrize("axis", SEVERAL)
@pytest.mark.parametrize(
    "mask",
    [np.arange(4) > 1, np.zeros((3, 1), bool), np.arange(24).reshape(SHAPE) % 5 > 0, "causal"],
    ids=["row", "nothing", "each", "causal"],
)
def test_a_mask_goes_with_its_elements(mask, axis):
    seen = np.tri(3, 4, 1, dtype=bool) if isinstance(mask, str) else mask
    found = F.softmax(Tensor(X), axis, mask=mask)
    np.testing.assert_allclose(found.numpy(), softmax(X, axis, seen), rtol=1e-12)


def test_over_all_axes_of_nothing():
    for axis in (None, (0, 1), (0,), 1):
        assert tg.zeros((0, 3)).softmax(axis).shape == (0, 3)
        assert tg.zeros((3, 0)).log_softmax(axis).shape == (3, 0)


ONE_AXIS = {
    "swapaxes": lambda x, axis: x.swapaxes(axis, 1),
    "swapaxes, second": lambda x, axis: x.swapaxes(1, axis),
    "transpose": lambda x, axis: x.transpose(axis, 1),
    "argmax": lambda x, axis: x.argmax(axis),
    "argmin": lambda x, axis: x.argmin(axis),
    "cumsum": lambda x, axis: x.cumsum(axis),
    "unsqueeze": lambda x, axis: x.unsqueeze(axis),
    "flatten": lambda x, axis: x.flatten(axis),
    "split": lambda x, axis: x.split(1, axis),
    "cat": lambda x, axis: F.cat([x, x], axis),
    "stack": lambda x, axis: F.stack([x, x], axis),
    "cumprod": lambda x, axis: x.cumprod(axis),
    "sort": lambda x, axis: x.sort(axis),
    "argsort": lambda x, axis: x.argsort(axis),
    "topk": lambda x, axis: x.topk(1, axis),
    "gather": lambda x, axis: x.gather(axis, np.zeros(SHAPE, int)),
    "scatter_add": lambda x, axis: x.scatter_add(axis, np.zeros(SHAPE, int), x),
    "take_along_axis": lambda x, axis: x.take_along_axis(
        np.zeros(24 if axis is None else SHAPE, int), axis
    ),
    "take": lambda x, axis: x.take([0], axis),
    "index_select": lambda x, axis: x.index_select(axis, [0]),
    "unbind": lambda x, axis: x.unbind(axis),
    "chunk": lambda x, axis: x.chunk(1, axis),
    "narrow": lambda x, axis: x.narrow(axis, 0, 1),
    "unflatten": lambda x, axis: x.unflatten(axis, (1, -1)),
    "repeat_interleave": lambda x, axis: x.repeat_interleave(2, axis),
    "cross_entropy": lambda x, axis: F.cross_entropy(x, np.zeros((2, 3), int), axis=axis),
    "nll_loss": lambda x, axis: F.nll_loss(x, np.zeros((2, 3), int), axis=axis),
}
OF_ALL = {"argmax", "argmin", "sort", "argsort", "take", "take_along_axis", "repeat_interleave"}
"""Operations for which None is no axis but all elements."""


@pytest.mark.parametrize("axis", [(0, 1), [0, 1], (0,), (), None, 0.0, "0", np.array([0, 1])])
@pytest.mark.parametrize("name", ONE_AXIS)
def test_operations_along_one_axis_refuse_several(name, axis):
    if axis is None and name in OF_ALL:
        ONE_AXIS[name](Tensor(X), axis)
        return
    said = name.partition(",")[0]
    with pytest.raises(TypeError, match=rf"^{said}: axis .*, expected one integer"):
        ONE_AXIS[name](Tensor(X), axis)


@pytest.mark.parametrize("axis", [3, -4, 2**70])
@pytest.mark.parametrize("name", sorted(set(ONE_AXIS) - {"unsqueeze", "stack"}))
def test_an_axis_that_is_not_there_is_named(name, axis):
    said = name.partition(",")[0]
    with pytest.raises(IndexError, match=rf"^{said}: axis {axis} of a tensor with 3 axes"):
        ONE_AXIS[name](Tensor(X), axis)


REDUCTIONS = ["sum", "mean", "var", "std", "max", "min", "all", "any"]


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_know_several_axes(name):
    for axis in SEVERAL:
        found = getattr(Tensor(X), name)(axis).numpy()
        expected = getattr(np, name)(X, tuple(axis) if isinstance(axis, list) else axis)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


# Tensors without axes


@pytest.mark.parametrize("axis", [0, -1, (0,), (-1,), None, ()])
@pytest.mark.parametrize("name", [*REDUCTIONS, "softmax", "log_softmax", "squeeze"])
def test_axis_0_of_a_tensor_without_axes(name, axis):
    x = Tensor(np.float64(3), requires_grad=name not in ("all", "any"))
    y = getattr(x, name)(axis)
    assert y.shape == ()
    known = {"var": 0, "std": 0, "softmax": 1, "log_softmax": 0, "all": True, "any": True}
    assert y.item() == known.get(name, 3)
    if x.requires_grad:
        y.backward()
        assert x.grad.item() == (1 if known.get(name, 3) == 3 else 0)


@pytest.mark.parametrize("axis", [0, -1])
def test_one_axis_of_a_tensor_without_axes(axis):
    x = Tensor(np.float64(3), requires_grad=True)
    y = x.cumsum(axis)
    assert (y.shape, y.item()) == ((), 3)
    y.backward()
    assert x.grad.item() == 1
    for index in (x.argmax(axis), x.argmin(axis)):
        assert (index.shape, index.item()) == ((), 0)
    assert x.swapaxes(axis, 0).shape == x.transpose(0, axis).shape == ()
    assert x.flatten(axis).shape == x.unsqueeze(axis).shape == (1,)
    assert F.softmax(x, axis).item() == F.softmax(x, axis, mask=True).item() == 1
    assert F.softmax(x, axis, mask=False).item() == 0
    assert F.stack([x, x], axis).shape == (2,)
    with pytest.raises(ValueError, match="cat: tensors without axes"):
        F.cat([x, x], axis)
    with pytest.raises(IndexError, match=r"split: .*without axes"):
        x.split(1, axis)


@pytest.mark.parametrize("axis", [1, -2, (0, 1), (1,)])
@pytest.mark.parametrize("name", [*REDUCTIONS, "softmax", "log_softmax"])
def test_no_other_axis_of_a_tensor_without_axes(name, axis):
    with pytest.raises(IndexError, match=rf"^{name}: axis .* of a tensor with 0 axes"):
        getattr(Tensor(3.0), name)(axis)


def test_repeated_axes_are_refused():
    for name, axis in itertools.product([*REDUCTIONS, "softmax"], [(0, 0), (0, -3)]):
        with pytest.raises(ValueError, match=rf"^{name}: axis .* names the same axis twice"):
            getattr(Tensor(X), name)(axis)
    for axis in ((0, 0), (0, -1)):
        with pytest.raises(ValueError, match="sum: axis"):
            Tensor(3.0).sum(axis)
    with pytest.raises(ValueError, match="permute"):
        Tensor(3.0).permute(0)
