"""What products of any precision are held to."""

import numpy as np
import pytest

transposed = pytest.mark.parametrize(
    "transposed", [(False, False), (False, True), (True, False), (True, True)]
)


def product_by(multiply):
    """Return a product (a, b, which are to lie transposed, onto) by `multiply(a, b, c, sizes)`.

    The sizes are rows, columns, depth, which operands lie transposed, and whether the product is
    added to a copy of `onto`.
    """

    def product(a, b, transpose_a=False, transpose_b=False, onto=None, threads=1):
        (rows, depth), columns = a.shape, b.shape[1]
        c = np.full((rows, columns), np.nan, np.float32) if onto is None else onto.copy()
        a = np.ascontiguousarray(a.T if transpose_a else a)
        b = np.ascontiguousarray(b.T if transpose_b else b)
        sizes = rows, columns, depth, transpose_a, transpose_b, onto is not None
        multiply(a, b, c, *sizes, threads)
        return c

    return product


def assert_nothing_to_sum(multiply, transposed):
    a, b, onto = np.ones((5, 0)), np.ones((0, 3)), np.ones((5, 3))
    a, b, onto = (each.astype(np.float32) for each in (a, b, onto))
    assert (multiply(a, b, *transposed) == 0).all()
    assert (multiply(a, b, *transposed, onto) == 1).all()
    assert multiply(b, a, *transposed).shape == (0, 0)


def assert_nan_and_infinity(multiply, transposed):
    rng = np.random.default_rng(1)
    a = rng.standard_normal((35, 70), dtype=np.float32)
    b = rng.standard_normal((70, 67), dtype=np.float32)
    a[3, 5], a[34, 69], a[20, 0], b[7, 66], b[69, 64] = np.inf, np.nan, -np.inf, np.inf, np.nan
    b[0, 2] = b[5, 33] = 0  # an infinity times zero is no number
    with np.errstate(invalid="ignore"):
        expected = a @ b
    c = multiply(a, b, *transposed)
    np.testing.assert_array_equal(np.isnan(c), np.isnan(expected))
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(c[infinite], expected[infinite])
    assert np.isfinite(c[np.isfinite(expected)]).all()
