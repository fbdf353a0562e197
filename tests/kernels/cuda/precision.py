"""How far the result of a CUDA kernel may be from the truth: about as far as its reference."""

import ml_dtypes
import numpy as np

BF16 = np.dtype(ml_dtypes.bfloat16)
FLOAT = np.dtype(np.float32)
DTYPES = (FLOAT, BF16)


def draw(rng, shape, dtype=FLOAT):
    return rng.standard_normal(shape, dtype=np.float32).astype(dtype)


def results_of(function, *arguments):
    """Return what the reference gives in float32 and, as the truth, in float64."""
    return [_flat(function(*_converted(arguments, dtype))) for dtype in (np.float32, np.float64)]


def _converted(arguments, dtype):
    return [
        each.astype(dtype) if getattr(each, "dtype", None) in DTYPES else each for each in arguments
    ]


def _flat(results):
    results = results if isinstance(results, tuple) else (results,)
    return [None if each is None else np.asarray(each) for each in results]


def assert_precise(actual, reference, arguments, factor=4.0, units=4.0, sizes=()):
    """Assert that each result is about as near to the truth as the reference's.

    `reference` is called with `arguments` in float32 and in float64. The error may be `factor`
    times that of float32, and `units` roundings of the largest element besides, in the precision
    of `actual`. Of a sum that may cancel, `sizes` has what its terms add up to without their signs,
    which is what its roundings are relative to; None for other results.
    """
    single, truth = results_of(reference, *arguments)
    actual = _flat(actual)
    assert len(actual) == len(truth)
    sizes = sizes or [None] * len(truth)
    for mine, rounded, exact, size in zip(actual, single, truth, sizes, strict=True):
        assert (mine is None) == (exact is None)
        if mine is None:
            continue
        assert mine.shape == exact.shape
        if not mine.size:
            continue
        np.testing.assert_array_equal(np.isfinite(mine.astype(np.float32)), np.isfinite(exact))
        finite = np.isfinite(exact)
        exact = exact[finite]
        error = np.abs(mine.astype(np.float64)[finite] - exact).max(initial=0)
        own = np.abs(rounded.astype(np.float64)[finite] - exact).max(initial=0)
        unit = 2.0**-9 if mine.dtype == BF16 else 2.0**-24
        largest = np.abs(exact).max(initial=0) if size is None else np.max(size, initial=0)
        allowed = factor * own + units * unit * largest
        assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}, reference's {own:.3g}"
