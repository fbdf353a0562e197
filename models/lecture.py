"""The lecture "Let's build GPT" as a script: each intermediate result in order.

So that one can lay it beside a notebook that follows the lecture (A. Karpathy, 2023): the same
seeds, the same draws, the same digits, from this engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from models.batches import random_batch, split_corpus
from models.bigram import Bigram
from models.replay import sample, train_steps
from models.tokenizer import CharTokenizer
from tinygrad_char import functional as F
from tinygrad_char.nn import LayerNorm, Linear
from tinygrad_char.optim import Adam, AdamW
from tinygrad_char.tensor import Tensor
from tinygrad_char.torch_random import Build, TorchGenerator

BLOCK_SIZE = 8
Show = Callable[..., None]


def walk(
    text: str,
    *,
    seed: int = 1337,
    build: Build = "default",
    optimizer: type[Adam] = AdamW,
    steps: int = 10_000,
    show: Show = print,
) -> None:
    """Show every result of the lecture's notebook for a text, in its order."""
    tokenizer = CharTokenizer.from_text(text)
    show_text(text, tokenizer, show)
    train, _ = split_corpus(tokenizer.encode(text), BLOCK_SIZE)
    show_contexts(train, show)
    show_batch(train, seed, show)
    show_bigram(train, tokenizer, seed, build, optimizer, steps, show)
    show_averaging(seed, show)
    show_head(seed, show)
    show_variance(seed, show)
    show_sharpening(show)
    show_normalization(seed, show)


def show_text(text: str, tokenizer: CharTokenizer, show: Show) -> None:
    """Show the corpus as characters and as numbers."""
    show(f"length of the text in characters: {len(text)}")
    show(text[:100])
    show(tokenizer.characters)
    show(len(tokenizer))
    greeting = "hii there"
    if set(greeting) <= set(tokenizer.characters):
        show(tokenizer.encode(greeting).tolist())
        show(tokenizer.decode(tokenizer.encode(greeting)))
    show(tokenizer.encode(text[:100]).tolist())


def show_contexts(train: np.ndarray, show: Show) -> None:
    """Show the eight examples in one window of text."""
    show(train[: BLOCK_SIZE + 1].tolist())
    for t in range(BLOCK_SIZE):
        show(f"when input is {train[: t + 1].tolist()} the target: {train[t + 1]}")


def show_batch(train: np.ndarray, seed: int, show: Show) -> None:
    """Show the first batch (4, 8) and its 32 examples."""
    x, y = random_batch(train, BLOCK_SIZE, 4, TorchGenerator(seed))
    for name, array in (("inputs:", x), ("targets:", y)):
        show(name)
        show(array.shape)
        show(array)
    for b in range(4):
        for t in range(BLOCK_SIZE):
            show(f"when input is {x[b, : t + 1].tolist()} the target: {y[b, t]}")


def show_bigram(
    train: np.ndarray,
    tokenizer: CharTokenizer,
    seed: int,
    build: Build,
    optimizer: type[Adam],
    steps: int,
    show: Show,
) -> None:
    """Show the bigram before and after training: loss and sample, all from one stream."""
    x, y = random_batch(train, BLOCK_SIZE, 4, TorchGenerator(seed))
    generator = TorchGenerator(seed, build)
    model = Bigram(len(tokenizer), BLOCK_SIZE, generator=generator)  # type: ignore[arg-type]
    logits, loss = model(x, y)
    show((logits.size // len(tokenizer), len(tokenizer)))
    show(loss.item() if loss is not None else None)
    show(tokenizer.decode(sample(model, 100, generator)))
    updates = optimizer(model.parameters(), lr=1e-3)
    show(train_steps(model, updates, train, 32, steps, generator))
    show(tokenizer.decode(sample(model, 500, generator)))


def average_loop(x: Tensor) -> np.ndarray:
    """Return the running mean over the past of x (B, T, C), position by position."""
    values = x.numpy()
    result = np.zeros_like(values)
    for b in range(values.shape[0]):
        for t in range(values.shape[1]):
            result[b, t] = values[b, : t + 1].mean(axis=0)
    return result


def average_divided(x: Tensor) -> Tensor:
    """Return the running mean as a product with the lower triangle, then a division."""
    length = x.shape[1]
    return Tensor(np.tri(length, dtype=np.float32)) @ x / np.arange(1, length + 1)[:, None]


def average_product(x: Tensor) -> Tensor:
    """Return the running mean as one product with rows that sum to 1."""
    triangle = Tensor(np.tri(x.shape[1], dtype=np.float32))
    return triangle / triangle.sum(1, keepdims=True) @ x


def average_softmax(x: Tensor) -> Tensor:
    """Return the running mean as a product with a softmax of equal scores."""
    length = x.shape[1]
    return F.softmax(Tensor(np.zeros((length, length), np.float32)), mask="causal") @ x


def show_averaging(seed: int, show: Show) -> None:
    """Show the trick of self-attention: means over the past in four versions that agree."""
    x = Tensor(TorchGenerator(seed).randn((4, 8, 2)))
    show(x.shape)
    first = average_loop(x)
    show(x.numpy()[0])
    show(first[0])
    for version in (average_divided, average_product, average_softmax):
        show(version.__name__, bool(np.allclose(first, version(x).numpy(), atol=1e-7)))


def show_head(seed: int, show: Show) -> None:
    """Show the attention weights of one head, of size 16, over random x (4, 8, 32)."""
    generator: Any = TorchGenerator(seed)
    x = Tensor(generator.randn((4, 8, 32)))
    key, query, value = (Linear(32, 16, bias=False, generator=generator) for _ in range(3))
    weights = F.softmax(query(x) @ key(x).mT, mask="causal")  # (B, T, T)
    show((weights @ value(x)).shape)
    show(np.round(weights.detach().numpy()[0], 4))


def show_variance(seed: int, show: Show) -> None:
    """Show why scores are divided by the root of the head's size: their variance."""
    generator = TorchGenerator(seed)
    q, k = (Tensor(generator.randn((32, 8, 16))) for _ in range(2))
    scores = q @ k.mT
    for name, each in (("q", q), ("k", k), ("scores", scores), ("scaled", scores * 16**-0.5)):
        mean, var = each.mean().item(), each.var(correction=1).item()
        low, high = each.min().item(), each.max().item()
        show(f"{name:7} mean {mean:8.4f}  var {var:8.4f}  min {low:9.4f}  max {high:8.4f}")


def show_sharpening(show: Show) -> None:
    """Show that softmax is diffuse for small scores and sharp for large ones."""
    scores = Tensor([0.1, -0.2, 0.3, -0.2, 0.5])
    show(np.round(scores.softmax().numpy(), 4))
    show(np.round((scores * 8).softmax().numpy(), 4))


def show_normalization(seed: int, show: Show) -> None:
    """Show what LayerNorm makes of the rows of x (32, 100), and BatchNorm of its columns."""
    x = Tensor(TorchGenerator(seed).randn((32, 100)))
    by_row = LayerNorm(100)(x).detach()
    centered = x - x.mean(0, keepdims=True)
    by_column = centered / (x.var(0, keepdims=True, correction=1) + 1e-5).sqrt()
    for name, y in (("LayerNorm", by_row), ("BatchNorm", by_column)):
        for what, part in (("column 0", y[:, 0]), ("row 0", y[0])):
            mean, std = part.mean().item(), part.std(correction=1).item()
            show(f"{name} {what:8}  mean {mean:8.4f}  std {std:7.4f}")
