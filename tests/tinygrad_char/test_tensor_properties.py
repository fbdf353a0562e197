"""The operations on tensors for every shape and axis: as NumPy and PyTorch have them."""

import itertools
import string

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_char as tg
from tinygrad_char import Tensor

SEEDS = st.integers(0, 2**32 - 1)
modest = settings(deadline=None, max_examples=60)


def draw(shape, seed=0):
    return np.random.default_rng(seed).uniform(-2, 2, shape)


def leaf(array):
    return Tensor(array, requires_grad=True)


def check_movement(function, expected, shape, seed):
    """Check an operation that only moves elements by where NumPy moves their numbers."""
    array = draw(shape, seed)
    size = array.size
    x = leaf(array)
    y = function(x)
    np.testing.assert_array_equal(y.detach().numpy(), expected(array))
    taken = expected(np.arange(1, size + 1).reshape(shape))  # 0 is what came from nowhere
    grad = draw(y.shape, seed + 1)
    y.backward(grad)
    sums = np.bincount(taken.ravel(), grad.ravel(), minlength=size + 1)[1:]
    np.testing.assert_allclose(x.grad.numpy(), sums.reshape(shape), rtol=1e-12, atol=1e-12)


def shapes(low=0, high=4):
    return hnp.array_shapes(min_dims=low, max_dims=high, min_side=0, max_side=4)


def axes_of(ndim, least=0):
    return st.lists(
        st.integers(-ndim, ndim - 1), min_size=least, max_size=ndim, unique_by=lambda i: i % ndim
    )


# Reductions


@pytest.mark.parametrize("name", ["prod", "logsumexp", "norm"])
@modest
@given(data=st.data(), keepdims=st.booleans(), zeros=st.integers(0, 3), seed=SEEDS)
def test_reductions_of_any_shape(name, data, keepdims, zeros, seed):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    shape = data.draw(shapes(1))
    axes = tuple(data.draw(axes_of(len(shape), 1)))
    array = draw(shape, seed)
    array.ravel()[: zeros * 2 : 2] = 0
    x, t = leaf(array), torch.tensor(array, requires_grad=True)
    y = getattr(x, name)(axis=axes, keepdims=keepdims)
    if name == "prod":
        expected = t
        for axis in sorted((i % len(shape) for i in axes), reverse=True):
            expected = expected.prod(axis, keepdim=keepdims)
    elif name == "norm":
        expected = torch.linalg.vector_norm(t, 2, axes, keepdims)
    else:
        expected = torch.logsumexp(t, axes, keepdims)
    grad = draw(y.shape, seed + 1)
    assert y.shape == tuple(expected.shape)
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-12)
    y.backward(grad)
    expected.backward(torch.tensor(grad))
    np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-10, atol=1e-12)


@modest
@given(data=st.data(), zeros=st.lists(st.integers(0, 23), max_size=4), seed=SEEDS)
def test_running_products(data, zeros, seed):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    shape = data.draw(shapes(1, 3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    array = draw(shape, seed)
    for place in zeros:
        if place < array.size:
            array.ravel()[place] = 0
    x, t = leaf(array), torch.tensor(array, requires_grad=True)
    y, expected = x.cumprod(axis), t.cumprod(axis)
    np.testing.assert_array_equal(y.detach().numpy(), expected.detach().numpy())
    grad = draw(shape, seed + 1)
    y.backward(grad)
    expected.backward(torch.tensor(grad))
    np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["all", "any", "argmax", "argmin"])
@modest
@given(data=st.data(), keepdims=st.booleans(), seed=SEEDS)
def test_searches_keep_axes_as_numpy_does(name, data, keepdims, seed):
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=3))
    array = draw(shape, seed) if name.startswith("arg") else draw(shape, seed) > 0
    axis = data.draw(st.none() | st.integers(-len(shape), len(shape) - 1))
    result = getattr(Tensor(array), name)(axis, keepdims)
    expected = np.asarray(getattr(array, name)(axis=axis, keepdims=keepdims))
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(result.numpy(), expected)


# Order


@modest
@given(data=st.data(), descending=st.booleans(), seed=SEEDS)
def test_sort_argsort_and_topk(data, descending, seed):
    shape = data.draw(shapes(1, 3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    array = np.random.default_rng(seed).integers(0, 3, shape).astype(np.float64)  # with ties
    x = leaf(array)
    values, indices = x.sort(axis, descending=descending)
    expected = np.argsort(-array if descending else array, axis, kind="stable")
    np.testing.assert_array_equal(indices.numpy(), expected)
    np.testing.assert_array_equal(x.argsort(axis, descending=descending).numpy(), expected)
    taken = np.take_along_axis(array, expected, axis)
    np.testing.assert_array_equal(values.detach().numpy(), taken)
    grad = draw(shape, seed + 1)
    values.backward(grad)
    back = np.zeros(shape)
    np.put_along_axis(back, expected, grad, axis)
    np.testing.assert_array_equal(x.grad.numpy(), back)
    k = data.draw(st.integers(0, shape[axis]))
    best = x.topk(k, axis, largest=descending)
    first = np.take(expected, range(k), axis)
    np.testing.assert_array_equal(best.indices.numpy(), first)
    np.testing.assert_array_equal(best.values.detach().numpy(), np.take(taken, range(k), axis))


# Indices


@modest
@given(data=st.data(), seed=SEEDS)
def test_gather_and_scatter_add_are_pytorchs(data, seed):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=4))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    place = axis % len(shape)
    wanted = tuple(data.draw(st.integers(0, 5 if i == place else n)) for i, n in enumerate(shape))
    length = shape[place]
    index = np.random.default_rng(seed).integers(-length, length, wanted)
    positive = torch.tensor(index % length)
    array = draw(shape, seed)

    x, t = leaf(array), torch.tensor(array, requires_grad=True)
    y, expected = x.gather(axis, index), t.gather(axis, positive)
    np.testing.assert_array_equal(y.detach().numpy(), expected.detach().numpy())
    grad = draw(wanted, seed + 1)
    y.backward(grad)
    expected.backward(torch.tensor(grad))
    np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-12, atol=1e-15)

    source = draw(wanted, seed + 2)
    x, t = leaf(array), torch.tensor(array, requires_grad=True)
    s, u = leaf(source), torch.tensor(source, requires_grad=True)
    y, expected = x.scatter_add(axis, index, s), t.scatter_add(axis, positive, u)
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-12)
    grad = draw(shape, seed + 3)
    y.backward(grad)
    expected.backward(torch.tensor(grad))
    np.testing.assert_array_equal(x.grad.numpy(), t.grad.numpy())
    np.testing.assert_array_equal(s.grad.numpy(), u.grad.numpy())


@modest
@given(data=st.data(), seed=SEEDS)
def test_take_and_take_along_axis_are_numpys(data, seed):
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=4))
    axis = data.draw(st.none() | st.integers(-len(shape), len(shape) - 1))
    length = int(np.prod(shape)) if axis is None else shape[axis]
    index = data.draw(
        hnp.arrays(
            np.int64,
            hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
            elements=st.integers(-length, length - 1),
        )
    )
    check_movement(
        lambda x: x.take(index, axis), lambda a: np.asarray(a.take(index, axis)), shape, seed
    )
    if axis is None:
        index = index.ravel()
    else:
        lengths = [data.draw(st.sampled_from([1, n])) for n in shape]
        lengths[axis] = data.draw(st.integers(0, 4))
        index = np.random.default_rng(seed).integers(-length, length, lengths)
    check_movement(
        lambda x: x.take_along_axis(index, axis),
        lambda a: np.take_along_axis(a, index, axis),
        shape,
        seed,
    )


@modest
@given(data=st.data(), seed=SEEDS)
def test_masks_among_other_indices(data, seed):
    shape = data.draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=4))
    place = data.draw(st.integers(0, 2))
    mask = data.draw(hnp.arrays(bool, shape[place]))
    others = [
        data.draw(st.sampled_from([slice(None), slice(None, None, -1), 0, -1])) for _ in range(3)
    ]
    index = tuple(mask if i == place else other for i, other in enumerate(others))
    check_movement(lambda x: x[index], lambda a: a[index], shape, seed)
    tensors = tuple(Tensor(each) if each is mask else each for each in index)
    check_movement(lambda x: x[tensors], lambda a: a[index], shape, seed)
    count = int(mask.sum())
    rows = np.random.default_rng(seed).integers(0, shape[place - 1], (2, count))
    index = [slice(None)] * 3
    index[place], index[place - 1] = mask, rows
    check_movement(lambda x: x[tuple(index)], lambda a: a[tuple(index)], shape, seed)


@modest
@given(
    both=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=4),
    data=st.data(),
    seed=SEEDS,
)
def test_selecting_by_a_mask_that_broadcasts(both, data, seed):
    shape, other = both.input_shapes
    mask = data.draw(hnp.arrays(bool, other))
    check_movement(
        lambda x: x.masked_select(mask),
        lambda a: np.broadcast_to(a, both.result_shape)[np.broadcast_to(mask, both.result_shape)],
        shape,
        seed,
    )


# Shapes


@modest
@given(data=st.data(), seed=SEEDS)
def test_flips_rolls_and_axes_in_other_places(data, seed):
    shape = data.draw(shapes(1))
    ndim = len(shape)
    axes = tuple(data.draw(axes_of(ndim)))
    check_movement(lambda x: x.flip(axes), lambda a: np.flip(a, axes), shape, seed)
    check_movement(lambda x: x.flip(), np.flip, shape, seed)
    shift = data.draw(st.integers(-9, 9))
    check_movement(lambda x: x.roll(shift), lambda a: np.roll(a, shift), shape, seed)
    shifts = tuple(data.draw(st.integers(-9, 9)) for _ in axes)
    if axes:
        check_movement(
            lambda x: x.roll(shifts, axes), lambda a: np.roll(a, shifts, axes), shape, seed
        )
    places = data.draw(st.permutations(range(ndim)))[: len(axes)]
    check_movement(
        lambda x: x.moveaxis(axes, places), lambda a: np.moveaxis(a, axes, places), shape, seed
    )


@modest
@given(data=st.data(), seed=SEEDS)
def test_tiles_and_repetitions(data, seed):
    shape = data.draw(shapes(0, 3))
    times = tuple(data.draw(st.lists(st.integers(0, 3), max_size=4)))
    check_movement(lambda x: x.tile(times), lambda a: np.tile(a, times), shape, seed)
    if len(times) >= len(shape):
        check_movement(lambda x: x.repeat(*times), lambda a: np.tile(a, times), shape, seed)
    if shape:
        axis = data.draw(st.integers(-len(shape), len(shape) - 1))
        each = data.draw(
            st.integers(0, 3)
            | st.lists(st.integers(0, 3), min_size=shape[axis], max_size=shape[axis])
        )
        assume(each != [])
        check_movement(
            lambda x: x.repeat_interleave(each, axis),
            lambda a: np.repeat(a, each, axis),
            shape,
            seed,
        )
    check_movement(lambda x: x.repeat_interleave(2), lambda a: np.repeat(a, 2), shape, seed)


@modest
@given(data=st.data(), seed=SEEDS)
def test_borders(data, seed):
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=4))
    widths = [tuple(data.draw(st.integers(-1, 3)) for _ in range(2)) for _ in shape]
    assume(all(n + a + b >= 0 for n, (a, b) in zip(shape, widths, strict=True)))
    cut = tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(shape, widths, strict=True))
    added = [(max(a, 0), max(b, 0)) for a, b in widths]
    # cutting what is left of a single element twice, or padding nothing, is for the other order
    assume(all(max(-a, 0) + max(-b, 0) <= n for n, (a, b) in zip(shape, widths, strict=True)))
    check_movement(lambda x: x.pad(widths), lambda a: np.pad(a[cut], added), shape, seed)
    flat = list(itertools.chain(*widths[::-1]))
    check_movement(lambda x: x.pad(flat), lambda a: np.pad(a[cut], added), shape, seed)
    for mode in ("reflect", "edge", "wrap"):
        inner = tuple(
            slice(max(-a, 0), n + max(a, 0) + max(b, 0) - max(-b, 0))
            for n, (a, b) in zip(shape, widths, strict=True)
        )
        if mode != "wrap" or 0 not in draw(shape)[cut].shape:
            check_movement(
                lambda x, mode=mode: x.pad(widths, mode),
                lambda a, mode=mode, inner=inner: (
                    np.pad(a[cut], added, mode) if mode == "wrap" else np.pad(a, added, mode)[inner]
                ),
                shape,
                seed,
            )


@modest
@given(data=st.data(), offset=st.integers(-4, 4), seed=SEEDS)
def test_diagonals(data, offset, seed):
    shape = data.draw(shapes(2))
    first, second = data.draw(st.permutations(range(len(shape))))[:2]
    second -= len(shape)
    check_movement(
        lambda x: x.diagonal(offset, first, second),
        lambda a: a.diagonal(offset, first, second),
        shape,
        seed,
    )
    np.testing.assert_allclose(
        leaf(draw(shape, seed)).trace(offset, first, second).detach().numpy(),
        draw(shape, seed).trace(offset, first, second),
        rtol=1e-12,
        atol=1e-12,
    )
    check_movement(lambda x: x.diag(offset), lambda a: np.diag(a, offset), shape[:1], seed)
    check_movement(lambda x: x.diag(offset), lambda a: np.diag(a, offset), shape[:2], seed)


@modest
@given(data=st.data(), seed=SEEDS)
def test_parts(data, seed):
    shape = data.draw(shapes(1, 3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    chunks = data.draw(st.integers(1, 6))
    x = Tensor(draw(shape, seed))
    parts = x.chunk(chunks, axis)
    assert len(parts) <= chunks
    np.testing.assert_array_equal(tg.cat(parts, axis).numpy(), x.numpy())
    slices = x.unbind(axis)
    assert len(slices) == shape[axis]
    if slices:
        np.testing.assert_array_equal(tg.stack(slices, axis).numpy(), x.numpy())


# Contractions


@st.composite
def contractions(draw):
    """Return subscripts and shapes that fit: letters twice, ellipses, axes of length 1."""
    letters = string.ascii_lowercase[: draw(st.integers(1, 4))]
    lengths = {each: draw(st.integers(0, 3)) for each in letters}
    batch = draw(st.lists(st.integers(1, 2), max_size=2))
    terms, found = [], []
    for _ in range(draw(st.integers(1, 3))):
        term = "".join(draw(st.lists(st.sampled_from(letters), max_size=3)))
        narrow = {each: draw(st.integers(0, 4)) == 0 for each in term}  # length 1, to broadcast
        shape = [1 if narrow[each] else lengths[each] for each in term]
        count = draw(st.integers(-1, len(batch)))
        if count >= 0:
            place = draw(st.integers(0, len(term)))
            term = term[:place] + "..." + term[place:]
            own = [draw(st.sampled_from([1, n])) for n in batch[len(batch) - count :]]
            shape[place:place] = own
        terms.append(term)
        found.append(tuple(shape))
    used = sorted(set("".join(terms)) - {"."})
    subscripts = ",".join(terms)
    if draw(st.booleans()):
        output = "".join(draw(st.permutations(used))[: draw(st.integers(0, len(used)))])
        dots = "..." if "..." in subscripts and draw(st.booleans()) else ""
        place = draw(st.integers(0, len(output)))
        subscripts += "->" + output[:place] + dots + output[place:]
    return subscripts, found


@settings(deadline=None, max_examples=200)
@given(contraction=contractions(), seed=SEEDS)
def test_einsum(contraction, seed):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch")
    subscripts, found = contraction
    arrays = [draw(shape, seed + i) for i, shape in enumerate(found)]
    leaves = [leaf(each) for each in arrays]
    theirs = [torch.tensor(each, requires_grad=True) for each in arrays]
    try:
        expected = torch.einsum(subscripts, *theirs)
    except RuntimeError:  # sizes of one letter that do not broadcast
        with pytest.raises(ValueError, match="einsum"):
            tg.einsum(subscripts, *leaves)
        return
    y = tg.einsum(subscripts, *leaves)
    assert y.shape == tuple(expected.shape)
    np.testing.assert_allclose(
        y.detach().numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12
    )
    grad = draw(y.shape, seed + 9)
    y.backward(grad)
    expected.backward(torch.tensor(grad))
    for mine, other in zip(leaves, theirs, strict=True):
        np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=1e-10, atol=1e-12)


@modest
@given(data=st.data(), seed=SEEDS)
def test_tensordot_is_numpys(data, seed):
    shape = data.draw(hnp.array_shapes(max_dims=4, min_side=0, max_side=3))
    axes = data.draw(axes_of(len(shape)))
    rest = list(data.draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)))
    other = [shape[i] for i in axes] + rest
    order = data.draw(st.permutations(range(len(other))))
    b = draw(other, seed + 1).transpose(order)
    places = [list(order).index(i) for i in range(len(axes))]
    a = draw(shape, seed)
    y = tg.tensordot(leaf(a), leaf(b), (axes, places))
    np.testing.assert_allclose(
        y.detach().numpy(), np.tensordot(a, b, (axes, places)), rtol=1e-12, atol=1e-12
    )


@modest
@given(
    shapes=hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, min_side=0, max_side=3),
    seed=SEEDS,
)
def test_limits_broadcast(shapes, seed):
    x, low, high = (draw(each, seed + i) for i, each in enumerate(shapes.input_shapes))
    leaves = [leaf(each) for each in (x, low, high)]
    y = leaves[0].clip(*leaves[1:])
    np.testing.assert_array_equal(y.detach().numpy(), np.minimum(np.maximum(x, low), high))
    y.backward(np.ones(y.shape))
    total = sum(float(each.grad.numpy().sum()) for each in leaves)
    assert total == y.size  # each element of the result comes from exactly one
    for each in leaves:
        assert each.grad.shape == each.shape
