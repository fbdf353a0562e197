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


class ProductsOfAnyPrecision:
    """Tests of `multiply`, in each of the ways that the fixture `way` has them computed.

    `assert_near` compares with float64, and `depth` is that of several blocks.
    """

    @transposed
    def test_several_blocks_of_columns(self, way, transposed):
        rng = np.random.default_rng(0)
        a = rng.standard_normal((9, self.depth), dtype=np.float32)
        b = rng.standard_normal((self.depth, 3105), dtype=np.float32)
        self.assert_near(self.multiply(a, b, *transposed), a, b)

    @transposed
    def test_nothing_to_sum(self, way, transposed):
        a, b, onto = np.ones((5, 0)), np.ones((0, 3)), np.ones((5, 3))
        a, b, onto = (each.astype(np.float32) for each in (a, b, onto))
        assert (self.multiply(a, b, *transposed) == 0).all()
        assert (self.multiply(a, b, *transposed, onto) == 1).all()
        assert self.multiply(b, a, *transposed).shape == (0, 0)

    @transposed
    def test_nan_and_infinity_go_where_numpy_has_them(self, way, transposed):
        rng = np.random.default_rng(1)
        a = rng.standard_normal((35, 70), dtype=np.float32)
        b = rng.standard_normal((70, 67), dtype=np.float32)
        a[3, 5], a[34, 69], a[20, 0], b[7, 66], b[69, 64] = np.inf, np.nan, -np.inf, np.inf, np.nan
        b[0, 2] = b[5, 33] = 0  # an infinity times zero is no number
        with np.errstate(invalid="ignore"):
            expected = a @ b
        c = self.multiply(a, b, *transposed)
        np.testing.assert_array_equal(np.isnan(c), np.isnan(expected))
        infinite = np.isinf(expected)
        np.testing.assert_array_equal(c[infinite], expected[infinite])
        assert np.isfinite(c[np.isfinite(expected)]).all()

    @transposed
    @pytest.mark.parametrize("rows", [1, 16, 17, 24, 25, 129])
    def test_the_number_of_threads_changes_no_bit(self, way, rows, transposed):
        rng = np.random.default_rng(3)
        a = rng.standard_normal((rows, self.depth), dtype=np.float32)
        b = rng.standard_normal((self.depth, 65), dtype=np.float32)
        alone, shared = (self.multiply(a, b, *transposed, threads=threads) for threads in (1, 3))
        assert alone.tobytes() == shared.tobytes()
