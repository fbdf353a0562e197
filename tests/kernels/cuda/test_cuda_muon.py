"""Muon in CUDA, its products by cuBLAS's stand-in, against its reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import assert_precise, draw
from served import served

from tinygrad_char.kernels import muon as reference_muon
from tinygrad_char.kernels.cuda.cublas import Products
from tinygrad_char.kernels.cuda_on_cpu.numpy_cublas import NumpyCublas

RULE = reference_muon.Rule()
RATES = reference_muon.Rates(lr=0.1, weight_decay=0.5)
PRODUCTS = Products(NumpyCublas(lambda action: action()), lambda: None)
SIDES = st.sampled_from([1, 2, 3, 5, 31, 33, 65])


def state(size, start, seed):
    """Return p, g and m of `size`, which begin `start` elements into their buffers."""
    return [each[start:] for each in draw(np.random.default_rng(seed), (3, start + size))]


def updated(update, arrays, *rest):
    """Return p and m after an update."""
    parameter, grad, exp_avg = (each.copy() for each in arrays)
    update(parameter, grad, exp_avg, *rest)
    return parameter, exp_avg


@settings(deadline=None, max_examples=30)
@given(SIDES, SIDES, st.integers(0, 5), st.booleans(), st.integers(1, 3), st.integers(0, 9))
def test_an_update_is_its_reference(launcher, rows, columns, start, nesterov, count, seed):
    size = rows * columns
    arrays, mine = state(count * (size + 1), start, seed), state(count * (size + 1), start, seed)
    starts = np.arange(count)[::-1] * (size + 1)  # not in order, and not always aligned
    matrices = reference_muon.Matrices(starts, (rows, columns))
    rest = matrices, RULE._replace(nesterov=nesterov), RATES._replace(grad_scale=0.25)
    served("muon", launcher, PRODUCTS).update(*mine, *rest)
    # the largest slope of the steps, which stretches rounding in two ways
    assert_precise(
        (mine[0], mine[2]),
        lambda *each: updated(reference_muon.update, each, *rest),
        arrays,
        units=1250,
    )


@pytest.mark.parametrize("shape", [(4, 7, 33), (3, 33, 7), (2, 130, 130), (0, 3, 4), (2, 0, 3)])
def test_orthogonalizing_is_its_reference(launcher, products, shape):
    x = draw(np.random.default_rng(0), shape)
    found = served("muon", launcher, products).orthogonalize(x, 3)
    assert_precise(found, lambda x: reference_muon.orthogonalize(x, 3), [x], units=1250)


def test_arrays_in_double_precision_are_the_references(launcher, products):
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    kernel = served("muon", launcher, products)
    expected = reference_muon.orthogonalize(x, 3)
    np.testing.assert_array_equal(kernel.orthogonalize(x, 3), expected)
    arrays = [each.astype(np.float64) for each in state(12, 0, 0)]
    rest = reference_muon.Matrices(np.array([0]), (3, 4)), RULE, RATES
    mine = updated(kernel.update, arrays, *rest)
    theirs = updated(reference_muon.update, arrays, *rest)
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("norm", [0.5, 3.0, np.nan, np.inf])
def test_a_recorded_update_has_the_bits_of_one_that_is_not(launcher, products, norm):
    kernel, counter = served("muon", launcher, products), served("adamw", launcher)
    mine, theirs = state(300, 1, 0), state(300, 1, 0)
    count, lr, factors = np.zeros(1, np.int64), np.full(1, 0.1), np.full(5, np.nan, np.float32)
    rule = {"betas": (0.0, 0.0), "eps": 0.0, "weight_decay": 0.5, "decoupled": True}
    counter.count_step(count, lr, np.array(norm), factors, 1.0, rule)
    matrices = reference_muon.Matrices(np.array([0, 200]), (10, 9))
    kernel.update_recorded(*mine, matrices, RULE, factors)
    if np.isfinite(norm):
        scale = min(1.0, 1.0 / (norm + 1e-6))
        kernel.update(*theirs, matrices, RULE, RATES._replace(grad_scale=scale))
    np.testing.assert_array_equal(mine, theirs)
    assert count[0] == np.isfinite(norm)


def test_products_are_never_of_rounded_operands(launcher, products):
    x = draw(np.random.default_rng(0), (2, 9, 9))
    exact = served("muon", launcher, products).orthogonalize(x, 3)
    rounding = served("muon", launcher, products, tf32=True).orthogonalize(x, 3)
    np.testing.assert_array_equal(exact, rounding)


def test_zeros_stay_zeros_and_nan_stays_in_its_matrix(launcher, products):
    x = draw(np.random.default_rng(0), (3, 5, 4))
    x[0], x[1, 0, 0] = 0, np.nan
    kernel = served("muon", launcher, products)
    found = kernel.orthogonalize(x, 3)
    assert (found[0] == 0).all()
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[2], kernel.orthogonalize(x[2:], 3)[0])


def test_check_mode_finds_nothing(checking_launcher, products):
    kernel = served("muon", checking_launcher, products)
    for rows, columns, start in ((33, 10, 0), (7, 9, 3)):
        arrays, starts = state(2 * rows * columns, start, 0), np.array([rows * columns, 0])
        matrices = reference_muon.Matrices(starts, (rows, columns))
        kernel.update(*arrays, matrices, RULE, RATES)
        kernel.orthogonalize(arrays[0].reshape(2, rows, columns), 3)
