"""One step of Adam and AdamW against PyTorch's, from the same state.

PyTorch fuses multiply-adds and rounds its square root differently. So a moment may be off by one
rounding of what it was added up from, and the parameter inherits that in its update.
"""

import numpy as np
import pytest

from tinygrad_char.kernels import adamw

SIZES = (1, 31, 1023, adamw.CHUNK, adamw.CHUNK + 1)
STEPS = 4


def gradients(rng, size, dtype):
    return (rng.standard_normal(size) * 10.0 ** rng.integers(-6, 2, size)).astype(dtype)


@pytest.mark.parametrize("decoupled", [True, False], ids=["AdamW", "Adam"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adam_step_is_pytorchs(torch, decoupled, weight_decay, size, dtype):
    rng = np.random.default_rng(size)
    leaf = torch.tensor(rng.standard_normal(size).astype(dtype), requires_grad=True)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    options = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": weight_decay}
    optimizer = kind([leaf], **options, foreach=False)
    p, m, v = leaf.detach().numpy().copy(), np.zeros(size, dtype), np.zeros(size, dtype)
    tiny, eps = np.finfo(dtype).tiny, np.finfo(dtype).eps
    for step in range(1, STEPS + 1):
        grad = gradients(rng, size, dtype)
        leaf.grad = torch.tensor(grad)
        old_p = p.copy()
        size_p, size_m, size_g = np.abs(p), np.abs(m), np.abs(grad)
        optimizer.step()
        adamw.update(p, grad, m, v, step=step, decoupled=decoupled, **options)
        state = optimizer.state[leaf]
        new_p, new_m, new_v = (
            each.detach().numpy() for each in (leaf, state["exp_avg"], state["exp_avg_sq"])
        )

        rounding_g = 0
        if not decoupled:
            size_g = size_g + dtype(weight_decay) * size_p
            rounding_g = np.spacing(size_g)
        rounding_m = np.spacing(size_m + size_g) + rounding_g
        rounding_v = np.spacing(new_v) + 2 * size_g * rounding_g
        relative = rounding_m / (np.abs(new_m) + tiny) + rounding_v / (new_v + tiny) + 4 * eps
        update = np.abs(new_p - old_p)
        rounding_p = 2 * np.spacing(size_p + update) + update * relative
        assert (np.abs(m - new_m) <= rounding_m).all()
        assert (np.abs(v - new_v) <= rounding_v).all()
        assert (np.abs(p - new_p) <= rounding_p).all()
        p[...], m[...], v[...] = new_p, new_m, new_v  # each step starts from one state


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_scaled_gradient_is_the_same_as_a_smaller_one(decoupled, decay):
    rng = np.random.default_rng(1)
    start = rng.standard_normal((3, 65))
    start[2] **= 2
    grad = rng.standard_normal(65)
    options = {"betas": (0.9, 0.99), "eps": 1e-8, "decoupled": decoupled, "weight_decay": decay}
    results = []
    for factor in (1.0, 0.25):
        p, m, v = start.copy()
        adamw.update(p, grad / factor, m, v, step=3, lr=0.1, **options, grad_scale=factor)
        results.append((p, m, v))
    assert not np.array_equal(results[0][0], start[0])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("decoupled", [True, False])
def test_gradient_is_left_alone(decoupled):
    grad, p, m, v = np.ones((4, 5))
    options = {"betas": (0.9, 0.9), "eps": 0.1, "decoupled": decoupled, "weight_decay": 0.5}
    adamw.update(p, grad, m, v, step=2, lr=0.1, **options)
    assert (grad == 1).all()
