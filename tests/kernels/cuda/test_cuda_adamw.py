"""AdamW in CUDA against its reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import assert_precise, draw
from served import served

from tinygrad_char.kernels import adamw as reference_adamw
from tinygrad_char.kernels.adamw import FACTORS, Rule

OPTIONS = {"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
SIZES = st.sampled_from([1, 2, 3, 5, 127, 1000, 1024, 1025, 4099])


def state(size, start, seed):
    """Return p, g, m and v of `size`, which begin `start` elements into their buffers."""
    rng = np.random.default_rng(seed)
    parameter, grad, exp_avg, exp_avg_sq = draw(rng, (4, start + size))
    return [each[start:] for each in (parameter, grad, exp_avg, exp_avg_sq**2)]


def updated(update, arrays, **options):
    """Return p, m and v after an update."""
    parameter, grad, exp_avg, exp_avg_sq = (each.copy() for each in arrays)
    update(parameter, grad, exp_avg, exp_avg_sq, **options)
    return parameter, exp_avg, exp_avg_sq


@settings(deadline=None, max_examples=30)
@given(SIZES, st.integers(0, 5), st.booleans(), st.sampled_from([1.0, 0.25]), st.integers(1, 9))
def test_adamw_is_its_reference(launcher, size, start, decoupled, grad_scale, step):
    options = dict(OPTIONS, step=step, lr=0.01, decoupled=decoupled, grad_scale=grad_scale)
    arrays = state(size, start, step)
    mine = state(size, start, step)  # not copies, so as to begin where they do
    served("adamw", launcher).update(*mine, **options)
    assert_precise(
        (mine[0], *mine[2:]), lambda *each: updated(reference_adamw.update, each, **options), arrays
    )
    np.testing.assert_array_equal(mine[1], arrays[1])


@pytest.mark.parametrize("decoupled", [True, False])
def test_recorded_steps_are_the_reference_with_clipping(launcher, decoupled):
    kernel = served("adamw", launcher)
    mine, theirs = state(1000, 0, 0), [each.astype(np.float64) for each in state(1000, 0, 0)]
    count, lr = np.zeros(1, np.int64), np.zeros(1)
    factors = np.full(FACTORS, np.nan, np.float32)
    rule = Rule(betas=OPTIONS["betas"], eps=1e-8, weight_decay=0.1, decoupled=decoupled)
    for step in range(1, 6):
        lr[0] = 0.01 * step
        norm = served("global_norm", launcher).forward(mine[1])
        clipped = norm if step > 2 else None
        kernel.count_step(count, lr, clipped, factors, 1.0, rule)
        kernel.update_recorded(*mine, factors, rule)
        scale = min(1.0, 1.0 / (float(norm) + 1e-6)) if step > 2 else 1.0
        reference_adamw.update(*theirs, step=step, lr=lr[0], grad_scale=scale, **rule)
    assert count[0] == 5
    for each, exact in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(each, exact, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [np.nan, np.inf])
def test_recorded_step_of_gradients_that_are_not_finite_does_nothing(launcher, norm):
    kernel, mine, before = served("adamw", launcher), state(100, 0, 0), state(100, 0, 0)
    count, lr = np.full(1, 3, np.int64), np.full(1, 0.1)
    factors = np.zeros(FACTORS, np.float32)
    rule = Rule(betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, decoupled=True)
    norm = np.full((), norm)
    kernel.count_step(count, lr, norm, factors, 1.0, rule)
    kernel.update_recorded(*mine, factors, rule)
    assert count[0] == 3
    for one, other in zip(mine, before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_adamw_in_double_precision_is_the_reference(launcher):
    arrays = [np.ones(3) for _ in range(4)]
    options = dict(OPTIONS, step=1, lr=0.1, decoupled=True)
    mine = updated(served("adamw", launcher).update, arrays, **options)
    for one, other in zip(mine, updated(reference_adamw.update, arrays, **options), strict=True):
        np.testing.assert_array_equal(one, other)


def test_check_mode_finds_nothing(checking_launcher):
    kernel, rule = served("adamw", checking_launcher), Rule(**OPTIONS, decoupled=True)
    for size, start in ((1000, 0), (1001, 3)):
        kernel.update(*state(size, start, 0), step=1, lr=0.1, **rule)
    count, lr, norm = np.zeros(1, np.int64), np.ones(1), np.array(5001**0.5)
    factors = np.zeros(FACTORS, np.float32)
    kernel.count_step(count, lr, norm, factors, 1.0, rule)
    kernel.update_recorded(*state(1000, 0, 0), factors, rule)
    assert count == 1
