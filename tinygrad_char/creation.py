"""Functions that make tensors, under NumPy's and PyTorch's names."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_char.coerce import DEFAULT_DTYPE, from_python, lengths
from tinygrad_char.integers import check_fits
from tinygrad_char.kernels.array import is_floating
from tinygrad_char.kernels.devices import get_backend
from tinygrad_char.kernels.words import shorten
from tinygrad_char.modes import quiet
from tinygrad_char.random import Generator, Stream, default_generator
from tinygrad_char.spelling import spelled
from tinygrad_char.tensor import Tensor

BOUNDS = (("start", 0), ("stop", None), ("step", 1))
"""What `arange` counts by, and what it is where it is not given."""


def tensor(data: Any, dtype: Any = None, **options: Any) -> Tensor:
    """Return Tensor(data, dtype, device=..., requires_grad=...)."""
    return Tensor(data, dtype, **options)


def Value(number: float) -> Tensor:  # noqa: N802 (micrograd's name)
    """Return a float64 scalar that requires a gradient, the unit of scalar expressions."""
    return Tensor(number, np.float64, requires_grad=True)


def from_numpy(array: np.ndarray) -> Tensor:
    """Return a tensor that shares the array's memory, or copies it from another byte order.

    Changes made through the array are not seen by a pending backward: make none before it.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a numpy.ndarray, got {type(array).__name__}")
    return _share(array)


def from_dlpack(source: Any) -> Tensor:
    """Return a tensor that shares memory with an array that speaks DLPack (PyTorch, JAX, CuPy)."""
    if not hasattr(source, "__dlpack_device__"):
        raise TypeError(
            f"from_dlpack: expected an array that speaks DLPack, got {type(source).__name__}"
        )
    on_cpu = source.__dlpack_device__()[0] == 1
    return _share(get_backend("cpu" if on_cpu else "cuda").xp.from_dlpack(source))


def _share(array: Any) -> Tensor:
    empty = Tensor(array[:0] if array.ndim else [], array.dtype)
    return empty._result(array)


def full(shape: Any, value: Any, dtype: Any = None, **options: Any) -> Tensor:
    """Return a tensor filled with `value`, whose type is the dtype's if none is given.

    A Python float gives float32, an integer int64, a boolean booleans. OverflowError where the
    dtype does not hold the value.
    """
    if dtype is None:
        dtype = value.dtype if hasattr(value, "dtype") else from_python(value, None).dtype
    return _filled("full", _shape("full", [shape]), value, np.dtype(dtype), options)


def zeros(*shape: Any, dtype: Any = None, **options: Any) -> Tensor:
    """Return a tensor of zeros, float32 if no dtype is given: zeros(2, 3) or zeros((2, 3))."""
    lengths, dtype = _shape_and_dtype("zeros", shape, dtype)
    return Tensor(np.zeros(lengths, dtype), **options)


def ones(*shape: Any, dtype: Any = None, **options: Any) -> Tensor:
    """Return a tensor of ones, float32 if no dtype is given: ones(2, 3) or ones((2, 3))."""
    lengths, dtype = _shape_and_dtype("ones", shape, dtype)
    return Tensor(np.ones(lengths, dtype), **options)


def empty(*shape: Any, dtype: Any = None, **options: Any) -> Tensor:
    """Return a tensor of any content, to be written to: empty(2, 3) or empty((2, 3))."""
    lengths, dtype = _shape_and_dtype("empty", shape, dtype)
    return Tensor(np.empty(lengths, dtype), **options)


def zeros_like(like: Tensor, dtype: Any = None, **options: Any) -> Tensor:
    """Return zeros of the same shape and, if no other is given, dtype and device."""
    return full_like(like, 0, dtype, **options)


def ones_like(like: Tensor, dtype: Any = None, **options: Any) -> Tensor:
    """Return ones of the same shape and, if no other is given, dtype and device."""
    return full_like(like, 1, dtype, **options)


def full_like(like: Tensor, value: Any, dtype: Any = None, **options: Any) -> Tensor:
    """Return a tensor filled with `value`, of the same shape and, if not given, dtype and device.

    OverflowError where the dtype does not hold the value.
    """
    dtype = like.dtype if dtype is None else np.dtype(dtype)
    options.setdefault("device", like.device)
    return _filled("full_like", like.shape, value, dtype, options)


def empty_like(like: Tensor, dtype: Any = None, **options: Any) -> Tensor:
    """Return a tensor of any content, of the same shape and, if not given, dtype and device."""
    options.setdefault("device", like.device)
    return Tensor(np.empty(like.shape, like.dtype if dtype is None else dtype), **options)


def eye(
    rows: int, columns: int | None = None, k: int = 0, dtype: Any = None, **options: Any
) -> Tensor:
    """Return a matrix of zeros with ones on its k-th diagonal, float32 if no dtype is given."""
    return Tensor(np.eye(rows, columns, k, dtype=_or_default(dtype)), **options)


@spelled(stop="end", num="steps")
@quiet
def linspace(
    start: float,
    stop: float,
    num: int = 50,
    endpoint: bool = True,
    dtype: Any = None,
    **options: Any,
) -> Tensor:
    """Return `num` elements at equal distances from start to stop, which belongs to them or not."""
    if num < 0:
        raise ValueError(f"linspace: {shorten(num)} numbers, expected at least 0")
    start, stop = _number(start), _number(stop)
    for end in (start, stop):
        check_fits("linspace", end, _or_default(dtype))
    return Tensor(np.linspace(start, stop, num, endpoint, dtype=_or_default(dtype)), **options)


@spelled(stop="end")
def arange(
    *bounds: float,
    start: float | None = None,
    stop: float | None = None,
    step: float | None = None,
    dtype: Any = None,
    **options: Any,
) -> Tensor:
    """Return start, start + step, ... up to and without stop; integers give int64.

    arange(stop) begins at 0, arange(start, stop) and arange(start, stop, step) say more, by
    position or by name. OverflowError where the dtype does not hold them, TypeError where a bound
    is given twice, or no stop.
    """
    names = ("stop",) if len(bounds) == 1 and stop is None else ("start", "stop", "step")
    given = [("start", start), ("stop", stop), ("step", step)]
    positions = dict(zip(names, bounds, strict=False))
    twice = [name for name, each in given if each is not None and name in positions]
    found = {**positions, **{name: each for name, each in given if each is not None}}
    if twice or len(bounds) > len(names) or "stop" not in found:
        raise TypeError(
            f"arange: {len(bounds)} bound(s) by position, and by name "
            f"{[name for name, each in given if each is not None]}; expected stop, or start and "
            "stop, or start, stop and step, each once"
        )
    bounds = tuple(_number(found.get(name, default)) for name, default in BOUNDS)
    if dtype is None:
        whole = all(isinstance(each, int | np.integer) for each in bounds)
        dtype = np.int64 if whole else DEFAULT_DTYPE
    values = np.arange(*bounds)
    for each in (*values[:1], *values[-1:]):
        check_fits("arange", each.item(), np.dtype(dtype))
    return Tensor(values, dtype, **options)


# Random numbers: of the generator's stream `sampling`, so that they do not change what layers begin
# with. See random.manual_seed.


def rand(
    *shape: Any, dtype: Any = None, generator: Generator | None = None, **options: Any
) -> Tensor:
    """Return numbers uniform in [0, 1), float32 if no dtype is given."""
    found, dtype = _shape_and_dtype("rand", shape, dtype)
    values = _stream(generator).uniform(0, 1, found, _drawn("rand", dtype))
    return Tensor(_rounded_below_one(values, dtype), **options)


def randn(
    *shape: Any, dtype: Any = None, generator: Generator | None = None, **options: Any
) -> Tensor:
    """Return numbers of the standard normal distribution, float32 if no dtype is given."""
    found, dtype = _shape_and_dtype("randn", shape, dtype)
    values = _stream(generator).normal(0, 1, found, _drawn("randn", dtype))
    return Tensor(values.astype(dtype), **options)


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    dtype: Any = np.int64,
    *,
    generator: Generator | None = None,
    **options: Any,
) -> Tensor:
    """Return integers uniform in [low, high), of the shape `size`, one if there is none.

    As in NumPy randint(high) begins at 0, and as in PyTorch so does randint(high, (2, 3)).

    Raises
    ------
    ValueError
        There is no integer in [low, high), or the dtype does not hold them all.
    """
    if isinstance(high, tuple | list):
        if size is not None:
            raise TypeError(f"randint: high={high!r}, expected an integer")
        high, size = None, high
    if high is None:
        low, high = 0, low
    dtype = np.dtype(dtype)
    if dtype.kind not in "iu" or low < np.iinfo(dtype).min or high - 1 > np.iinfo(dtype).max:
        raise ValueError(
            f"randint: {dtype} does not hold the integers from {shorten(low)} to "
            f"{shorten(high - 1)}"
        )
    if high <= low:
        raise ValueError(f"randint: no integer from {shorten(low)} on below {shorten(high)}")
    found = () if size is None else _shape("randint", [size])
    values = _stream(generator).integers(low, high, found)
    return Tensor(np.asarray(values).astype(dtype), **options)


def randperm(n: int, *, generator: Generator | None = None, **options: Any) -> Tensor:
    """Return the integers from 0 to n - 1 in random order, int64."""
    draws = _stream(generator).uniform(0, 1, (n,), np.float64)
    return Tensor(np.argsort(draws, kind="stable"), **options)


def rand_like(like: Tensor, dtype: Any = None, **options: Any) -> Tensor:
    """Return `rand` of the same shape and, if no other is given, dtype and device."""
    options.setdefault("device", like.device)
    return rand(like.shape, dtype=like.dtype if dtype is None else dtype, **options)


def randn_like(like: Tensor, dtype: Any = None, **options: Any) -> Tensor:
    """Return `randn` of the same shape and, if no other is given, dtype and device."""
    options.setdefault("device", like.device)
    return randn(like.shape, dtype=like.dtype if dtype is None else dtype, **options)


def _number(value: Any) -> Any:
    """Return a number, taken out of a tensor or an array of one element."""
    return value.item() if hasattr(value, "item") else value


@quiet
def _filled(
    name: str, shape: tuple[int, ...], value: Any, dtype: np.dtype, options: dict[str, Any]
) -> Tensor:
    number = _number(value)
    check_fits(name, number, dtype)
    return Tensor(np.full(shape, number, dtype), **options)


def _stream(generator: Generator | None) -> Stream:
    return (default_generator() if generator is None else generator).sampling


def _drawn(name: str, dtype: np.dtype) -> np.dtype:
    """Return the dtype that numbers are drawn in, to be rounded to another."""
    if not is_floating(dtype):
        raise TypeError(f"{name}: dtype {dtype}, expected one of floats")
    return dtype if dtype.itemsize == 8 else DEFAULT_DTYPE


def _rounded_below_one(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the values in a dtype that may have fewer digits, cut off so that none becomes 1."""
    if dtype.itemsize >= 4:
        return values.astype(dtype)
    digits = 8 if dtype.name == "bfloat16" else 11
    return (np.floor(values * 2.0**digits) / 2.0**digits).astype(dtype)


def _or_default(dtype: Any) -> np.dtype:
    return DEFAULT_DTYPE if dtype is None else np.dtype(dtype)


def _shape(name: str, arguments: Sequence[Any]) -> tuple[int, ...]:
    """Return (2, 3) for both f(2, 3) and f((2, 3)); an error names what is no shape."""
    try:
        found = lengths(arguments)
    except TypeError:
        raise TypeError(f"{name}: shape {arguments!r}, expected integers") from None
    if min(found, default=0) < 0:
        raise ValueError(f"{name}: shape {shorten(found)}, expected lengths of at least 0")
    return found


def _shape_and_dtype(
    name: str, arguments: Sequence[Any], dtype: Any
) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape, and the dtype: NumPy takes it after a shape, as in zeros((2, 3), "f8")."""
    if len(arguments) == 2 and isinstance(arguments[1], type | str | np.dtype | None):
        if dtype is not None:
            raise TypeError(f"{name}: dtypes {arguments[1]!r} and {dtype!r}; give one of them")
        arguments, dtype = arguments[:1], arguments[1]
    return _shape(name, arguments), _or_default(dtype)
