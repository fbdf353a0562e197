"""One step of SGD against PyTorch's, from the same state.

PyTorch fuses multiply-adds, so results may be off by one rounding of what they were added up from.
"""

import numpy as np
import pytest

from tinygrad_char.kernels import sgd

STEPS = 4


def gradients(rng, size, dtype):
    return (rng.standard_normal(size) * 10.0 ** rng.integers(-6, 2, size)).astype(dtype)


@pytest.mark.parametrize(
    ("momentum", "nesterov", "weight_decay"),
    [(0.0, False, 0.0), (0.0, False, 0.1), (0.9, False, 0.0), (0.9, True, 0.0), (0.9, True, 0.1)],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sgd_step_is_pytorchs(torch, momentum, nesterov, weight_decay, dtype):
    rng = np.random.default_rng(0)
    leaf = torch.tensor(rng.standard_normal(1023).astype(dtype), requires_grad=True)
    options = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    optimizer = torch.optim.SGD([leaf], lr=0.1, **options, foreach=False)
    p = leaf.detach().numpy().copy()
    velocity = np.zeros_like(p) if momentum else None
    for step in range(1, STEPS + 1):
        grad = gradients(rng, 1023, dtype)
        leaf.grad = torch.tensor(grad)
        size_g = np.abs(grad) + dtype(weight_decay) * np.abs(p)
        size_u = size_g if velocity is None else size_g + np.abs(velocity)
        size_p = np.abs(p) + size_u
        optimizer.step()
        sgd.update(p, grad, velocity, step=step, lr=0.1, **options)
        new_p = leaf.detach().numpy()
        assert (np.abs(p - new_p) <= 2 * np.spacing(size_p)).all()
        p[...] = new_p
        if velocity is not None:
            new_velocity = optimizer.state[leaf]["momentum_buffer"].numpy()
            assert (np.abs(velocity - new_velocity) <= 2 * np.spacing(size_u)).all()
            velocity[...] = new_velocity


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_scaled_gradient_is_the_same_as_a_smaller_one(nesterov, decay):
    rng = np.random.default_rng(1)
    start, grad = rng.standard_normal((2, 65)), rng.standard_normal(65)
    options = {"step": 3, "lr": 0.1, "momentum": 0.9, "weight_decay": decay, "nesterov": nesterov}
    results = []
    for factor in (1.0, 0.25):
        p, u = start.copy()
        sgd.update(p, grad / factor, u, **options, grad_scale=factor)
        results.append((p, u))
    assert not np.array_equal(results[0][0], start[0])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("step", [1, 2])
def test_gradient_is_left_alone(nesterov, step):
    grad, p, u = np.ones((3, 5))
    options = {"momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.5}
    sgd.update(p, grad, u, step=step, lr=0.1, **options)
    assert (grad == 1).all()
    assert (p < 1).all()
