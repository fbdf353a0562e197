"""From the bigram to the transformer in eight rungs, each adding one idea to the one before.

The rungs of the lecture "Let's build GPT" (A. Karpathy, 2023), and its sizes unless others are
given. Layers are made in the order in which the published runs made them, so that a
`TorchGenerator` draws the published initial weights. Every rung has the contract
`model(idx, targets=None) -> (logits, loss)` with idx and targets (B, T), logits (B, T, V).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_char import functional as F
from tinygrad_char.models.bigram import Bigram
from tinygrad_char.nn import Embedding, LayerNorm, Linear, Module, ModuleList, Parameter
from tinygrad_char.tensor import Tensor


@dataclass(frozen=True)
class Sizes:
    """The sizes of a rung."""

    block_size: int = 8
    """Characters of context (T)."""
    n_embd: int = 32
    """Channels (C)."""
    n_head: int = 4
    """Attention heads, where there are several."""
    n_block: int = 3
    """Blocks of the three upper rungs."""
    scale: float | None = None
    """What attention scores are multiplied by; None is 1 / sqrt(size of a head)."""


LECTURE = Sizes()


class Rung(Module):
    """What the rungs share: the loss, and the sum of token and position embeddings."""

    head: Linear

    def __init__(self, vocab_size: int, sizes: Sizes) -> None:
        super().__init__()
        self.vocab_size, self.block_size = vocab_size, sizes.block_size

    def embed(self, vocab_size: int, sizes: Sizes, generator: Any) -> None:
        """Make the embeddings of tokens and of positions."""
        self.tokens = Embedding(vocab_size, sizes.n_embd, generator=generator)
        self.positions = Embedding(sizes.block_size, sizes.n_embd, generator=generator)

    def embedded(self, idx: Any) -> Tensor:
        """Return token plus position embeddings (B, T, C)."""
        return self.tokens(idx, self.positions(np.arange(idx.shape[1])))

    def features(self, idx: Any) -> Tensor:
        """Return what the head reads: (B, T, features)."""
        raise NotImplementedError

    def forward(
        self, idx: Any, targets: Any = None, cache: None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits, and the mean loss if there are targets."""
        logits = self.head(self.features(idx))
        return logits, None if targets is None else F.cross_entropy(logits, targets)

    def new_cache(self) -> None:
        """Return no cache: every step reads its context again, as the published runs did."""
        return


class Heads(Module):
    """Causal self-attention heads side by side: (B, T, C) -> (B, T, heads * size).

    Each head's key, query and value matrices are drawn in this order, head after head, and kept
    in one matrix: all queries, then all keys, then all values.
    """

    def __init__(self, sizes: Sizes, heads: int, size: int, generator: Any) -> None:
        super().__init__()
        self.heads, self.width, self.scale = heads, heads * size, sizes.scale
        c = sizes.n_embd
        drawn = [
            [Linear(c, size, bias=False, generator=generator).weight.array for _ in range(3)]
            for _ in range(heads)
        ]
        key, query, value = zip(*drawn, strict=True)
        self.qkv = Parameter(np.concatenate([*query, *key, *value]))  # (3 * heads * size, C)

    def forward(self, x: Tensor) -> Tensor:
        """Return what each position attends to."""
        return F.self_attention(F.linear(x, self.qkv), self.heads, scale=self.scale)


def many_heads(sizes: Sizes, generator: Any) -> Heads:
    """Return the heads of a rung that has several: together as wide as the channels."""
    return Heads(sizes, sizes.n_head, sizes.n_embd // sizes.n_head, generator)


class EmbeddingLinear(Rung):
    """2. A token is first a vector, then a linear layer scores what follows."""

    def __init__(self, vocab_size: int, *, generator: Any, sizes: Sizes = LECTURE) -> None:
        super().__init__(vocab_size, sizes)
        self.head = Linear(sizes.n_embd, vocab_size, generator=generator)
        self.tokens = Embedding(vocab_size, sizes.n_embd, generator=generator)

    def features(self, idx: Any) -> Tensor:
        """Return the token's vector."""
        return self.tokens(idx)


class OneHead(Rung):
    """3. Positions get vectors too, and one attention head lets them communicate."""

    def __init__(self, vocab_size: int, *, generator: Any, sizes: Sizes = LECTURE) -> None:
        super().__init__(vocab_size, sizes)
        self.embed(vocab_size, sizes, generator)
        self.attention = self.heads(sizes, generator)
        self.head = Linear(self.attention.width, vocab_size, generator=generator)

    def heads(self, sizes: Sizes, generator: Any) -> Heads:
        """Make the one head, of 16 channels."""
        return Heads(sizes, 1, 16, generator)

    def features(self, idx: Any) -> Tensor:
        """Return what was gathered, the heads' results side by side."""
        return self.attention(self.embedded(idx))


class FourHeads(OneHead):
    """4. Four smaller heads, which can look for different things."""

    def heads(self, sizes: Sizes, generator: Any) -> Heads:
        """Make the heads, together as wide as the channels."""
        return many_heads(sizes, generator)


class FeedForward(Rung):
    """5. After communication, computation: each position thinks about what it gathered."""

    def __init__(self, vocab_size: int, *, generator: Any, sizes: Sizes = LECTURE) -> None:
        super().__init__(vocab_size, sizes)
        self.embed(vocab_size, sizes, generator)
        self.attention = many_heads(sizes, generator)
        self.think = Linear(sizes.n_embd, sizes.n_embd, generator=generator)
        self.head = Linear(sizes.n_embd, vocab_size, generator=generator)

    def features(self, idx: Any) -> Tensor:
        """Return each position's thought."""
        return self.think(self.attention(self.embedded(idx))).relu()


class PlainBlock(Module):
    """Communication and computation."""

    def __init__(self, sizes: Sizes, generator: Any) -> None:
        super().__init__()
        self.attention = many_heads(sizes, generator)
        self.think = Linear(sizes.n_embd, sizes.n_embd, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the transformed x."""
        return self.think(self.attention(x)).relu()


class Blocks(Rung):
    """6. The same again, three times: deeper, and harder to train."""

    block: Callable[[Sizes, Any], Module] = PlainBlock

    def __init__(self, vocab_size: int, *, generator: Any, sizes: Sizes = LECTURE) -> None:
        super().__init__(vocab_size, sizes)
        self.embed(vocab_size, sizes, generator)
        self.blocks = ModuleList(type(self).block(sizes, generator) for _ in range(sizes.n_block))
        self.head = Linear(sizes.n_embd, vocab_size, generator=generator)

    def features(self, idx: Any) -> Tensor:
        """Return x after all blocks."""
        x = self.embedded(idx)
        for block in self.blocks:
            x = block(x)
        return x


class ResidualBlock(Module):
    """Each part adds to x through a projection, and the feed-forward is four times as wide."""

    def __init__(self, sizes: Sizes, generator: Any) -> None:
        super().__init__()
        self.attention = many_heads(sizes, generator)
        self.projection = Linear(sizes.n_embd, sizes.n_embd, generator=generator)
        self.expand = Linear(sizes.n_embd, 4 * sizes.n_embd, generator=generator)
        self.contract = Linear(4 * sizes.n_embd, sizes.n_embd, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with what both parts add."""
        x = x + self.projection(self.attention(x))
        return x + self.contract(self.expand(x).relu())


class Residual(Blocks):
    """7. Residual connections: gradients reach the first block directly."""

    block = ResidualBlock


class NormBlock(ResidualBlock):
    """A residual block whose parts each read a normalised x."""

    def __init__(self, sizes: Sizes, generator: Any) -> None:
        super().__init__(sizes, generator)
        self.attention_norm = LayerNorm(sizes.n_embd)
        self.feed_forward_norm = LayerNorm(sizes.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with what both parts add."""
        x = x + self.projection(self.attention(self.attention_norm(x)))
        return x + self.contract(self.expand(self.feed_forward_norm(x)).relu())


class Norm(Blocks):
    """8. LayerNorm before each part and before the head: the transformer of `models/gpt.py`."""

    block = NormBlock

    def __init__(self, vocab_size: int, *, generator: Any, sizes: Sizes = LECTURE) -> None:
        super().__init__(vocab_size, generator=generator, sizes=sizes)
        self.norm = LayerNorm(sizes.n_embd)

    def features(self, idx: Any) -> Tensor:
        """Return x after all blocks, normalised."""
        return self.norm(super().features(idx))


def _bigram(vocab_size: int, *, generator: Any, sizes: Sizes = LECTURE) -> Bigram:
    return Bigram(vocab_size, sizes.block_size, generator=generator)


LADDER: dict[str, Callable[..., Any]] = {
    "bigram": _bigram,
    "emblinear": EmbeddingLinear,
    "head": OneHead,
    "mha": FourHeads,
    "ffn": FeedForward,
    "blocks3": Blocks,
    "resid": Residual,
    "lnorm": Norm,
}
"""The rungs from the bottom up: each a function of (vocab_size, generator=..., sizes=...)."""
