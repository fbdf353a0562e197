"""The rungs of the ladder in PyTorch: as notebooks write them, and as a good engineer would."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tinygrad_char.models.batches import Split
from tinygrad_char.models.replay import Recipe

T, C, HEADS, BLOCKS = 8, 32, 4, 3


class Head(nn.Module):
    """One head, as notebooks write it."""

    tril: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(C, size, bias=False) for _ in range(3))
        self.register_buffer("tril", torch.tril(torch.ones(T, T)))

    def forward(self, x: Any) -> Any:
        """Return what each position attends to."""
        t = x.shape[1]
        k, q = self.key(x), self.query(x)
        scores = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5
        scores = scores.masked_fill(self.tril[:t, :t] == 0, float("-inf"))
        return F.softmax(scores, dim=-1) @ self.value(x)


class LoopHeads(nn.Module):
    """Several heads in a Python loop."""

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(size) for _ in range(heads))

    def forward(self, x: Any) -> Any:
        """Return the heads' results side by side."""
        return torch.cat([head(x) for head in self.heads], dim=-1)


class BatchedHeads(nn.Module):
    """All heads in one product and one call of PyTorch's fused attention."""

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        loop = LoopHeads(heads, size).heads  # for the same order of draws
        kinds = ("query", "key", "value")
        self.heads = heads
        self.qkv = nn.Parameter(
            torch.cat([getattr(head, kind).weight.detach() for kind in kinds for head in loop])
        )

    def forward(self, x: Any) -> Any:
        """Return the heads' results side by side."""
        b, t, _ = x.shape
        q, k, v = F.linear(x, self.qkv).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).reshape(b, t, -1)


class Block(nn.Module):
    """A block of the three upper rungs."""

    def __init__(self, attention: type[nn.Module], rung: str) -> None:
        super().__init__()
        self.attention = attention(HEADS, C // HEADS)
        self.residual = rung != "blocks3"
        if self.residual:
            self.projection = nn.Linear(C, C)
            self.think = nn.Sequential(nn.Linear(C, 4 * C), nn.ReLU(), nn.Linear(4 * C, C))
        else:
            self.think = nn.Sequential(nn.Linear(C, C), nn.ReLU())
        norm = rung == "lnorm"
        self.norms = nn.ModuleList(nn.LayerNorm(C) if norm else nn.Identity() for _ in range(2))

    def forward(self, x: Any) -> Any:
        """Return x after the block."""
        if not self.residual:
            return self.think(self.attention(x))
        x = x + self.projection(self.attention(self.norms[0](x)))
        return x + self.think(self.norms[1](x))


class TorchRung(nn.Module):
    """A rung by name, its layers made in the published order."""

    def __init__(self, rung: str, vocab_size: int, attention: type[nn.Module]) -> None:
        super().__init__()
        self.rung = rung
        if rung == "bigram":
            self.tokens = nn.Embedding(vocab_size, vocab_size)
            return
        if rung == "emblinear":
            self.head = nn.Linear(C, vocab_size)
            self.tokens = nn.Embedding(vocab_size, C)
            return
        self.tokens, self.positions = nn.Embedding(vocab_size, C), nn.Embedding(T, C)
        if rung == "head":
            self.body: nn.Module = attention(1, 16)
        elif rung == "mha":
            self.body = attention(HEADS, C // HEADS)
        elif rung == "ffn":
            self.body = nn.Sequential(attention(HEADS, C // HEADS), nn.Linear(C, C), nn.ReLU())
        else:
            self.body = nn.Sequential(*(Block(attention, rung) for _ in range(BLOCKS)))
        if rung == "lnorm":
            self.body = nn.Sequential(self.body, nn.LayerNorm(C))
        self.head = nn.Linear(16 if rung == "head" else C, vocab_size)

    def forward(self, idx: Any, targets: Any) -> Any:
        """Return the loss."""
        x = self.tokens(idx)
        if self.rung not in ("bigram", "emblinear"):
            x = self.body(x + self.positions(torch.arange(idx.shape[1])))
        logits = x if self.rung == "bigram" else self.head(x)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def replay_in_torch(
    rung: str, split: Split, vocab_size: int, seed: int, recipe: Recipe, *, batched: bool
) -> list[tuple[int, float, float]]:
    """Train a rung as published and return its rows (step, train, validation)."""
    torch.manual_seed(seed)
    model = TorchRung(rung, vocab_size, BatchedHeads if batched else LoopHeads)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr)
    parts = [torch.from_numpy(part.astype(np.int64)) for part in split]

    def batch(data: Any) -> tuple[Any, Any]:
        starts = torch.randint(len(data) - T, (recipe.batch_size,))
        x = torch.stack([data[i : i + T] for i in starts])
        y = torch.stack([data[i + 1 : i + T + 1] for i in starts])
        return x, y

    @torch.no_grad()
    def estimate() -> list[float]:
        means = []
        for data in parts:
            losses = torch.zeros(recipe.eval_batches)
            for i in range(recipe.eval_batches):
                losses[i] = model(*batch(data)).item()
            means.append(losses.mean().item())
        return means

    rows: list[tuple[int, float, float]] = []
    for step in range(recipe.steps):
        if step % recipe.eval_every == 0 or step == recipe.steps - 1:
            train, validation = estimate()
            rows.append((step, train, validation))
        loss = model(*batch(parts[0]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return rows
