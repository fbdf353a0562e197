"""Matrix products of any shapes: backward is the adjoint."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_char.kernels import matmul


@settings(deadline=None, max_examples=60)
@given(
    shapes=hnp.mutually_broadcastable_shapes(
        signature="(m?,k),(k,n?)->(m?,n?)", min_side=0, max_side=4
    ),
    seed=st.integers(0, 1000),
)
def test_matmul_backward_is_the_adjoint(shapes, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-9, 9, shape).astype(np.float64) for shape in shapes.input_shapes)
    y = matmul.forward(a, b)
    np.testing.assert_array_equal(y, np.matmul(a, b))
    grad = rng.integers(-9, 9, y.shape).astype(np.float64)
    da, db = matmul.backward(grad, a, b, (True, True))
    assert da.shape == a.shape
    assert db.shape == b.shape
    # integers, so every sum is exact: <dy, (a + e) b> - <dy, a b> = <da, e>
    e, f = (rng.integers(-9, 9, each.shape) for each in (a, b))
    assert (grad * np.matmul(e, b)).sum() == (da * e).sum()
    assert (grad * np.matmul(a, f)).sum() == (db * f).sum()
    assert matmul.backward(grad, a, b, (False, True))[0] is None
    assert matmul.backward(grad, a, b, (True, False))[1] is None
