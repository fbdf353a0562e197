"""What holds for every shape, axis, index, memory layout and dtype: NumPy's results, and gradients.

Values that only move are checked by moving the numbers of the elements: an operation on
arange(size) tells where each element went, so its gradient is a count weighted by the cotangent.
"""

import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from op_cases import CASES, cotangents, outputs

import tinygrad_char as tg
from tinygrad_char import Tensor

DTYPES = [np.float16, np.float32, np.float64]
BINARY = {
    "add": (operator.add, np.add),
    "subtract": (operator.sub, np.subtract),
    "multiply": (operator.mul, np.multiply),
    "divide": (operator.truediv, np.divide),
    "power": (operator.pow, np.power),
    "maximum": (tg.maximum, np.maximum),
    "minimum": (tg.minimum, np.minimum),
}
COMPARISONS = {
    "equal": operator.eq,
    "not_equal": operator.ne,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
}
SEEDS = st.integers(0, 2**32 - 1)

modest = settings(deadline=None, max_examples=60)


def draw(shape, dtype=np.float64, seed=0):
    return np.asarray(np.random.default_rng(seed).uniform(0.25, 1.75, shape)).astype(dtype)


def leaf(array):
    return Tensor(array, requires_grad=True)


def positions(shape):
    return np.arange(int(np.prod(shape))).reshape(shape)


def scattered(taken, grad, shape):
    """Return zeros of `shape` with `grad` added where the elements `taken` came from."""
    size = int(np.prod(shape))
    return np.bincount(taken.ravel(), grad.ravel(), minlength=size)[:size].reshape(shape)


def check_movement(function, shape, seed=0):
    """Check an operation that only moves elements, by NumPy's result on their numbers."""
    array = draw(shape, seed=seed)
    x = leaf(array)
    taken = np.asarray(function(positions(shape)))
    y = function(x)
    assert y.shape == taken.shape
    np.testing.assert_array_equal(y.detach().numpy(), function(array))
    grad = np.random.default_rng(seed).standard_normal(y.shape)
    y.backward(grad)
    np.testing.assert_allclose(x.grad.numpy(), scattered(taken, grad, shape), rtol=1e-12)


# Broadcasting


@pytest.mark.parametrize("name", BINARY)
@modest
@given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_dims=4, max_side=4),
    dtype=st.sampled_from(DTYPES),
    seed=SEEDS,
)
def test_binary_operations_broadcast_as_numpy_does(name, shapes, dtype, seed):
    ours, numpys = BINARY[name]
    arrays = [draw(each, dtype, seed + i) for i, each in enumerate(shapes.input_shapes)]
    a, b = map(leaf, arrays)
    y = ours(a, b)
    assert y.shape == shapes.result_shape
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.detach().numpy(), numpys(*arrays))

    grad = np.random.default_rng(seed).standard_normal(y.shape).astype(dtype)
    y.backward(grad)
    # broadcast beforehand, each copy gets its own gradient; their sum is what the one gets
    wide = [leaf(np.broadcast_to(each, y.shape).astype(np.float64)) for each in arrays]
    ours(*wide).backward(grad)
    for each, other in zip((a, b), wide, strict=True):
        assert each.grad.shape == each.shape
        assert each.grad.dtype == dtype
        numbers = np.broadcast_to(positions(each.shape), y.shape)
        expected = scattered(numbers, other.grad.numpy(), each.shape)
        scale = scattered(numbers, abs(other.grad.numpy()), each.shape)
        error = abs(each.grad.numpy() - expected)
        assert (error <= 16 * np.finfo(dtype).eps * (scale + 1e-3)).all()


@pytest.mark.parametrize("name", [*BINARY, *COMPARISONS, "where"])
@modest
@given(
    shapes=st.lists(
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), min_size=2, max_size=2
    )
)
def test_shapes_fit_or_are_named(name, shapes):
    function = {
        **{key: value[0] for key, value in BINARY.items()},
        **COMPARISONS,
        "where": lambda a, b: tg.where(a > 0, a, b),
    }[name]
    a, b = (Tensor(draw(shape)) for shape in shapes)
    try:
        expected = np.broadcast_shapes(*shapes)
    except ValueError:
        with pytest.raises(ValueError, match=name) as error:
            function(a, b)
        for shape in shapes:
            assert str(shape) in str(error.value)
    else:
        assert function(a, b).shape == expected


@pytest.mark.parametrize("name", COMPARISONS)
@modest
@given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=4),
    seed=SEEDS,
)
def test_comparisons_are_numpys_and_have_no_history(name, shapes, seed):
    rng = np.random.default_rng(seed)
    a, b = (
        np.asarray(rng.integers(0, 3, shape), dtype=np.float32) for shape in shapes.input_shapes
    )
    result = COMPARISONS[name](leaf(a), leaf(b))
    assert result.dtype == bool
    assert not result.requires_grad
    np.testing.assert_array_equal(result.numpy(), getattr(np, name)(a, b))


@modest
@given(
    shapes=hnp.mutually_broadcastable_shapes(
        signature="(m?,k),(k,n?)->(m?,n?)", min_side=0, max_side=4
    ),
    dtype=st.sampled_from(DTYPES),
    seed=SEEDS,
)
def test_matmul_follows_numpy(shapes, dtype, seed):
    arrays = [draw(each, dtype, seed + i) for i, each in enumerate(shapes.input_shapes)]
    a, b = map(leaf, arrays)
    y = a @ b
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.detach().numpy(), np.matmul(*arrays))
    y.backward(np.ones(y.shape))
    for each in (a, b):
        assert each.grad.shape == each.shape
        assert each.grad.dtype == dtype


@modest
@given(
    shapes=st.lists(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3), min_size=2, max_size=2)
)
def test_matmul_fits_or_names_the_shapes(shapes):
    a, b = (draw(shape) for shape in shapes)
    try:
        expected = np.matmul(a, b).shape
    except ValueError:
        with pytest.raises(ValueError, match="matmul") as error:
            Tensor(a) @ Tensor(b)
        for shape in shapes:
            assert str(shape) in str(error.value)
    else:
        assert (Tensor(a) @ Tensor(b)).shape == expected


# Reductions


def axes_of(ndim):
    each = st.integers(-ndim, ndim - 1) if ndim else st.nothing()
    several = st.lists(each, max_size=ndim, unique_by=lambda i: i % ndim).map(tuple)
    return st.none() | each | several


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "var", "std", "all", "any"])
@modest
@given(data=st.data(), keepdims=st.booleans(), dtype=st.sampled_from(DTYPES), seed=SEEDS)
def test_reductions_are_numpys(name, data, keepdims, dtype, seed):
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    axis = data.draw(axes_of(len(shape)))
    array = draw(shape, dtype, seed)
    x = leaf(array)
    if name in ("all", "any"):
        positive = array > 1
        np.testing.assert_array_equal(getattr(x > 1, name)(axis), getattr(positive, name)(axis))
        return
    axes = range(array.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if name != "sum" and 0 in [shape[i] for i in axes]:
        with pytest.raises(ValueError, match=name):
            getattr(x, name)(axis, keepdims)
        return
    y = getattr(x, name)(axis, keepdims)
    expected = np.asarray(getattr(array.astype(np.float64), name)(axis=axis, keepdims=keepdims))
    assert y.shape == expected.shape
    assert y.dtype == dtype
    error = abs(y.detach().numpy() - expected)
    scale = {"sum": max(array.size, 1), "std": 8}.get(name, 2)
    # the root is steep at zero: sqrt(v + d) - sqrt(v) <= sqrt(d)
    steep = np.sqrt(np.finfo(dtype).eps) if name == "std" else 0
    assert (error <= 4 * np.finfo(dtype).eps * scale + steep * (expected < steep)).all()
    y.backward(np.ones(y.shape))
    assert x.grad.shape == shape
    assert x.grad.dtype == dtype
    if name == "sum":
        assert (x.grad.numpy() == 1).all()
    if name in ("max", "min") and x.size:
        assert abs(float(x.grad.numpy().sum()) - y.size) < 0.01 * y.size


@modest
@given(data=st.data(), seed=SEEDS)
def test_cumsum_is_numpys(data, seed):
    shape = data.draw(hnp.array_shapes(max_dims=3, min_side=0, max_side=5))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = leaf(draw(shape, seed=seed))
    y = x.cumsum(axis)
    np.testing.assert_array_equal(y.detach().numpy(), x.detach().numpy().cumsum(axis))
    y.backward(np.ones(shape))
    sums = np.flip(np.ones(shape).cumsum(axis), axis)  # how many sums an element is part of
    np.testing.assert_array_equal(x.grad.numpy(), sums)


# Moving elements


@modest
@given(data=st.data(), seed=SEEDS)
def test_basic_indexing(data, seed):
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    check_movement(lambda x: x[index], shape, seed)


@modest
@given(data=st.data(), seed=SEEDS)
def test_basic_indexing_of_one_number_repeated(data, seed):
    """Strides of 0 tell nothing of which element went where."""
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=4))
    index = data.draw(
        st.one_of(
            hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True),
            st.tuples(
                *(st.builds(slice, st.none(), st.none(), st.sampled_from([1, -1])),) * len(shape)
            ),
        )
    )
    x = tg.from_numpy(np.broadcast_to(np.float64(2), shape)).requires_grad_()
    y = x[index]
    grad = draw(y.shape, seed=seed)
    y.backward(grad)
    expected = scattered(np.asarray(positions(shape)[index]), grad, shape)
    np.testing.assert_array_equal(x.grad.numpy(), expected)


@modest
@given(data=st.data(), seed=SEEDS)
def test_integer_array_indexing_with_repeats(data, seed):
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=4))
    taken = hnp.array_shapes(min_dims=0, max_dims=2, min_side=0)
    index = data.draw(hnp.integer_array_indices(shape, result_shape=taken))
    check_movement(lambda x: x[index], shape, seed)


@modest
@given(data=st.data(), seed=SEEDS)
def test_boolean_masks(data, seed):
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    dims = data.draw(st.integers(0, len(shape)))
    mask = data.draw(hnp.arrays(bool, shape[:dims]))
    check_movement(lambda x: x[mask], shape, seed)


@modest
@given(data=st.data(), seed=SEEDS)
def test_arrays_slices_and_new_axes_together(data, seed):
    shape = data.draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=4))
    array = data.draw(hnp.arrays(np.int64, (2, 1), elements=st.integers(-shape[1], shape[1] - 1)))
    part = data.draw(st.slices(shape[2]))
    number = data.draw(st.integers(-shape[0], shape[0] - 1))
    for index in (
        (slice(None), array, part),
        (Ellipsis, array, None, part),
        (number, array, part),
        (number, slice(None), array % shape[2]),
        (slice(None), [[0]], part),
    ):
        check_movement(lambda x, index=index: x[index], shape, seed)


@modest
@given(data=st.data(), seed=SEEDS)
def test_tensor_as_index(data, seed):
    shape = data.draw(hnp.array_shapes(max_dims=2, max_side=4))
    array = data.draw(hnp.arrays(np.int64, (3,), elements=st.integers(0, shape[0] - 1)))
    x = leaf(draw(shape, seed=seed))
    np.testing.assert_array_equal(x[Tensor(array)].detach().numpy(), x.detach().numpy()[array])
    mask = x > 1
    np.testing.assert_array_equal(x[mask].detach().numpy(), x.detach().numpy()[mask.numpy()])


@modest
@given(data=st.data(), seed=SEEDS)
def test_shapes(data, seed):
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    order = data.draw(st.permutations(range(len(shape))))
    flat = (int(np.prod(shape)),)
    check_movement(lambda x: x.transpose(tuple(order)), shape, seed)
    check_movement(lambda x: x.transpose(tuple(order)).reshape(flat), shape, seed)
    check_movement(lambda x: x.T, shape, seed)
    check_movement(lambda x: x.squeeze(), shape, seed)
    check_movement(lambda x: x[None].reshape((*shape, 1)), shape, seed)
    if shape:
        a, b = data.draw(st.tuples(*[st.integers(-len(shape), len(shape) - 1)] * 2))
        check_movement(lambda x: x.swapaxes(a, b), shape, seed)


@modest
@given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=1, base_shape=(3, 2, 4), max_dims=3),
    seed=SEEDS,
)
def test_broadcast_to(shapes, seed):
    (shape,) = shapes.input_shapes
    target = np.broadcast_shapes(shape, (3, 2, 4))

    def broadcast(x):
        return np.broadcast_to(x, target) if isinstance(x, np.ndarray) else x.broadcast_to(target)

    check_movement(broadcast, shape, seed)


@modest
@given(data=st.data(), seed=SEEDS)
def test_split_and_cat_are_inverse(data, seed):
    shape = data.draw(hnp.array_shapes(max_dims=3, min_side=0, max_side=6))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = data.draw(st.integers(1, 7))
    x = leaf(draw(shape, seed=seed))
    parts = x.split(size, axis)
    assert all(each.shape[axis] == size for each in parts[:-1])
    y = tg.cat(parts, axis)
    np.testing.assert_array_equal(y.detach().numpy(), x.detach().numpy())
    grad = draw(shape, seed=seed + 1)
    y.backward(grad)
    np.testing.assert_array_equal(x.grad.numpy(), grad)


# Memory layouts and dtypes, for every operation


def fortran(array):
    return np.asfortranarray(array) if array.ndim else array


def spread(array):
    """Return a view with every second element of a larger array, along every axis."""
    large = np.full([2 * n for n in array.shape], np.nan, array.dtype)
    view = large[(slice(None, None, 2),) * array.ndim] if array.ndim else large
    view[...] = array
    return view


def backward_in_memory(array):
    turn = (slice(None, None, -1),) * array.ndim
    return array[turn].copy()[turn] if array.ndim else array


def run(case, arrays, layout=lambda array: array):
    leaves = [tg.from_numpy(layout(each)).requires_grad_() for each in arrays]
    results = outputs(case.ours(*leaves))
    for each, cotangent in zip(results, cotangents(results), strict=True):
        each.backward(layout(cotangent.astype(each.dtype)), retain_graph=True)
    return [each.detach().numpy() for each in results] + [each.grad.numpy() for each in leaves]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_memory_layout_does_not_matter(case):
    expected = run(case, case.inputs())
    for layout in (fortran, spread, backward_in_memory):
        for got, wanted in zip(run(case, case.inputs(), layout), expected, strict=True):
            np.testing.assert_allclose(
                got, wanted, rtol=1e-6 if wanted.dtype == "f4" else 1e-12, atol=1e-14
            )


def repeated(array):
    """Return a view that has its first element everywhere: all strides are 0."""
    return np.broadcast_to(array.flat[0], array.shape) if array.size else array


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_number_repeated_in_memory_is_as_one_that_is_there_often(case):
    arrays = [repeated(each).copy() for each in case.inputs()]
    expected = run_repeated(case, arrays, lambda array: array)
    for got, wanted in zip(run_repeated(case, arrays, repeated), expected, strict=True):
        np.testing.assert_allclose(
            got, wanted, rtol=1e-6 if wanted.dtype == "f4" else 1e-12, atol=1e-13
        )


def run_repeated(case, arrays, layout):
    """Return results and gradients; of each result, for cotangents of one number and of several."""
    leaves = [tg.from_numpy(layout(each)).requires_grad_() for each in arrays]
    results = outputs(case.ours(*leaves))
    for each, cotangent in zip(results, cotangents(results), strict=True):
        for grad in (cotangent, layout(np.full_like(cotangent, 2))):
            each.backward(grad, retain_graph=True)
    return [each.detach().numpy() for each in results] + [each.grad.numpy() for each in leaves]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_half_precision_is_kept(case):
    arrays = [each.astype(np.float16) for each in case.inputs()]
    wide = run(case, [each.astype(np.float64) for each in arrays])
    for got, truth in zip(run(case, arrays), wide, strict=True):
        assert got.dtype == (np.float32 if truth.dtype == np.float32 else np.float16)
        if truth.size:
            assert np.abs(got - truth).max() <= 32 * 2.0**-10 * max(1, np.abs(truth).max())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_inputs_and_cotangents_are_left_alone(case):
    arrays = case.inputs()
    run(case, arrays)
    for array, before in zip(arrays, case.inputs(), strict=True):
        np.testing.assert_array_equal(array, before)
    for each in arrays:
        each.flags.writeable = False
    run(case, arrays)
