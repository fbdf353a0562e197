"""Embedding in CUDA against its reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import BF16, DTYPES, FLOAT, assert_precise, draw
from served import served

from tinygrad_char.kernels import embedding as reference_embedding
from tinygrad_char.kernels.cuda.launcher import Launcher
from tinygrad_char.kernels.cuda_on_cpu.runner import CpuExecutor
from tinygrad_char.kernels.embedding import cuda as cuda_embedding


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([(0,), (1,), (7,), (3, 43), (2, 300)]),
    st.sampled_from([1, 2, 31, 33, 65, 100]),
    st.sampled_from([1, 7, 32, 128, 130, 384]),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.integers(0, 1000),
)
def test_embedding_is_its_reference(launcher, shape, rows, columns, dtype, atomics, seed):
    rng = np.random.default_rng(seed)
    idx = rng.integers(0, rows, shape)
    weight, grad = draw(rng, (rows, columns), dtype), draw(rng, (*shape, columns), dtype)
    kernel = served("embedding", launcher, atomics=atomics)
    out = kernel.forward(idx, weight)
    np.testing.assert_array_equal(out, reference_embedding.forward(idx, weight))
    dweight = kernel.backward(grad, idx, rows)
    assert dweight.dtype == dtype
    assert_precise(dweight, reference_embedding.backward, (grad, idx, rows), units=16)


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([(0, 3), (1, 1), (3, 43), (5, 64)]),
    st.integers(1, 3),
    st.sampled_from([1, 7, 32, 130, 384]),
    st.sampled_from([(FLOAT, FLOAT), (FLOAT, BF16), (BF16, BF16)]),
    st.integers(0, 1000),
)
def test_addend_is_added_before_the_sum_is_rounded(launcher, shape, axes, columns, dtypes, seed):
    rng = np.random.default_rng(seed)
    table, dtype = dtypes
    whole = (*shape, columns)
    idx, weight = rng.integers(0, 65, shape), draw(rng, (65, columns), table)
    addend, grad = draw(rng, whole[-axes:], table), draw(rng, whole, dtype)
    for atomics in (False, True):
        kernel = served("embedding", launcher, atomics=atomics)
        y = kernel.forward(idx, weight, addend, dtype)
        exact = weight.astype(np.float32)[idx] + addend.astype(np.float32)
        np.testing.assert_array_equal(y, exact.astype(dtype))
        assert y.dtype == dtype
        dweight = kernel.backward(grad, idx, 65, table)
        assert dweight.dtype == table
        assert_precise(dweight, reference_embedding.backward, (grad, idx, 65), units=16)
        daddend = kernel.backward_addend(grad, addend.shape, table)
        assert daddend.dtype == table
        assert_precise(daddend, reference_embedding.backward_addend, (grad, addend.shape), units=16)


@pytest.mark.parametrize("most", [1, 8, 1024])
def test_sum_in_one_part_or_in_several(launcher, monkeypatch, most):
    monkeypatch.setattr(cuda_embedding, "MOST_BLOCKS", most)
    rng = np.random.default_rng(0)
    idx, grad = rng.integers(0, 40, 1000).astype(np.int32), draw(rng, (1000, 5))
    kernel = served("embedding", launcher)
    dweight = kernel.backward(grad, idx, 40)
    assert_precise(dweight, reference_embedding.backward, (grad, idx, 40))
    np.testing.assert_array_equal(dweight, kernel.backward(grad, idx, 40))


def test_order_of_blocks_changes_the_sums_of_atomic_additions_alone():
    rng = np.random.default_rng(0)
    idx, grad = rng.integers(0, 3, 900), draw(rng, (900, 33))
    for atomics in (False, True):
        first, other = (
            served("embedding", Launcher(CpuExecutor(order=order)), atomics=atomics).backward(
                grad, idx, 3
            )
            for order in ("forward", "reverse")
        )
        assert np.array_equal(first, other) == (not atomics)
        assert_precise(other, reference_embedding.backward, (grad, idx, 3), units=16)


def test_index_that_is_no_row_raises_or_gives_nan(launcher):
    weight, idx = np.ones((3, 4), np.float32), np.array([2, 3, -1])
    with pytest.raises(IndexError, match=r"index at position \(1,\) is 3"):
        served("embedding", launcher).forward(idx, weight)
    out = served("embedding", launcher, check=False).forward(idx, weight)
    assert np.isnan(out).all(axis=1).tolist() == [False, True, True]
    grad = np.ones((3, 4), np.float32)
    for atomics in (False, True):
        dweight = served("embedding", launcher, atomics=atomics).backward(grad, idx, 3)
        assert (dweight.sum(axis=1) == [0, 0, 4]).all()


def test_double_precision_is_the_references(launcher):
    weight = np.eye(3)
    idx = np.array([1, 1])
    kernel = served("embedding", launcher)
    assert kernel.forward(idx, weight).dtype == np.float64
    assert kernel.backward(weight[:2], idx, 3).dtype == np.float64
    assert kernel.backward_addend(weight[:2], (3,)).dtype == np.float64


@pytest.mark.parametrize("dtype", DTYPES)
def test_check_mode_finds_nothing(checking_launcher, dtype):
    rng = np.random.default_rng(0)
    idx, kernel = rng.integers(0, 40, 300), served("embedding", checking_launcher)
    for columns in (130, 264):
        weight, addend = draw(rng, (40, columns)), draw(rng, (60, columns))
        grad = draw(rng, (300, columns), dtype)
        kernel.forward(idx.reshape(5, 60), weight, addend, dtype)
        for atomics in (False, True):
            kernel.atomics = atomics
            kernel.backward(grad, idx, 40, FLOAT)
        kernel.backward_addend(grad, (60, columns), FLOAT)
