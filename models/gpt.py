"""A decoder-only transformer over characters.

GPT-2's architecture (Radford et al. 2019): pre-norm blocks of causal self-attention and a
feed-forward network on a residual stream, learned positions. With `bias` and an untied head it is
the model of the lecture "Let's build GPT"; without, and with a tied head, that of nanoGPT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tinygrad_char import functional as F
from tinygrad_char.kernels.backend import bfloat16
from tinygrad_char.kernels.words import shorten
from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.schema import LARGEST
from tinygrad_char.modes import no_grad
from tinygrad_char.nn import (
    CausalSelfAttention,
    Embedding,
    KeyValueCache,
    LayerNorm,
    Linear,
    Module,
    ModuleList,
    ResidualLinear,
)
from tinygrad_char.random import Generator, default_generator
from tinygrad_char.tensor import Tensor

Activation = Literal["relu", "gelu", "gelu_tanh"]


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT."""

    block_size: int = 64
    """Characters of context (T)."""
    n_layer: int = 4
    """Transformer blocks."""
    n_head: int = 4
    """Attention heads of each block."""
    n_embd: int = 128
    """Channels of the residual stream (C); a multiple of the heads."""
    dropout: float = 0.0
    """Probability of dropping attention weights and block outputs in training."""
    bias: bool = True
    """Biases in projections, feed-forward, LayerNorms and an untied head (queries, keys and
    values have none)."""
    activation: Activation = "relu"
    """Nonlinearity of the feed-forward networks."""
    tied: bool = False
    """Use the token embedding as the head's weight."""

    def __post_init__(self) -> None:
        for name in ("block_size", "n_layer", "n_head", "n_embd"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} is {shorten(value)}; expected an integer of at least 1")
            if value > LARGEST:
                raise UsageError(f"{name} is {shorten(value)}; expected an integer below 2^63")
        if self.n_embd % self.n_head:
            raise UsageError(
                f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}: every head takes "
                f"an equal part of the channels; try n_embd "
                f"{-(-self.n_embd // self.n_head) * self.n_head}"
            )
        dropout = self.dropout
        if (
            isinstance(dropout, bool)
            or not isinstance(dropout, float | int)
            or not 0 <= dropout < 1
        ):
            raise UsageError(f"dropout is {shorten(dropout)}; expected a number from 0 to below 1")
        for name in ("bias", "tied"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(
                    f"{name} is {shorten(getattr(self, name))}; expected True or False"
                )
        if self.activation not in ("relu", "gelu", "gelu_tanh"):
            raise UsageError(
                f"activation is {shorten(self.activation)}; expected relu, gelu or gelu_tanh"
            )


class FeedForward(Module):
    """Two linear layers with a nonlinearity between them: C -> 4C -> C."""

    def __init__(self, config: GPTConfig, generator: Generator) -> None:
        super().__init__()
        width, bias = 4 * config.n_embd, config.bias
        self.expand = Linear(
            config.n_embd, width, bias, activation=config.activation, generator=generator
        )
        self.contract = ResidualLinear(
            width, config.n_embd, bias, dropout=config.dropout, generator=generator
        )

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return the transformed x (B, T, C), added to a residual."""
        x = self.expand(x)  # (B, T, 4C)
        return self.contract(x, residual)


class Block(Module):
    """Communication, then computation: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: GPTConfig, generator: Generator) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.n_embd, bias=config.bias)
        self.attention = CausalSelfAttention(
            config.n_embd,
            config.n_head,
            dropout=config.dropout,
            bias=config.bias,
            generator=generator,
        )
        self.feed_forward_norm = LayerNorm(config.n_embd, bias=config.bias)
        self.feed_forward = FeedForward(config, generator)

    def forward(self, x: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Return the residual stream (B, T, C) after this block."""
        x = self.attention(self.attention_norm(x), cache, residual=x)
        return self.feed_forward(self.feed_forward_norm(x), residual=x)


class GPT(Module):
    """A GPT over `vocab_size` characters.

    With `low_precision`, for CUDA devices, activations and the products of them are bfloat16;
    parameters, their gradients, statistics, sums and the loss stay float32.

    Weights start normal with standard deviation 0.02, and 0.02 / sqrt(2 n_layer) where a block
    writes to the residual stream; biases start at 0.
    """

    def __init__(
        self, config: GPTConfig, vocab_size: int, *, generator: Generator | None = None
    ) -> None:
        super().__init__()
        generator = generator or default_generator()
        self.config, self.vocab_size, self.block_size = config, vocab_size, config.block_size
        self.low_precision = False
        self.token_embedding = Embedding(vocab_size, config.n_embd, generator=generator)
        self.position_embedding = Embedding(config.block_size, config.n_embd, generator=generator)
        self.blocks = ModuleList(Block(config, generator) for _ in range(config.n_layer))
        self.norm = LayerNorm(config.n_embd, bias=config.bias)
        self.head = (
            None
            if config.tied
            else Linear(config.n_embd, vocab_size, bias=config.bias, generator=generator)
        )
        self._initialize(generator)

    @no_grad()
    def _initialize(self, generator: Generator) -> None:
        residual = 0.02 / math.sqrt(2 * self.config.n_layer)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 2:
                std = residual if name.endswith(("projection.weight", "contract.weight")) else 0.02
                parameter.copy_(generator.init.normal(0, std, parameter.shape))

    def forward(
        self,
        idx: Any,
        targets: Any = None,
        cache: list[KeyValueCache] | None = None,
        positions: Any = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits (B, T, V) for idx (B, T), and the mean loss if targets (B, T) are given.

        With a cache from `new_cache`, idx continues the characters that the cache has seen. Their
        positions (T,) may be given as integers; they are what follows anyway.

        Raises
        ------
        ValueError
            There are more than block_size characters, counting the cached ones, or idx does not
            have two axes.
        """
        start = cache[0].length if cache else 0
        shape = np.shape(idx)
        if len(shape) != 2:
            raise ValueError(f"idx has shape {shape}; expected (batch, time)")
        end = start + shape[1]
        if end > self.block_size:
            raise ValueError(f"{end} characters of context, but block_size is {self.block_size}")
        if positions is not None:
            learned = self.position_embedding(positions)  # (T, C)
        elif (start, end) == (0, self.block_size):
            learned = self.position_embedding.weight
        else:
            learned = self.position_embedding.weight[start:end]
        dtype = bfloat16() if self.low_precision else None
        x = self.token_embedding(idx, learned, dtype)  # (B, T, C)
        for position, block in enumerate(self.blocks):
            x = block(x, cache[position] if cache else None)
        x = self.norm(x)
        logits = F.linear(x, self.token_embedding.weight) if self.head is None else self.head(x)
        return logits, None if targets is None else F.cross_entropy(logits, targets)

    def new_cache(self) -> list[KeyValueCache]:
        """Return an empty key/value cache, one entry for each block."""
        return [KeyValueCache(self.block_size) for _ in self.blocks]
