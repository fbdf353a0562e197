"""Rotary positions, against their definition as complex numbers in float64."""

import numpy as np
import pytest
from closeness import SIZES, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels import rotary
from tinygrad_char.kernels.backend import asked_first
from tinygrad_char.kernels.rotary import Options, cpu, reference

HEADS = st.integers(1, 4)
HALVES = st.one_of(st.sampled_from([1, 7, 8, 15, 16, 17, 32, 33, 64]), st.integers(1, 40))
NORMALIZE = st.booleans()


def drawn(batch, length, heads, size, dtype=np.float32):
    rng = np.random.default_rng([batch, length, heads, size])
    return rng.standard_normal((2, batch, length, 3 * heads * size)).astype(dtype)


def table(positions, size, dtype=np.float32):
    return rotary.angles(positions, size).astype(dtype)


def naive(qkv, heads, angles, normalize):
    """Return the turned queries and keys (B, T, 2, H, D) in float64, and the lengths of pairs."""
    batch, length, _ = qkv.shape
    x = qkv.astype(np.float64).reshape(batch, length, 3, heads, -1)[:, :, :2]
    half = x.shape[-1] // 2
    if normalize:
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + reference.EPS)
    turn = angles[:length, :half] + 1j * angles[:length, half:].astype(np.float64)
    pairs = (x[..., :half] + 1j * x[..., half:]) * turn[:, None, None]
    sizes = np.concatenate([abs(pairs), abs(pairs)], -1)
    return np.concatenate([pairs.real, pairs.imag], -1), sizes


def jacobian_times(grad, qkv, heads, angles, normalize, step=1e-4):
    """Return G^T dy/dqkv by central differences in float64 of what goes in, for few elements."""
    qkv, found = qkv.astype(np.float64), np.zeros(qkv.shape)
    target = grad.reshape(*qkv.shape[:2], 3, heads, -1)
    for index in np.ndindex(qkv.shape):
        ends = []
        for sign in (1, -1):
            moved = qkv.copy()
            moved[index] += sign * step
            turned = reference.forward(moved, Options(heads, angles.astype(np.float64), normalize))
            ends.append((turned * target[:, :, :2]).sum())
        found[index] = (ends[0] - ends[1]) / (2 * step)
    values = np.ones((1, 1, 3, 1, 1)) * [[[[[0]], [[0]], [[1]]]]]
    return found + (target * values).reshape(qkv.shape)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([1, 2, 3]), st.sampled_from(SIZES), HEADS, HALVES, NORMALIZE)
def test_a_pair_is_turned_as_a_complex_number(batch, length, heads, half, normalize):
    qkv, _ = drawn(batch, length, heads, 2 * half)
    angles = table(length + 3, 2 * half)
    before = qkv.copy()
    y = rotary.forward(qkv, Options(heads, angles, normalize))
    truth, sizes = naive(qkv, heads, angles, normalize)
    assert y.dtype == np.float32
    assert_close(y, truth, sizes * (4 + half * normalize))
    np.testing.assert_array_equal(qkv, before)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), NORMALIZE)
def test_backward_is_the_gradient_of_forward(batch, length, heads, half, normalize):
    qkv, grad = drawn(batch, length, heads, 2 * half, np.float64)
    angles = table(8, 2 * half, np.float64)
    expected = jacobian_times(grad, qkv, heads, angles, normalize)
    found = grad.copy()
    assert rotary.backward(found, qkv, Options(heads, angles, normalize)) is None
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([1, 2, 3]), st.sampled_from(SIZES), HEADS, HALVES, NORMALIZE)
def test_backward_agrees_with_float64(batch, length, heads, half, normalize):
    qkv, grad = drawn(batch, length, heads, 2 * half)
    angles = table(length, 2 * half)
    found, truth = grad.copy(), grad.astype(np.float64)
    rotary.backward(found, qkv, Options(heads, angles, normalize))
    wide = (qkv.astype(np.float64), heads, angles.astype(np.float64), normalize)
    reference.backward(truth, wide[0], Options(*wide[1:]))
    packed = qkv.reshape(batch, length, 3, heads, -1).astype(np.float64)
    rstd = 1 / np.sqrt((packed**2).mean(-1, keepdims=True) + reference.EPS)
    scale = np.linalg.norm(grad.reshape(packed.shape), axis=-1, keepdims=True)
    scale = scale * (4 + half * rstd * (1 + abs(packed) * rstd) if normalize else 4)
    assert_close(found, truth, np.broadcast_to(scale, packed.shape).reshape(qkv.shape))


def test_the_gradients_of_values_stay_as_they_are():
    qkv, grad = drawn(2, 5, 3, 8)
    found = grad.copy()
    rotary.backward(found, qkv, Options(3, table(5, 8)))
    np.testing.assert_array_equal(found[..., 48:], grad[..., 48:])
    assert (found[:, 1:, :48] != grad[:, 1:, :48]).any()


def test_scores_depend_on_distances_alone():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal(3 * 16)
    qkv = np.tile(vectors, (1, 40, 1))
    turned = reference.forward(qkv, Options(1, table(40, 16, np.float64)))
    scores = turned[0, :, 0, 0] @ turned[0, :, 1, 0].T
    for distance in range(-39, 40):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-10, atol=1e-12)
    assert np.ptp(scores) > 1


def test_position_zero_is_not_turned_and_angles_are_those_of_the_paper():
    angles = rotary.angles(5, 6)
    np.testing.assert_array_equal(angles[0], [1, 1, 1, 0, 0, 0])
    for t in range(5):
        for i in range(3):
            theta = t * 10000 ** (-2 * i / 6)
            np.testing.assert_allclose(angles[t, [i, i + 3]], [np.cos(theta), np.sin(theta)])


def test_what_is_normalized_has_a_mean_square_of_one_and_zeros_stay_zeros():
    qkv, grad = drawn(2, 7, 2, 16)
    qkv[0, 3] = 0
    y = rotary.forward(100 * qkv, Options(2, table(7, 16), True))
    squares = (y.astype(np.float64) ** 2).mean(-1)
    assert (squares[0, 3] == 0).all()
    np.testing.assert_allclose(np.delete(squares.reshape(14, -1), 3, 0), 1, rtol=1e-5)
    rotary.backward(grad, qkv, Options(2, table(7, 16), True))
    assert np.isfinite(grad).all()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.integers(1, 3),
    HEADS,
    st.integers(1, 20),
    NORMALIZE,
)
def test_positions_that_come_one_after_the_other_have_the_same_bits(
    lengths, batch, heads, half, normalize
):
    qkv, _ = drawn(batch, sum(lengths), heads, 2 * half)
    angles = table(sum(lengths), 2 * half)
    whole = rotary.forward(qkv, Options(heads, angles, normalize))
    start = 0
    for length in lengths:
        part = np.ascontiguousarray(qkv[:, start : start + length])
        filled = np.array([start])
        y = rotary.cached(part, filled, Options(heads, angles, normalize), rotary.forward)
        np.testing.assert_array_equal(y, whole[:, start : start + length])
        assert filled[0] == start
        start += length


@pytest.mark.parametrize("start", [-1, 3, 1 << 62])
def test_a_position_without_angles_is_refused(start):
    qkv, _ = drawn(1, 2, 1, 4)
    with pytest.raises(ValueError, match=f"2 positions from {start} on"):
        rotary.cached(qkv, np.array([start]), Options(1, table(4, 4)), rotary.forward)


def test_too_few_angles_are_refused():
    qkv, _ = drawn(1, 5, 1, 4)
    with pytest.raises(ValueError, match="5 positions from 0 on; expected angles of so many"):
        rotary.forward(qkv, Options(1, table(4, 4)))


@pytest.mark.parametrize("shape", [(0, 3, 24), (3, 0, 24)])
def test_empty(shape):
    qkv = np.zeros(shape, np.float32)
    assert rotary.forward(qkv, Options(2, table(4, 4))).shape == (*shape[:2], 2, 2, 4)
    rotary.backward(qkv, qkv, Options(2, table(4, 4), True))


def test_other_dtypes_and_views_are_served():
    for qkv, dtype in (
        (drawn(2, 5, 2, 6, np.float64)[0], np.float64),
        (drawn(4, 9, 2, 6)[0], None),
    ):
        view = qkv[::2, ::-1]
        angles = table(9, 6, dtype or np.float32)
        y = rotary.forward(view, Options(2, angles, True))
        assert y.dtype == qkv.dtype
        np.testing.assert_allclose(y, naive(view, 2, angles, True)[0], rtol=1e-5, atol=1e-6)


def test_the_version_is_the_one_that_its_name_says(request):
    name = request.node.callspec.params["version"]
    versions = {"reference": reference, "c": cpu}
    assert asked_first(rotary.forward) is versions[name].forward
