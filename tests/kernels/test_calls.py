"""Calls of the kernels in C: what is passed is checked against what the kernel declares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_char.kernels.backend import status
from tinygrad_char.kernels.cpu.extension import compiled

pytestmark = pytest.mark.skipif(compiled is None, reason=status())

ROWS, COLUMNS, SIZE = 3, 4, 12


def floats(size=SIZE):
    return np.ones(size, np.float32)


def read_only(array):
    array.flags.writeable = False
    return array


KERNELS = {  # of each the arguments that it takes; those that are written to are named
    "add_rows": ([floats(), floats(COLUMNS), floats(), ROWS, COLUMNS, 1], {2}),
    "layernorm_forward": (
        [
            *(floats(), floats(COLUMNS), floats(COLUMNS), floats(), floats(ROWS), floats(ROWS)),
            *(ROWS, COLUMNS, 1e-5),
        ],
        {3, 4, 5},
    ),
    "embedding_forward": (
        [np.zeros(2, np.int64), floats(), floats(COLUMNS), floats(2 * COLUMNS), 2, 1, 3, COLUMNS],
        {3},
    ),
    "sums_of_squares": ([floats(), np.empty(3), SIZE, 5, 1], {1}),
    "sampling": (
        [floats(), np.ones(ROWS), np.empty(ROWS, np.int64), ROWS, COLUMNS, 1.0, COLUMNS, 1.0],
        {2},
    ),
}
ARRAYS = [
    (name, position)
    for name, (arguments, _) in KERNELS.items()
    for position, each in enumerate(arguments)
    if isinstance(each, np.ndarray)
]


def call(name, position, replacement):
    arguments = list(KERNELS[name][0])
    arguments[position] = replacement(arguments[position])
    getattr(compiled, name)(*arguments)


def test_what_fits_is_contiguous_float32_or_nothing():
    square = np.ones((3, 3), np.float32)
    for each in (square, square[1:], square[:, :1][:1], np.float32(1), read_only(floats()), None):
        assert compiled.fits(square, each)
    for each in (square.T, square[:, 1:], np.ones(3), np.ones(3, ">f4"), np.ones(3, "i4"), 1.0):
        assert not compiled.fits(square, each)
        assert not compiled.fits(each, square)
    assert compiled.fits(square.T[:0], floats(0))
    assert not compiled.fits(np.ones(1, np.float16))


@pytest.mark.parametrize("name", KERNELS)
def test_what_is_declared_is_taken(name):
    getattr(compiled, name)(*KERNELS[name][0])


@pytest.mark.parametrize(("name", "position"), ARRAYS)
@pytest.mark.parametrize(
    "dtype", ["i4", "u4", "f2", "f4", "f8", "i8", "u8", "c8", ">f4", ">i8", "?"]
)
def test_other_items_are_an_error(name, position, dtype):
    dtype, right = np.dtype(dtype), KERNELS[name][0][position].dtype
    if dtype == right:
        call(name, position, np.copy)
        return
    with pytest.raises(TypeError, match=rf"^{name}: \w+ has items of format .*expected {right}$"):
        call(name, position, lambda array: np.zeros(array.shape, dtype))


@pytest.mark.parametrize(("name", "position"), ARRAYS)
def test_other_numbers_of_elements_are_an_error(name, position):
    size = KERNELS[name][0][position].size
    for other in {0, size - 1, size + 1, 2 * size} - {size}:
        with pytest.raises(TypeError, match=rf"^{name}: \w+ has \d+ elements; expected \d+$"):
            call(name, position, lambda array, n=other: np.zeros(n, array.dtype))


@pytest.mark.parametrize(("name", "position"), ARRAYS)
def test_elements_that_do_not_lie_side_by_side_are_an_error(name, position):
    with pytest.raises(TypeError, match=rf"^{name}: \w+, .*C-contiguous"):
        call(name, position, lambda array: np.zeros(2 * array.size, array.dtype)[::2])


@pytest.mark.parametrize(("name", "position"), ARRAYS)
def test_only_what_is_read_may_be_read_only(name, position):
    if position in KERNELS[name][1]:
        with pytest.raises(TypeError, match=rf"^{name}: \w+, .*writable"):
            call(name, position, lambda array: read_only(array.copy()))
    else:
        call(name, position, lambda array: read_only(array.copy()))


@pytest.mark.parametrize("given_instead", [None, 1.0, "text", [1.0] * SIZE, object()])
def test_what_is_no_array_is_an_error(given_instead):
    with pytest.raises(TypeError, match=r"^add_rows: b, of .*float32"):
        call("add_rows", 1, lambda array: given_instead)


def test_only_what_is_optional_may_be_left_out():
    call("layernorm_forward", 1, lambda array: None)
    call("layernorm_forward", 4, lambda array: None)
    with pytest.raises(TypeError, match=r"^layernorm_forward: rstd, of .*float32"):
        call("layernorm_forward", 5, lambda array: None)


@pytest.mark.parametrize(
    ("position", "value", "error"),
    [
        (3, -1, r"rows is negative; expected a count"),
        (3, 1 << 63, "too (large|big)"),
        (3, 1.5, "cannot be interpreted as an integer"),
        (3, "3", "cannot be interpreted as an integer"),
        (3, None, "cannot be interpreted as an integer"),
    ],
)
def test_counts_are_integers_from_0_on(position, value, error):
    with pytest.raises((TypeError, OverflowError), match=error):
        call("add_rows", position, lambda array: value)


@given(st.integers(0, 9).filter(lambda count: count != 6))
def test_the_number_of_arguments(count):
    with pytest.raises(TypeError, match=f"add_rows takes 6 arguments, got {count}"):
        compiled.add_rows(*[1] * count)


def views(**changes):
    """Return what attention_forward takes, with some of its arrays replaced."""
    shapes = {"q": (2, 3, 4, 8), "k": (2, 3, 5, 8), "v": (2, 3, 5, 6), "out": (2, 3, 4, 6)}
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    arrays["statistics"] = np.ones((2, 3, 4, 2), np.float32)
    return [*{**arrays, **changes}.values(), True, 0.5, False, 0, 0, 0, 0.0, False, 1]


@pytest.mark.parametrize("name", ["q", "k", "v", "out"])
def test_views_have_shapes_that_fit_each_other(name):
    compiled.attention_forward(*views())
    order = ["q", "k", "v", "out"].index(name)
    for axis in range(4):
        shape = list(views()[order].shape)
        shape[axis] += 1
        # what is compared with a longer one may be named instead
        with pytest.raises(TypeError, match=r"of a shape that does not fit|elements; expected"):
            compiled.attention_forward(*views(**{name: np.ones(shape, np.float32)}))
    with pytest.raises(TypeError, match=rf"^attention_forward: {name} is not \(B, H, T, D\)"):
        compiled.attention_forward(*views(**{name: np.ones((4, 8), np.float32)}))
    turned = np.ones(views()[order].shape[::-1], np.float32).T
    with pytest.raises(TypeError, match=rf"^attention_forward: {name} is not \(B, H, T, D\)"):
        compiled.attention_forward(*views(**{name: turned}))
    with pytest.raises(TypeError, match=rf"^attention_forward: {name} has items of format"):
        compiled.attention_forward(*views(**{name: np.ones(views()[order].shape, np.int32)}))
