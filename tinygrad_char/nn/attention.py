"""Multi-head attention layers (Vaswani et al. 2017, arXiv:1706.03762)."""

from __future__ import annotations

from tinygrad_char import functional as F
from tinygrad_char.nn.caches import KeyValueCache
from tinygrad_char.nn.layers import Linear, ResidualLinear, check_size
from tinygrad_char.nn.module import Module
from tinygrad_char.random import Generator, default_generator
from tinygrad_char.tensor import Tensor


def _check_heads(layer: str, n_embd: int, n_head: int) -> None:
    check_size(layer, n_embd=n_embd, n_head=n_head)
    if n_embd % n_head:
        raise ValueError(
            f"{layer}: n_embd={n_embd} is not divisible by n_head={n_head}, so the heads cannot "
            "share the channels equally"
        )


class SelfAttention(Module):
    """Attention of a sequence to itself: x (B, T, C) gives (B, T, C).

    Queries, keys and values of all heads come from one product with `qkv`; the joined heads go
    through `projection`. In training, dropout falls on the attention weights and on the result.

    Parameters
    ----------
    n_embd, n_head
        Channels C, and the number of heads that share them.
    causal
        Whether a position sees only itself and those before it.
    dropout
        Probability, in training.
    attention_dropout
        The same of the attention weights alone; `dropout` where None.
    qkv_bias, bias
        Whether `qkv`, and `projection`, have one.
    rotary
        Whether queries and keys know their positions by being turned: see F.self_attention.
    qk_norm
        Whether queries and keys are divided by their root mean square before.

    Raises
    ------
    ValueError
        The heads cannot share the channels equally, or `rotary` or `qk_norm` would meet an odd
        number of them; a probability is none.
    """

    causal: bool = False

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        *,
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        qkv_bias: bool = False,
        bias: bool = True,
        rotary: bool = False,
        qk_norm: bool = False,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        _check_heads(name, n_embd, n_head)
        if (rotary or qk_norm) and n_embd // n_head % 2:
            raise ValueError(
                f"{name}: {n_head} heads of {n_embd // n_head} channels cannot be turned or "
                "normalized in pairs; expected an even number of channels"
            )
        p = dropout if attention_dropout is None else attention_dropout
        F.check_probability(name, dropout)
        F.check_probability(name, p)
        self.n_head, self.p, self.rotary, self.qk_norm = n_head, p, rotary, qk_norm
        self._generator = generator or default_generator()
        self.qkv = Linear(n_embd, 3 * n_embd, bias=qkv_bias, generator=self._generator)
        self.projection = ResidualLinear(
            n_embd, n_embd, bias, dropout=dropout, generator=self._generator
        )

    def forward(
        self, x: Tensor, cache: KeyValueCache | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """Return the attended x; with a cache, x continues the positions that it holds.

        A residual (B, T, C) is added to it.

        A cache is for generation, in evaluation.

        Raises
        ------
        RuntimeError
            With a cache, the operations go on the tape: the gradients of what it holds would be
            missing.
        """
        qkv = self.qkv(x)  # (B, T, 3C)
        p = self.p if cache is None and self.training else 0.0
        key = self._generator.dropout.dropout_key() if p else None
        y = F.self_attention(
            qkv,
            self.n_head,
            causal=self.causal,
            dropout=p,
            key=key,
            cache=cache,
            rotary=self.rotary,
            normalize=self.qk_norm,
        )
        return self.projection(y, residual)

    def extra_repr(self) -> str:
        text = f"n_head={self.n_head}" + (f", dropout={self.p}" if self.p else "")
        return text + ", rotary" * self.rotary + ", qk_norm" * self.qk_norm


class CausalSelfAttention(SelfAttention):
    """Self-attention in which a position sees only itself and those before it."""

    causal = True


class CrossAttention(Module):
    """Attention of x (B, T, C) to a context (B, S, C_context): (B, T, C)."""

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        n_context: int | None = None,
        *,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        bias: bool = True,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        _check_heads("CrossAttention", n_embd, n_head)
        F.check_probability("CrossAttention", dropout)
        self.n_head, self.p = n_head, dropout
        self._generator = generator or default_generator()
        context = n_embd if n_context is None else n_context
        self.query = Linear(n_embd, n_embd, bias=qkv_bias, generator=self._generator)
        self.key_value = Linear(context, 2 * n_embd, bias=qkv_bias, generator=self._generator)
        self.projection = ResidualLinear(
            n_embd, n_embd, bias, dropout=dropout, generator=self._generator
        )

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Return, for each position of x, what it attends to in the context.

        Raises
        ------
        ValueError
            x and context are not (B, T, C) and (B, S, C_context).
        """
        if not x.ndim == context.ndim == 3 or x.shape[0] != context.shape[0]:
            raise ValueError(
                f"CrossAttention: x {x.shape} and context {context.shape}; expected (B, T, C) and "
                "(B, S, C_context)"
            )
        batch, length, width = x.shape
        heads = (self.n_head, width // self.n_head)
        q = self.query(x).reshape(batch, length, *heads).permute(0, 2, 1, 3)  # (B, H, T, D)
        pairs = self.key_value(context).reshape(batch, context.shape[1], 2, *heads)
        k, v = pairs.permute(2, 0, 3, 1, 4)  # each (B, H, S, D)
        p = self.p if self.training else 0.0
        key = self._generator.dropout.dropout_key() if p else None
        y = F.attention(q, k, v, dropout=p, key=key)
        return self.projection(y.permute(0, 2, 1, 3).reshape(batch, length, width))

    def extra_repr(self) -> str:
        return f"n_head={self.n_head}" + (f", dropout={self.p}" if self.p else "")
