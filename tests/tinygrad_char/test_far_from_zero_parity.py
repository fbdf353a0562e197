"""Losses and attention of logits and scores near 1000, on each device, against PyTorch in float64.

Inputs are such that scores are exact in float32; errors are a few of its roundings, as near zero.
"""

import numpy as np
import pytest

from tinygrad_char import Tensor
from tinygrad_char import functional as F
from tinygrad_char.random import Generator
from tinygrad_char.repeated import RepeatedLoss

torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch")

UNIT = 2.0**-24
OFFSETS = [0.0, 1e3, -1e3, 1e4]


def compare(device, function, theirs, arrays, grad):
    """Return the largest errors of the result and of each gradient, on the scale of the largest."""
    mine = [Tensor(each, device=device, requires_grad=True) for each in arrays]
    exact = [torch.tensor(each.astype(np.float64), requires_grad=True) for each in arrays]
    y, truth = function(*mine), theirs(*exact)
    y.backward(Tensor(np.asarray(grad, np.float32), device=device))
    truth.backward(torch.tensor(np.asarray(grad, np.float32), dtype=torch.float64))
    pairs = [
        (y.detach(), truth.detach()),
        *((m.grad, e.grad) for m, e in zip(mine, exact, strict=True)),
    ]
    errors = []
    for one, other in pairs:
        difference = np.abs(one.cpu().numpy().astype(np.float64) - other.numpy())
        errors.append(difference.max() / max(1, np.abs(other.numpy()).max()))
    return errors


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_cross_entropy(device, offset, reduction):
    rng = np.random.default_rng(0)
    logits = (offset + 2 * rng.standard_normal((40, 65))).astype(np.float32)
    logits[3, :2] = logits[3].max() + 1  # a tie
    logits[4, 5:] = -np.inf
    targets = rng.integers(0, 5, 40)
    targets[::7] = -100
    grad = rng.standard_normal(40 if reduction == "none" else ())
    errors = compare(
        device,
        lambda x: F.cross_entropy(x, targets, reduction),
        lambda x: torch.nn.functional.cross_entropy(x, torch.tensor(targets), reduction=reduction),
        [logits],
        grad,
    )
    assert max(errors) <= 8 * UNIT


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(device, offset, name):
    rng = np.random.default_rng(0)
    x = (offset + 2 * rng.standard_normal((40, 65))).astype(np.float32)
    function, theirs = getattr(F, name), getattr(torch.nn.functional, name)
    errors = compare(
        device, function, lambda x: theirs(x, dim=-1), [x], rng.standard_normal(x.shape)
    )
    assert max(errors) <= 16 * UNIT


def attended(q, k, v, causal, scale):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("length", [2, 8, 70])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention(device, offset, length, scale, causal, masked):
    """Each query is a unit vector, so that its scores are numbers of k."""
    rng = np.random.default_rng(length)
    q = np.zeros((2, 2, length, 8), np.float32)
    q[..., np.arange(length), rng.integers(0, 8, length)] = 1
    k = (offset + 2 * rng.standard_normal(q.shape)).astype(np.float32)
    v, grad = rng.standard_normal((2, *q.shape)).astype(np.float32)
    mask = Tensor(np.ones((length, length), bool), device=device) if masked else None
    errors = compare(
        device,
        lambda q, k, v: F.attention(q, k, v, causal=causal, scale=scale, attn_mask=mask),
        lambda q, k, v: attended(q, k, v, causal, scale),
        [q, k, v],
        grad,
    )
    # dq is what k is multiplied by, whose sum of zero has the rounding of its terms: offset times
    assert max(errors[:1] + errors[2:]) <= 32 * UNIT
    assert errors[1] <= 32 * UNIT * (1 + abs(offset))


@pytest.mark.parametrize("length", [2, 8, 70])
def test_self_attention_of_a_constant_cotangent(device, length):
    """A sum's gradient is one number seen everywhere: no kernel reads it as it is."""
    qkv = np.full((1, length, 3 * 16), 1e15, np.float32)
    qkv[..., 32:] = 1
    leaf = Tensor(qkv, device=device, requires_grad=True)
    F.self_attention(leaf, 2, causal=False, scale=0.3).sum().backward()
    grad = leaf.grad.cpu().numpy()
    assert (grad[..., :32] == 0).all()
    np.testing.assert_allclose(grad[..., 32:], 1, rtol=1e-6)


@pytest.mark.parametrize("shifted", ["scores", "logits"])
def test_loss_that_is_traced_and_recorded(shifted):
    """A shift of scores or of logits changes no bit of what is repeated."""
    rng = np.random.default_rng(0)
    table = rng.integers(-8, 8, (11, 3 * 16)).astype(np.float32) / 8
    table[:, 7:16:8] = 1  # the last channel of both heads: ones in q, the shift in k
    batches = [tuple(rng.integers(0, 11, (2, 3, 5))) for _ in range(5)]
    results = []
    for shift in (0, 1024):
        if shifted == "scores":
            table[:, 23:32:8] = shift
        leaf = Tensor(table if shifted == "scores" else table + shift, requires_grad=True)

        def loss(batch, leaf=leaf):
            x = F.embedding(batch[0], leaf)
            return F.cross_entropy(F.self_attention(x, 2) if shifted == "scores" else x, batch[1])

        traced = RepeatedLoss(loss, [leaf], Generator(0).dropout)
        found = [traced.gradients(each, 1.0) for each in batches]
        assert traced.reason is None
        results.append([(each, np.delete(grads[0], (7, 15), axis=1)) for each, grads in found])
    for (one, grad), (other, same) in zip(*results, strict=True):
        assert one == other
        np.testing.assert_array_equal(grad, same)
