"""PyTorch's streams beside PyTorch itself: any calls in any order give its numbers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import torch_heads

from tinygrad_char import functional as F
from tinygrad_char import nn
from tinygrad_char.kernels.attention import reference as attention
from tinygrad_char.tensor import Tensor
from tinygrad_char.torch_random import TorchGenerator

torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install -e '.[parity]'")

FUSED = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
"""Whether PyTorch fuses products and sums, and has the polynomials that are followed here."""

ROUNDING = 0.0 if FUSED else math.sqrt(48 * math.log(2)) * 2 * math.pi * 2.0**-23
"""Else: a normal number errs by the rounding of its angle, below 2 pi, times its largest radius."""


def ours_dropout(g, shape):
    return F.dropout(Tensor(np.ones(shape, np.float32)), 0.2, g.dropout_key()).numpy()


def ours_linear(g, shape):
    layer = nn.Linear(shape[-1] or 1, len(shape) + 1, generator=g)
    return np.concatenate([layer.weight.detach().numpy().ravel(), layer.bias.detach().numpy()])


def theirs_linear(shape):
    layer = torch.nn.Linear(shape[-1] or 1, len(shape) + 1)
    return torch.cat([layer.weight.detach().ravel(), layer.bias.detach()])


def rows(shape):
    """Return probabilities (rows, classes) that differ."""
    classes = shape[-1] or 1
    return np.arange(1, 3 * classes + 1, dtype=np.float32).reshape(3, classes)


CALLS = {
    "randint": (
        lambda g, shape: g.integers(-7, 1000, shape),
        lambda shape: torch.randint(-7, 1000, shape),
    ),
    "randint just below two words": (
        lambda g, shape: g.integers(0, (1 << 28) - 1, shape),
        lambda shape: torch.randint(0, (1 << 28) - 1, shape),
    ),
    "randint of two words": (
        lambda g, shape: g.integers(5, 5 + (1 << 28), shape),
        lambda shape: torch.randint(5, 5 + (1 << 28), shape),
    ),
    "randint of all integers": (
        lambda g, shape: g.integers(-(1 << 63), (1 << 63) - 1, shape),
        lambda shape: torch.randint(-(1 << 63), (1 << 63) - 1, shape),
    ),
    "rand": (lambda g, shape: g.rand(shape), torch.rand),
    "rand float64": (
        lambda g, shape: g.rand(shape, np.float64),
        lambda shape: torch.rand(shape, dtype=torch.float64),
    ),
    "uniform": (
        lambda g, shape: g.uniform(-0.3, 1.7, shape),
        lambda shape: torch.empty(shape).uniform_(-0.3, 1.7),
    ),
    "randn": (lambda g, shape: g.randn(shape), torch.randn),
    "normal": (
        lambda g, shape: g.normal(0.7, 0.3, shape),
        lambda shape: torch.empty(shape).normal_(0.7, 0.3),
    ),
    "scaled normal": (
        lambda g, shape: g.normal(0, 0.02, shape),
        lambda shape: torch.empty(shape).normal_(0, 0.02),
    ),
    "moved normal": (
        lambda g, shape: g.normal(-3, 1, shape),
        lambda shape: torch.empty(shape).normal_(-3, 1),
    ),
    "randn float64": (
        lambda g, shape: g.randn(shape, np.float64),
        lambda shape: torch.randn(shape, dtype=torch.float64),
    ),
    "normal float64": (
        lambda g, shape: g.normal(0.7, 0.3, shape, np.float64),
        lambda shape: torch.empty(shape, dtype=torch.float64).normal_(0.7, 0.3),
    ),
    "exponential": (
        lambda g, shape: g.exponential(shape),
        lambda shape: torch.empty(shape).exponential_(),
    ),
    "exponential with a rate": (
        lambda g, shape: g.exponential(shape, 1.7),
        lambda shape: torch.empty(shape).exponential_(1.7),
    ),
    "multinomial": (
        lambda g, shape: g.multinomial(rows(shape)),
        lambda shape: torch.multinomial(torch.tensor(rows(shape)), 1)[:, 0],
    ),
    "bernoulli": (
        lambda g, shape: g.bernoulli(0.3, shape),
        lambda shape: torch.empty(shape).bernoulli_(0.3),
    ),
    "dropout": (
        ours_dropout,
        lambda shape: torch.nn.functional.dropout(torch.ones(shape), 0.2),
    ),
    "linear layer": (ours_linear, theirs_linear),
    "embedding": (
        lambda g, shape: nn.Embedding(5, shape[-1] or 1, generator=g).weight.detach().numpy(),
        lambda shape: torch.nn.Embedding(5, shape[-1] or 1).weight.detach(),
    ),
}
NORMAL = ["randn", "normal", "scaled normal", "moved normal"]
ROUNDED = {*NORMAL, "normal float64", "uniform", "linear layer", "embedding"}
SHAPES = [(0,), (1,), (15,), (16,), (17,), (31,), (32,), (33,), (2, 3, 7), (4, 0, 5), (1, 1)]
seeds = st.integers(0, 2**64 - 1) | st.integers(0, 2**32 - 1)


def assert_same_bits(ours, theirs, close=0.0):
    ours = np.asarray(ours)
    theirs = theirs.numpy()
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    if close:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=close)
    else:
        assert ours.tobytes() == theirs.tobytes()


def assert_same_position(generator):
    """Assert that both would go on with the same words, and the same second normal number."""
    assert_same_bits(generator.rand(3), torch.rand(3))
    assert_same_bits(generator.randn(1), torch.randn(1))


@settings(deadline=None, max_examples=200)
@given(
    seed=seeds,
    calls=st.lists(
        st.tuples(st.sampled_from(sorted(CALLS)), st.sampled_from(SHAPES)), min_size=1, max_size=10
    ),
)
def test_any_calls_in_any_order(seed, calls):
    generator = TorchGenerator(seed)
    torch.manual_seed(seed)
    for name, shape in calls:
        ours, theirs = CALLS[name]
        assert_same_bits(ours(generator, shape), theirs(shape), ROUNDING * (name in ROUNDED))
    assert_same_position(generator)


@pytest.mark.parametrize("name", [*NORMAL, "uniform", "exponential", "bernoulli", "randn float64"])
def test_many_numbers(name):
    shape = (300_007,) if name in NORMAL else (40_003,)
    generator = TorchGenerator(11)
    torch.manual_seed(11)
    ours, theirs = CALLS[name]
    assert_same_bits(ours(generator, shape), theirs(shape), ROUNDING * (name in ROUNDED))
    assert_same_position(generator)


def test_choices_with_impossible_ones():
    p = np.random.default_rng(0).random((500, 9)).astype(np.float32)
    p[p < 0.3] = 0
    p[:, 4] = 1e-30
    generator = TorchGenerator(3)
    torch.manual_seed(3)
    assert_same_bits(generator.multinomial(p), torch.multinomial(torch.tensor(p), 1)[:, 0])
    assert_same_position(generator)


def values_and_cotangent(shape, dtype):
    rng = np.random.default_rng(7)
    return rng.standard_normal((2, *shape)).astype(dtype)


@settings(deadline=None, max_examples=60)
@given(
    seed=seeds,
    shape=st.sampled_from([*SHAPES, (3, 5, 33)]),
    dtype=st.sampled_from(["float32", "float64"]),
    p=st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.7, 1.0]) | st.floats(0, 1),
    module=st.booleans(),
)
def test_dropout_and_its_gradient(seed, shape, dtype, p, module):
    x, cotangent = values_and_cotangent(shape, dtype)
    generator = TorchGenerator(seed)
    torch.manual_seed(seed)
    ours = Tensor(x.copy(), requires_grad=True)
    theirs = torch.tensor(x, requires_grad=True)
    if module:
        y = nn.Dropout(p, generator=generator)(ours)
        expected = torch.nn.Dropout(p)(theirs)
    else:
        y = F.dropout(ours, p, generator.dropout_key())
        expected = torch.nn.functional.dropout(theirs, p)
    # + 0, since a negative number that is dropped is 0 here and -0.0 in PyTorch
    assert_same_bits(y.detach().numpy(), expected.detach() + 0)
    (y * Tensor(cotangent)).sum().backward()
    (expected * torch.tensor(cotangent)).sum().backward()
    assert_same_bits(ours.grad.numpy(), theirs.grad + 0)
    assert_same_position(generator)


def test_dropout_in_evaluation_draws_nothing():
    x = np.ones((4, 8), np.float32)
    generator = TorchGenerator(2)
    torch.manual_seed(2)
    layer = nn.Dropout(0.5, generator=generator).eval()
    assert_same_bits(layer(Tensor(x)).numpy(), torch.nn.Dropout(0.5).eval()(torch.tensor(x)))
    assert_same_position(generator)


class TorchAttention(torch.nn.Module):
    """Causal attention of all heads at once, with dropout of weights and of the result."""

    def __init__(self, n_embd, n_head, p):
        super().__init__()
        self.qkv = torch.nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.projection = torch.nn.Linear(n_embd, n_embd)
        self.n_head, self.p = n_head, p

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = torch_heads(self.qkv(x), self.n_head)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.n_head)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
        weights = torch.nn.functional.dropout(weights, self.p, self.training)
        y = (weights @ v).transpose(1, 2).reshape(batch, length, width)
        return torch.nn.functional.dropout(self.projection(y), self.p, self.training)


@pytest.mark.parametrize("block", [1, 300, 1 << 18])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_attention_with_dropout(monkeypatch, block, training, p):
    monkeypatch.setattr(attention, "BLOCK", block)
    x, cotangent = values_and_cotangent((5, 6, 8), "float32")
    generator = TorchGenerator(21)
    torch.manual_seed(21)
    ours = nn.CausalSelfAttention(8, 2, dropout=p, generator=generator).train(training)
    theirs = TorchAttention(8, 2, p).train(training)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_same_bits(mine.detach().numpy(), other.detach(), ROUNDING)
    left, right = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, expected = ours(left), theirs(right)
    (y * Tensor(cotangent)).sum().backward()
    (expected * torch.tensor(cotangent)).sum().backward()
    # Some roundings of numbers around 1, of which a weight's gradient adds 30 up. A mask that
    # differs is off by far more.
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=0, atol=2e-6)
    np.testing.assert_allclose(left.grad.numpy(), right.grad.numpy(), rtol=0, atol=2e-6)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=0, atol=2e-5)
    assert_same_position(generator)
