"""Muon's update against a plain one in float64, by singular values and by the formula of steps."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels import muon
from tinygrad_char.kernels.backend import status
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.muon import bench, coefficients, reference

SIDES = st.sampled_from([1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 47, 64, 65, 97])
WIDEST = 1 << 40
RULE = muon.Rule()
slow = settings(deadline=None, max_examples=40)


@pytest.fixture(params=[4, 8, 16])
def lanes(request):
    """Have products in C computed with registers of so many numbers."""
    if compiled is None:
        pytest.skip(status())
    if compiled.muon_choose_lanes(request.param) != request.param:
        pytest.skip(f"this processor has no registers of {request.param} numbers")
    yield request.param
    compiled.muon_choose_lanes(WIDEST)


def plain(x, ns_steps):
    """Return the steps as they are written down: each multiplies x, in float64."""
    x = x.astype(np.float64)
    x = x / np.linalg.norm(x)
    for a, b, c in muon.COEFFICIENTS[ns_steps]:
        square = x @ x.T
        x = a * x + b * square @ x + c * square @ square @ x
    return x


def allowed(x, ns_steps=3):
    """Return how far rounding may take a result: four roundings of what is stretched the most.

    A value s becomes f(s), by the product f(s) / s of polynomials in G, which has s^2. So an error
    of s is stretched by f'(s), and one of G by s d(f(s) / s) / d(s^2) = (s f'(s) - f(s)) / (2 s^2).
    """
    s = np.geomspace(1e-4, 1, 100_001)
    f = coefficients.values_after(muon.COEFFICIENTS[ns_steps], s)
    slope = np.gradient(f, s)
    stretched = max(abs(slope).max(), abs((s * slope - f) / (2 * s * s))[s > 1e-3].max())
    return 4 * stretched * np.finfo(x.dtype).eps


def assert_right(x, ns_steps=3):
    found = muon.orthogonalize(x, ns_steps)
    assert found.dtype == x.dtype
    assert found.shape == x.shape
    expected = np.array([plain(each, ns_steps) for each in x])
    assert abs(found - expected).max() <= allowed(x, ns_steps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ns_steps", muon.COEFFICIENTS)
@slow
@given(rows=SIDES, columns=SIDES, seed=st.integers(0, 99))
def test_it_is_the_steps_as_they_are_written(dtype, ns_steps, rows, columns, seed):
    x = np.random.default_rng(seed).standard_normal((2, rows, columns)).astype(dtype)
    assert_right(x, ns_steps)


@pytest.mark.parametrize("shape", [(1, 1), (3, 65), (65, 3), (33, 40), (97, 96), (20, 800)])
def test_each_width_of_registers(lanes, shape):
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    assert_right(x)


@pytest.mark.parametrize("shape", [(400, 410), (410, 400), (30, 900)])
def test_sums_that_are_longer_than_a_block(shape):
    x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    assert_right(x)


@pytest.mark.parametrize("ns_steps", muon.COEFFICIENTS)
@slow
@given(rows=SIDES, columns=SIDES, seed=st.integers(0, 99))
def test_singular_values_end_in_the_band_that_is_stated(ns_steps, rows, columns, seed):
    lowest = coefficients.LOWEST[ns_steps]
    found = coefficients.deviation(muon.COEFFICIENTS[ns_steps], lowest)
    rng, small = np.random.default_rng(seed), min(rows, columns)
    left, _ = np.linalg.qr(rng.standard_normal((rows, small)))
    right, _ = np.linalg.qr(rng.standard_normal((columns, small)))
    values = 10 ** rng.uniform(-rng.uniform(0, 4), 0, small)
    x = ((left * values) @ right.T)[None].astype(np.float32)
    after = np.linalg.svd(muon.orthogonalize(x, ns_steps)[0], compute_uv=False)
    inside = sum(values / np.linalg.norm(values) > 1.001 * lowest)  # others are below all of them
    assert abs(after[:inside] - 1).max() <= found + allowed(x, ns_steps)
    assert after.max() <= 1 + found + allowed(x, ns_steps)


def test_coefficients_are_those_that_are_derived():
    assert list(muon.COEFFICIENTS) == list(coefficients.LOWEST)
    for steps, lowest in coefficients.LOWEST.items():
        derived = coefficients.derived(steps, lowest)
        np.testing.assert_allclose(muon.COEFFICIENTS[steps], derived, atol=1.01e-4)


def test_no_other_quintic_is_nearer_to_one():
    (a, b, c), least = coefficients.fit(0.02, 1.0)
    values = np.linspace(0.02, 1, 20_001)
    assert abs(1 - coefficients.values_after([(a, b, c)], values)).max() == pytest.approx(least)
    rng = np.random.default_rng(0)
    for change in rng.standard_normal((200, 3)) * 10.0 ** rng.uniform(-4, 0, (200, 1)):
        other = tuple(np.array([a, b, c]) + change)
        assert abs(1 - coefficients.values_after([other], values)).max() > least * (1 - 1e-6)


def test_the_deviations_of_the_page(capsys):
    coefficients.main()
    printed = capsys.readouterr().out
    for steps, lowest in coefficients.LOWEST.items():
        found = coefficients.deviation(muon.COEFFICIENTS[steps], lowest)
        assert f"{steps} steps, singular values from {lowest} to 1: each within {found:.4f}" in (
            printed
        )
        growth = np.prod([a for a, _, _ in muon.COEFFICIENTS[steps]])
        page = Path(bench.__file__).with_name("README.md").read_text("utf-8")
        assert f"| {steps} | {lowest} | {found:.4f} | {growth:.0f} |" in page


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (5, 5)])
def test_zeros_stay_zeros_and_nan_stays_in_its_matrix(dtype, shape):
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(dtype)
    x[0] = 0
    x[1, 0, 0] = np.nan
    with np.errstate(invalid="ignore"):
        found = muon.orthogonalize(x, 3)
    assert (found[0] == 0).all()
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[2], muon.orthogonalize(x[2:], 3)[0])


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(np.float32, 1e-36), (np.float32, 1e37), (np.float64, 1e-290), (np.float64, 1e300)],
)
def test_the_size_of_a_gradient_makes_no_difference(dtype, scale):
    x = np.random.default_rng(0).standard_normal((2, 7, 20)).astype(dtype)
    expected = muon.orthogonalize(x, 3)
    found = muon.orthogonalize(x * dtype(scale), 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2 * allowed(x))


@pytest.mark.parametrize("shape", [(33, 20), (20, 33), (96, 96)])
def test_bits_of_a_matrix_do_not_depend_on_what_is_beside_it(shape):
    x = np.random.default_rng(0).standard_normal((7, *shape)).astype(np.float32)
    together = muon.orthogonalize(x, 3)
    for number, each in enumerate(x):
        np.testing.assert_array_equal(together[number], muon.orthogonalize(each[None], 3)[0])


@pytest.mark.skipif(compiled is None, reason=status())
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_bits_do_not_depend_on_threads(threads):
    x = np.random.default_rng(0).standard_normal((9, 33, 70)).astype(np.float32)
    table = np.array(muon.COEFFICIENTS[3])
    results = [np.empty_like(x), np.empty_like(x)]
    for count, result in zip((1, threads), results, strict=True):
        compiled.muon_orthogonalize(x, result, table, 9, 33, 70, 3, count)
    np.testing.assert_array_equal(*results)


@pytest.mark.skipif(compiled is None, reason=status())
@pytest.mark.parametrize("starts", [[-1], [5], [0, 1 << 62]])
def test_matrices_outside_of_the_buffers_are_refused(starts):
    p, g, m = np.zeros((3, 10), np.float32)
    table, starts = np.array(muon.COEFFICIENTS[3]), np.array(starts)
    with pytest.raises(MemoryError):
        compiled.muon_update(
            *(p, g, m, starts, table, 10, len(starts), 2, 3, 3, 1.0, 0.95, True, 1.0, 0.1, 1.0, 1)
        )


def state(seed=0, size=200, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((3, size)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(5, 8), (8, 5)])
def test_an_update_is_momentum_orthogonalized(dtype, nesterov, shape):
    p, g, m = state(dtype=dtype)
    before = p.copy(), m.copy()
    rule = muon.Rule(0.9, nesterov, 3)
    matrices, rates = muon.Matrices(np.array([10, 150]), shape), muon.Rates(0.1, 0.5, 0.25)
    muon.update(p, g, m, matrices, rule, rates)
    expected_m = before[1].astype(np.float64)
    expected_p = before[0].astype(np.float64)
    for start in (10, 150):
        part = slice(start, start + 40)
        expected_m[part] = 0.9 * expected_m[part] + 0.1 * 0.25 * g[part].astype(np.float64)
        u = expected_m[part]
        if nesterov:
            u = 0.9 * u + 0.1 * 0.25 * g[part]
        larger = max(1, shape[0] / shape[1]) ** 0.5
        step = plain(u.reshape(shape), 3).reshape(-1) * larger
        expected_p[part] = expected_p[part] * (1 - 0.1 * 0.5) - 0.1 * step
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(m, expected_m, rtol=0, atol=8 * eps)
    np.testing.assert_allclose(p, expected_p, rtol=0, atol=100 * eps)
    untouched = np.r_[0:10, 50:150, 190:200]
    np.testing.assert_array_equal(p[untouched], before[0][untouched])
    np.testing.assert_array_equal(m[untouched], before[1][untouched])


def test_a_scaled_gradient_is_the_same_as_a_smaller_one():
    results = []
    for factor in (1.0, 0.25):
        p, g, m = state()
        matrices = muon.Matrices(np.array([0]), (10, 20))
        rates = muon.Rates(0.1, grad_scale=factor)
        muon.update(p, g / np.float32(factor), m, matrices, RULE, rates)
        results.append((p, m))
    np.testing.assert_array_equal(*results)


def test_sixteen_bits_are_computed_in_float32():
    p, g, m = state(dtype=np.float16)
    m = m.astype(np.float32)
    wide = [each.astype(np.float32) for each in (p, g, m)]
    rest = muon.Matrices(np.array([0]), (10, 20)), RULE, muon.Rates(0.1, 0.1)
    muon.update(p, g, m, *rest)
    reference.update(*wide, *rest)
    np.testing.assert_array_equal(p, wide[0].astype(np.float16))
    np.testing.assert_array_equal(m, wide[2])


@pytest.mark.parametrize("active", [1.0, 0.0])
def test_a_recorded_update_reads_what_changes_from_factors(active):
    mine, theirs = state(), state()
    matrices = muon.Matrices(np.array([0, 100]), (10, 10))
    factors = np.array([0.5, 0.75, 1.0, 0.25, active], np.float32)
    muon.update_recorded(*mine, matrices, RULE, factors)
    if active:
        muon.update(*theirs, matrices, RULE, muon.Rates(0.25, 1.0, 0.5))
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 33, 20), (2, 20, 33), (1, 1, 9)])
def test_pytorch_computes_the_same_of_the_same_expression(torch, dtype, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    theirs = bench.torch_orthogonalize(torch, torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(muon.orthogonalize(x, 3), theirs, rtol=0, atol=2 * allowed(x))
