"""Matrix products by cuBLAS against their reference; its stand-in computes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from served import served

from tinygrad_char.kernels import matmul
from tinygrad_char.kernels.cuda.cublas import Products
from tinygrad_char.kernels.cuda_on_cpu.numpy_cublas import NumpyCublas


@settings(deadline=None, max_examples=60)
@given(
    a=st.sampled_from([(4,), (3, 4), (2, 3, 4), (2, 1, 3, 4)]),
    b=st.sampled_from([(4,), (4, 5), (2, 4, 5), (1, 2, 4, 5)]),
    seed=st.integers(0, 9),
)
def test_matmul_is_its_reference(a, b, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-9, 9, shape).astype(np.float32) for shape in (a, b))
    ours = served("matmul", None, Products(NumpyCublas(lambda action: action()), lambda: None))
    y = ours.forward(a, b)
    np.testing.assert_array_equal(y, matmul.forward(a, b))  # integers, so sums are exact
    grad = rng.integers(-9, 9, y.shape).astype(np.float32)
    expected = matmul.backward(grad, a, b, (True, True))
    for mine, theirs in zip(ours.backward(grad, a, b, (True, True)), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert ours.backward(grad, a, b, (False, True))[0] is None
    assert ours.backward(grad, a, b, (True, False))[1] is None


def test_other_dtypes_are_the_references(products):
    a = np.ones((2, 2))
    kernel = served("matmul", None, products)
    assert kernel.forward(a, a).dtype == np.float64
    assert kernel.backward(a, a, a, (True, True))[0].dtype == np.float64
