"""The whole GPT beside one written with PyTorch's own layers.

Where a tolerance is not given by the task, it is derived: both are computed in float32 and
compared with PyTorch in float64, and ours may be a small multiple as far off as PyTorch's.
Over several steps rounding grows by luck; so PyTorch's error is then the largest of several
runs whose initial weights differ by rounding.
"""

import math

import numpy as np
import pytest

from tinygrad_char.models.gpt import GPT, GPTConfig
from tinygrad_char.optim import AdamW, decay_groups, warmup_cosine
from tinygrad_char.random import Generator

torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install -e '.[parity]'")

TIMES_TORCH = 4
"""How many times as far from float64 as PyTorch's own float32 result ours may be."""

ROUNDING = float(np.finfo(np.float32).eps)

DOUBLE = 1e-13
"""Relative disagreement allowed in float64: a thousand roundings."""

SHAPES = {
    "tiny": (65, 4, 8, GPTConfig(8, 3, 4, 32)),
    "small": (65, 2, 64, GPTConfig(64, 4, 4, 128, bias=False, tied=True)),
    "ragged": (7, 3, 5, GPTConfig(5, 1, 3, 33, activation="gelu")),
    "ragged, tied": (31, 5, 13, GPTConfig(17, 2, 1, 31, activation="gelu_tanh", tied=True)),
    "ragged, no bias": (127, 1, 33, GPTConfig(33, 2, 5, 35, activation="gelu", bias=False)),
    "one character of context": (2, 3, 1, GPTConfig(1, 2, 2, 6, activation="gelu_tanh")),
    "shorter than block_size": (11, 2, 3, GPTConfig(9, 2, 2, 8, bias=False)),
}
cases = pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES)


class TorchBlock(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        width, bias = config.n_embd, config.bias
        self.heads = config.n_head
        self.attention_norm = torch.nn.LayerNorm(width, bias=bias)
        self.qkv = torch.nn.Linear(width, 3 * width, bias=False)
        self.projection = torch.nn.Linear(width, width, bias=bias)
        self.feed_forward_norm = torch.nn.LayerNorm(width, bias=bias)
        self.expand = torch.nn.Linear(width, 4 * width, bias=bias)
        self.activation = {
            "relu": torch.nn.ReLU(),
            "gelu": torch.nn.GELU(),
            "gelu_tanh": torch.nn.GELU(approximate="tanh"),
        }[config.activation]
        self.contract = torch.nn.Linear(4 * width, width, bias=bias)

    def attend(self, x):
        batch, time, width = x.shape
        size = width // self.heads
        q, k, v = (
            part.view(batch, time, self.heads, size).transpose(1, 2)
            for part in self.qkv(x).split(width, dim=2)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(size)
        future = torch.ones(time, time, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
        joined = (weights @ v).transpose(1, 2).reshape(batch, time, width)
        return self.projection(joined)

    def forward(self, x):
        x = x + self.attend(self.attention_norm(x))
        return x + self.contract(self.activation(self.expand(self.feed_forward_norm(x))))


class TorchGPT(torch.nn.Module):
    def __init__(self, config, vocab_size):
        super().__init__()
        self.token_embedding = torch.nn.Embedding(vocab_size, config.n_embd)
        self.position_embedding = torch.nn.Embedding(config.block_size, config.n_embd)
        self.blocks = torch.nn.ModuleList(TorchBlock(config) for _ in range(config.n_layer))
        self.norm = torch.nn.LayerNorm(config.n_embd, bias=config.bias)
        self.head = torch.nn.Linear(config.n_embd, vocab_size, bias=config.bias and not config.tied)
        if config.tied:
            self.head.weight = self.token_embedding.weight

    def forward(self, idx, targets):
        x = self.token_embedding(idx) + self.position_embedding(torch.arange(idx.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def torch_name(name):
    return name.replace(".attention.", ".").replace(".feed_forward.", ".")


def make_ours(config, vocab_size, dtype):
    """Return our model, with norms, biases and attention far from where they start."""
    model = GPT(config, vocab_size, generator=Generator(0))
    rng = np.random.default_rng(1)
    for parameter in model.parameters():
        noise = rng.normal(0, 0.1, parameter.shape).astype(np.float32)
        parameter.data = parameter.detach().numpy() + noise
    return model.astype(dtype)


def make_theirs(config, vocab_size, dtype):
    """Return PyTorch's model with the same weights."""
    model = TorchGPT(config, vocab_size).to(dtype)
    theirs = dict(model.named_parameters())
    ours = {
        torch_name(name): parameter.detach().numpy()
        for name, parameter in make_ours(config, vocab_size, "float32").named_parameters()
    }
    assert theirs.keys() == ours.keys()
    with torch.no_grad():
        for name, parameter in theirs.items():
            parameter.copy_(torch.tensor(ours[name]))
    return model


def make_batch(vocab_size, batch, time, seed=2):
    return np.random.default_rng(seed).integers(0, vocab_size, (2, batch, time))


def run_ours(case, dtype):
    """Return logits, loss, and gradients under PyTorch's names."""
    vocab_size, batch, time, config = case
    model = make_ours(config, vocab_size, dtype)
    logits, loss = model(*make_batch(vocab_size, batch, time))
    loss.backward()
    grads = {torch_name(name): each.grad.numpy() for name, each in model.named_parameters()}
    return logits.detach().numpy(), loss.item(), grads


def run_theirs(case, dtype):
    vocab_size, batch, time, config = case
    model = make_theirs(config, vocab_size, dtype)
    logits, loss = model(*map(torch.tensor, make_batch(vocab_size, batch, time)))
    loss.backward()
    grads = {name: each.grad.numpy() for name, each in model.named_parameters()}
    return logits.detach().numpy(), loss.item(), grads


def distance(a, b):
    """Return the relative distance of a from b."""
    return np.linalg.norm(a.astype(np.float64) - b) / max(np.linalg.norm(b), 1e-300)


@cases
def test_logits_and_loss_are_the_same(case):
    logits, loss, _ = run_ours(case, "float32")
    expected_logits, expected_loss, _ = run_theirs(case, torch.float32)
    assert logits.dtype == np.float32
    assert np.abs(logits - expected_logits).max() <= 1e-5
    assert abs(loss - expected_loss) <= 1e-5


@cases
def test_every_gradient_is_the_same_in_float64(case):
    logits, loss, grads = run_ours(case, "float64")
    expected_logits, expected_loss, expected = run_theirs(case, torch.float64)
    assert distance(logits, expected_logits) < DOUBLE
    assert abs(loss - expected_loss) < DOUBLE * expected_loss
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        assert distance(grad, expected[name]) < DOUBLE, name


@cases
def test_every_gradient_is_as_exact_as_pytorch_s_in_float32(case):
    _, _, grads = run_ours(case, "float32")
    _, _, theirs = run_theirs(case, torch.float32)
    _, _, exact = run_theirs(case, torch.float64)
    assert grads.keys() == exact.keys()
    for name, grad in grads.items():
        allowed = TIMES_TORCH * max(distance(theirs[name], exact[name]), ROUNDING)
        assert grad.dtype == np.float32
        assert distance(grad, exact[name]) <= allowed, name


STEPS = 10
PEAK, WARMUP, TOTAL, FLOOR = 1e-2, 3, 12, 1e-3
BETAS, DECAY, CLIP = (0.9, 0.99), 0.1, 0.5


def rate(step):
    """Return the learning rate, written down once more from its definition."""
    if step < WARMUP:
        return PEAK * (step + 1) / (WARMUP + 1)
    share = (1 + math.cos(math.pi * (step - WARMUP) / (TOTAL - WARMUP))) / 2
    return FLOOR + (PEAK - FLOOR) * share


def train_ours(case, dtype):
    """Return the losses and the gradient's norms of ten steps, and the last weights."""
    vocab_size, batch, time, config = case
    model = make_ours(config, vocab_size, dtype)
    optimizer = AdamW(decay_groups(model.parameters(), DECAY), lr=PEAK, betas=BETAS)
    schedule = warmup_cosine(PEAK, WARMUP, TOTAL, FLOOR)
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.set_lr(schedule(step))
        optimizer.zero_grad()
        _, loss = model(*make_batch(vocab_size, batch, time, seed=step))
        loss.backward()
        norms.append(optimizer.step(max_norm=CLIP))
        losses.append(loss.item())
    weights = {torch_name(n): each.detach().numpy() for n, each in model.named_parameters()}
    return np.array(losses), np.array(norms), weights


def train_theirs(case, dtype, rounding_seed=None):
    vocab_size, batch, time, config = case
    model = make_theirs(config, vocab_size, dtype)
    parameters = list(model.parameters())
    if rounding_seed is not None:
        torch.manual_seed(rounding_seed)
        with torch.no_grad():
            for each in parameters:
                each.mul_(1 + ROUNDING * (2 * torch.rand_like(each) - 1))
    groups = [
        {"params": [each for each in parameters if each.dim() >= 2], "weight_decay": DECAY},
        {"params": [each for each in parameters if each.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=BETAS)
    losses, norms = [], []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.zero_grad()
        _, loss = model(*map(torch.tensor, make_batch(vocab_size, batch, time, seed=step)))
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, CLIP).item())
        optimizer.step()
        losses.append(loss.item())
    weights = {name: each.detach().numpy() for name, each in model.named_parameters()}
    return np.array(losses), np.array(norms), weights


@cases
def test_ten_steps_of_training_are_the_same_in_float64(case):
    losses, norms, weights = train_ours(case, "float64")
    expected_losses, expected_norms, expected = train_theirs(case, torch.float64)
    # A hundred times DOUBLE: Adam divides by the root of a squared gradient, so that the rounding
    # of one step comes back larger in the next.
    assert np.abs(losses / expected_losses - 1).max() < 100 * DOUBLE
    assert np.abs(norms / expected_norms - 1).max() < 100 * DOUBLE
    for name, weight in weights.items():
        assert distance(weight, expected[name]) < 100 * DOUBLE, name


@cases
def test_ten_steps_of_training_are_as_exact_as_pytorch_s_in_float32(case):
    ours = train_ours(case, "float32")
    exact = train_theirs(case, torch.float64)
    theirs = [train_theirs(case, torch.float32, seed) for seed in range(5)]
    for what in (0, 1):  # losses, norms
        errors = [np.abs(each[what] / exact[what] - 1).max() for each in theirs]
        allowed = TIMES_TORCH * max(*errors, ROUNDING)
        assert np.abs(ours[what] / exact[what] - 1).max() <= allowed


@cases
def test_the_compared_runs_are_clipped_and_move_every_weight(case):
    vocab_size, _, _, config = case
    _, norms, weights = train_ours(case, "float64")
    assert norms.max() > CLIP
    for name, each in make_ours(config, vocab_size, "float64").named_parameters():
        assert distance(weights[torch_name(name)], each.detach().numpy()) > 1e-3, name
