"""The rungs of the ladder, and the scaled GPT, beside PyTorch as the lecture's notebooks write it.

Both start from one seed and draw the same weights. Results are compared in float64; in float32,
ours may be a small multiple as far from PyTorch's float64 as PyTorch's own float32.
"""

import numpy as np
import pytest
from test_ladder import batch, gpt_name, make, rungs

from tinygrad_char.models.gpt import GPT, GPTConfig
from tinygrad_char.models.ladder import LADDER
from tinygrad_char.random import Generator
from tinygrad_char.torch_random import TorchGenerator

torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install -e '.[parity]'")

DOUBLE = 1e-13
"""Relative disagreement allowed in float64: a thousand roundings."""

TIMES_TORCH = 4
"""How many times as far from float64 as PyTorch's own float32 result ours may be."""

FUSED = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


class Head(torch.nn.Module):
    def __init__(self, n_embd, size, block_size):
        super().__init__()
        self.key = torch.nn.Linear(n_embd, size, bias=False)
        self.query = torch.nn.Linear(n_embd, size, bias=False)
        self.value = torch.nn.Linear(n_embd, size, bias=False)
        self.register_buffer("tril", torch.tril(torch.ones(block_size, block_size)))

    def forward(self, x):
        time = x.shape[1]
        k, q = self.key(x), self.query(x)
        weights = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5
        weights = weights.masked_fill(self.tril[:time, :time] == 0, float("-inf"))
        return torch.nn.functional.softmax(weights, dim=-1) @ self.value(x)


class Heads(torch.nn.Module):
    def __init__(self, n_head, n_embd, size, block_size):
        super().__init__()
        self.heads = torch.nn.ModuleList(Head(n_embd, size, block_size) for _ in range(n_head))

    def forward(self, x):
        return torch.cat([head(x) for head in self.heads], dim=-1)


class Rung(torch.nn.Module):
    def __init__(self, vocab_size=65, n_embd=32, block_size=8):
        super().__init__()
        self.tokens = torch.nn.Embedding(vocab_size, n_embd)
        self.positions = torch.nn.Embedding(block_size, n_embd)

    def features(self, x):
        return self.attention(x)

    def forward(self, idx, targets):
        x = self.tokens(idx) + self.positions(torch.arange(idx.shape[1]))
        logits = self.head(self.features(x))
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Bigram(Rung):
    def __init__(self):
        torch.nn.Module.__init__(self)
        self.table = torch.nn.Embedding(65, 65)

    def forward(self, idx, targets):
        logits = self.table(idx)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class EmbeddingLinear(Rung):
    def __init__(self):
        torch.nn.Module.__init__(self)
        self.head = torch.nn.Linear(32, 65)
        self.tokens = torch.nn.Embedding(65, 32)

    def forward(self, idx, targets):
        logits = self.head(self.tokens(idx))
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class OneHead(Rung):
    heads, size = 1, 16

    def __init__(self):
        super().__init__()
        self.attention = Heads(self.heads, 32, self.size, 8)
        self.head = torch.nn.Linear(self.heads * self.size, 65)


class FourHeads(OneHead):
    heads, size = 4, 8


class FeedForward(Rung):
    def __init__(self):
        super().__init__()
        self.attention = Heads(4, 32, 8, 8)
        self.think = torch.nn.Linear(32, 32)
        self.head = torch.nn.Linear(32, 65)

    def features(self, x):
        return torch.relu(self.think(self.attention(x)))


class AttentionBlock(torch.nn.Module):
    def __init__(self, n_head, n_embd, block_size):
        super().__init__()
        self.attention = Heads(n_head, n_embd, n_embd // n_head, block_size)


class PlainBlock(AttentionBlock):
    def __init__(self, n_head, n_embd, block_size):
        super().__init__(n_head, n_embd, block_size)
        self.think = torch.nn.Linear(n_embd, n_embd)

    def forward(self, x):
        return torch.relu(self.think(self.attention(x)))


class ResidualBlock(AttentionBlock):
    def __init__(self, n_head, n_embd, block_size):
        super().__init__(n_head, n_embd, block_size)
        self.projection = torch.nn.Linear(n_embd, n_embd)
        self.expand = torch.nn.Linear(n_embd, 4 * n_embd)
        self.contract = torch.nn.Linear(4 * n_embd, n_embd)

    def forward(self, x):
        x = x + self.projection(self.attention(x))
        return x + self.contract(torch.relu(self.expand(x)))


class NormBlock(ResidualBlock):
    def __init__(self, n_head, n_embd, block_size):
        super().__init__(n_head, n_embd, block_size)
        self.attention_norm = torch.nn.LayerNorm(n_embd)
        self.feed_forward_norm = torch.nn.LayerNorm(n_embd)

    def forward(self, x):
        x = x + self.projection(self.attention(self.attention_norm(x)))
        return x + self.contract(torch.relu(self.expand(self.feed_forward_norm(x))))


class Blocks(Rung):
    block = PlainBlock

    def __init__(self, n_block=3, n_head=4, n_embd=32, vocab_size=65, block_size=8):
        super().__init__(vocab_size, n_embd, block_size)
        blocks = (type(self).block(n_head, n_embd, block_size) for _ in range(n_block))
        self.blocks = torch.nn.Sequential(*blocks)
        self.head = torch.nn.Linear(n_embd, vocab_size)

    def features(self, x):
        return self.blocks(x)


class Residual(Blocks):
    block = ResidualBlock


class Norm(Blocks):
    block = NormBlock

    def __init__(self, n_block=3, n_head=4, n_embd=32, vocab_size=65, block_size=8):
        super().__init__(n_block, n_head, n_embd, vocab_size, block_size)
        self.norm = torch.nn.LayerNorm(n_embd)

    def features(self, x):
        return self.norm(self.blocks(x))


RUNGS = (Bigram, EmbeddingLinear, OneHead, FourHeads, FeedForward, Blocks, Residual, Norm)
THEIRS = dict(zip(LADDER, RUNGS, strict=True))


def under_our_names(module, values):
    """Return what `values` gives for each parameter, the heads' put together as ours are."""
    result = {}
    for name, each in module.named_parameters():
        if ".heads." not in name:
            result[name] = values(each).numpy()
    for name, each in module.named_modules():
        if isinstance(each, Heads):
            parts = [
                values(getattr(head, which).weight)
                for which in ("query", "key", "value")
                for head in each.heads
            ]
            result[f"{name}.qkv"] = torch.cat(parts).numpy()
    return result


def weights(module):
    return under_our_names(module, lambda each: each.detach())


def gradients(module):
    return under_our_names(module, lambda each: each.grad)


def results_of_theirs(module, tokens, dtype):
    module = module.to(dtype)
    logits, loss = module(*map(torch.tensor, tokens))
    module.zero_grad()
    loss.backward()
    return {"logits": logits.detach().numpy(), "loss": loss.detach().numpy(), **gradients(module)}


def results_of_ours(model, tokens):
    logits, loss = model(*tokens)
    loss.backward()
    grads = {name: each.grad.numpy() for name, each in model.named_parameters()}
    return {"logits": logits.detach().numpy(), "loss": loss.detach().numpy(), **grads}


def distance(a, b):
    """Return the relative distance of a from b."""
    return np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b)


@rungs
@pytest.mark.parametrize("seed", [1337, 42, 2**40 + 3])
def test_weights_are_drawn_as_pytorch_draws_them(name, seed):
    torch.manual_seed(seed)
    theirs = weights(THEIRS[name]())
    after = torch.rand(4).numpy()
    generator = TorchGenerator(seed)
    model = make(name, generator)
    assert {each for each, _ in model.named_parameters()} == theirs.keys()
    for each, parameter in model.named_parameters():
        ours = parameter.detach().numpy()
        assert ours.dtype == np.float32
        if FUSED:
            assert ours.tobytes() == theirs[each].tobytes(), each
        else:
            np.testing.assert_allclose(ours, theirs[each], rtol=0, atol=5e-6)
    assert np.array_equal(generator.rand(4), after)


@rungs
def test_logits_loss_and_gradients(name):
    torch.manual_seed(1337)
    theirs = THEIRS[name]()
    exact = results_of_theirs(theirs, batch(), torch.float64)
    single = results_of_theirs(theirs, batch(), torch.float32)
    model = make(name)
    initial = weights(theirs)
    for each, parameter in model.named_parameters():
        parameter.data = initial[each]
    rounding = np.finfo(np.float32).eps
    for each, value in results_of_ours(model, batch()).items():
        allowed = TIMES_TORCH * max(distance(single[each], exact[each]), rounding)
        assert value.dtype == np.float32
        assert distance(value, exact[each]) <= allowed, each
    for each, value in results_of_ours(model.astype("float64"), batch()).items():
        assert distance(value, exact[each]) < DOUBLE, each


def test_the_scaled_gpt_is_the_lecture_s():
    sizes = {"n_block": 2, "n_head": 3, "n_embd": 48, "vocab_size": 31, "block_size": 20}
    torch.manual_seed(3)
    theirs = Norm(**sizes).to(torch.float64)
    with torch.no_grad():
        for each in theirs.parameters():
            each.add_(torch.randn_like(each) / 10)
    config = GPTConfig(20, 2, 3, 48, dropout=0.2)
    gpt = GPT(config, 31, generator=Generator(0)).astype("float64").eval()
    renamed = {gpt_name(name): value for name, value in weights(theirs).items()}
    assert renamed.keys() == {name for name, _ in gpt.named_parameters()}
    for name, parameter in gpt.named_parameters():
        parameter.data = renamed[name]
    tokens = batch(vocab_size=31, time=20)
    expected = results_of_theirs(theirs, tokens, torch.float64)
    ours = results_of_ours(gpt, tokens)
    for name, value in expected.items():
        assert distance(ours[gpt_name(name)], value) < DOUBLE, name
