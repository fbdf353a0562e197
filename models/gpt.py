"""A decoder-only transformer over characters.

GPT-2's architecture (Radford et al. 2019): pre-norm blocks of causal self-attention and a
feed-forward network on a residual stream, learned positions. With `bias` and an untied head it is
the model of the lecture "Let's build GPT"; without, and with a tied head, that of nanoGPT. Rotary
positions instead, and a short convolution before each feed-forward network, learn faster: see
docs/recipe.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tinygrad_char import functional as F
from tinygrad_char.kernels import operations
from tinygrad_char.kernels.backend import bfloat16
from tinygrad_char.kernels.rotary import MOST_ANGLES
from tinygrad_char.kernels.words import shorten
from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.schema import LARGEST
from tinygrad_char.modes import no_grad
from tinygrad_char.nn import (
    Cache,
    CausalConvolution,
    CausalSelfAttention,
    ConvolutionCache,
    Embedding,
    KeyValueCache,
    LayerNorm,
    Linear,
    Module,
    ModuleList,
    ResidualLinear,
    RMSNorm,
)
from tinygrad_char.random import Generator, default_generator
from tinygrad_char.tensor import Tensor

Activation = Literal["relu", "gelu", "gelu_tanh"]
Positions = Literal["learned", "rotary"]
Norm = Literal["layernorm", "rmsnorm"]


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
    positions: Positions = "learned"
    """How a character knows its place: a learned vector for each, or by queries and keys that are
    turned (rotary)."""
    qk_norm: bool = False
    """Divide queries and keys by their root mean square."""
    convolution: int = 0
    """Taps of a causal convolution before each feed-forward network: the character itself, and
    those before it; 0 for none."""
    attention_dropout: bool = True
    """Drop attention weights too, not only block outputs."""
    norm: Norm = "layernorm"
    """What rows are divided by before each part: their deviation from their mean, or their root
    mean square alone (rmsnorm), which has no bias."""

    def __post_init__(self) -> None:
        for name in ("block_size", "n_layer", "n_head", "n_embd", "convolution"):
            value, least = getattr(self, name), int(name != "convolution")
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(
                    f"{name} is {shorten(value)}; expected an integer of at least {least}"
                )
            if value > LARGEST:
                raise UsageError(f"{name} is {shorten(value)}; expected an integer below 2^63")
        if self.n_embd % self.n_head:
            raise UsageError(
                f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}: every head takes "
                f"an equal part of the channels; try n_embd "
                f"{-(-self.n_embd // self.n_head) * self.n_head}"
            )
        size = self.n_embd // self.n_head
        if (self.positions == "rotary" or self.qk_norm) and size % 2:
            raise UsageError(
                f"n_embd {self.n_embd} gives each of n_head {self.n_head} heads {size} channels, "
                "which cannot be turned or normalized in pairs; try n_embd "
                f"{self.n_embd + self.n_head}"
            )
        dropout = self.dropout
        if (
            isinstance(dropout, bool)
            or not isinstance(dropout, float | int)
            or not 0 <= dropout < 1
        ):
            raise UsageError(f"dropout is {shorten(dropout)}; expected a number from 0 to below 1")
        for name in ("bias", "tied", "qk_norm", "attention_dropout"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(
                    f"{name} is {shorten(getattr(self, name))}; expected True or False"
                )
        if self.activation not in ("relu", "gelu", "gelu_tanh"):
            raise UsageError(
                f"activation is {shorten(self.activation)}; expected relu, gelu or gelu_tanh"
            )
        if self.positions not in ("learned", "rotary"):
            raise UsageError(f"positions is {shorten(self.positions)}; expected learned or rotary")
        if self.norm not in ("layernorm", "rmsnorm"):
            raise UsageError(f"norm is {shorten(self.norm)}; expected layernorm or rmsnorm")


def check_context(config: GPTConfig) -> None:
    """Raise UsageError where a context has more rotary positions than angles are made for."""
    most = MOST_ANGLES // (config.n_embd // config.n_head)
    if config.positions == "rotary" and config.block_size > most:
        raise UsageError(
            f"block_size is {config.block_size}; expected at most {most} with rotary positions and "
            f"heads of {config.n_embd // config.n_head} channels"
        )


def _norm(config: GPTConfig) -> LayerNorm | RMSNorm:
    if config.norm == "rmsnorm":
        return RMSNorm(config.n_embd, eps=1e-5)
    return LayerNorm(config.n_embd, bias=config.bias)


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
    """Communication, then computation: x + attention(norm(x)), then x + feed_forward(norm(x)).

    With a convolution, the second is x + feed_forward(convolution(norm(x))).
    """

    def __init__(self, config: GPTConfig, generator: Generator) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = CausalSelfAttention(
            config.n_embd,
            config.n_head,
            dropout=config.dropout,
            attention_dropout=config.dropout if config.attention_dropout else 0.0,
            bias=config.bias,
            rotary=config.positions == "rotary",
            qk_norm=config.qk_norm,
            generator=generator,
        )
        self.feed_forward_norm = _norm(config)
        self.convolution = (
            CausalConvolution(config.n_embd, config.convolution) if config.convolution else None
        )
        self.feed_forward = FeedForward(config, generator)

    def forward(
        self,
        x: Tensor,
        attention_cache: KeyValueCache | None = None,
        convolution_cache: ConvolutionCache | None = None,
    ) -> Tensor:
        """Return the residual stream (B, T, C) after this block."""
        x = self.attention(self.attention_norm(x), attention_cache, residual=x)
        normalized = self.feed_forward_norm(x)
        if self.convolution is not None:
            normalized = self.convolution(normalized, convolution_cache)
        return self.feed_forward(normalized, residual=x)


class GPT(Module):
    """A GPT over `vocab_size` characters.

    Under Settings(bf16=True) products round their operands to bfloat16, but for those of the head.
    With `low_precision`, for CUDA devices, activations and the products of them are bfloat16;
    parameters, their gradients, statistics, sums and the loss stay float32.

    Weights start normal with standard deviation 0.02, and 0.02 / sqrt(2 n_layer) where a block
    writes to the residual stream; biases and convolutions start at 0.

    Raises
    ------
    UsageError
        The context has too many rotary positions.
    """

    def __init__(
        self, config: GPTConfig, vocab_size: int, *, generator: Generator | None = None
    ) -> None:
        super().__init__()
        check_context(config)
        generator = generator or default_generator()
        self.config, self.vocab_size, self.block_size = config, vocab_size, config.block_size
        self.low_precision = False
        self.token_embedding = Embedding(vocab_size, config.n_embd, generator=generator)
        self.position_embedding = (
            Embedding(config.block_size, config.n_embd, generator=generator)
            if config.positions == "learned"
            else None
        )
        self.blocks = ModuleList(Block(config, generator) for _ in range(config.n_layer))
        self.norm = _norm(config)
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
            if name.endswith(("bias", "convolution.weight")):
                parameter.zero_()
            elif parameter.ndim == 2:
                std = residual if name.endswith(("projection.weight", "contract.weight")) else 0.02
                parameter.copy_(generator.init.normal(0, std, parameter.shape))

    def forward(
        self,
        idx: Any,
        targets: Any = None,
        cache: list[Cache] | None = None,
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
        learned = self._learned_positions(start, end, positions)
        dtype = bfloat16() if self.low_precision else None
        x = self.token_embedding(idx, learned, dtype)  # (B, T, C)
        each = 1 + (self.config.convolution > 0)
        for number, block in enumerate(self.blocks):
            x = block(x, *(cache[number * each : (number + 1) * each] if cache else ()))
        x = self.norm(x)
        logits = self._logits(x)
        return logits, None if targets is None else F.cross_entropy(logits, targets)

    def _learned_positions(self, start: int, end: int, positions: Any) -> Tensor | None:
        """Return the vectors (T, C) of positions from start to end, if there are such."""
        if self.position_embedding is None:
            return None
        if positions is not None:
            return self.position_embedding(positions)
        weight = self.position_embedding.weight
        return weight if (start, end) == (0, self.block_size) else weight[start:end]

    def _logits(self, x: Tensor) -> Tensor:
        settings = operations.current()
        if settings is not None and settings.bf16:
            # what logits lose would be lost in the gradients of everything, and costs little
            with operations.using(bf16=False):
                return self._head(x)
        return self._head(x)

    def _head(self, x: Tensor) -> Tensor:
        return F.linear(x, self.token_embedding.weight) if self.head is None else self.head(x)

    def new_cache(self) -> list[Cache]:
        """Return empty caches: of each block its attention's, and its convolution's if any."""
        caches: list[Cache] = []
        for _ in self.blocks:
            caches.append(KeyValueCache(self.block_size))
            if self.config.convolution:
                caches.append(ConvolutionCache(self.config.convolution))
        return caches
