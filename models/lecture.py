"""The lecture "Let's build GPT" as a script: each intermediate result in order.

So that one can lay it beside a notebook that follows the lecture (A. Karpathy, 2023): the same
seeds, the same draws, the same digits, from this engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_char import functional as F
from tinygrad_char.models.batches import random_batch, split_corpus
from tinygrad_char.models.bigram import Bigram
from tinygrad_char.models.replay import printed_loss, sample, train_steps
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.nn import Linear
from tinygrad_char.optim import Adam, AdamW
from tinygrad_char.tensor import Tensor
from tinygrad_char.torch_random import Build, TorchGenerator

BLOCK_SIZE = 8
Show = Callable[..., None]


@dataclass(frozen=True)
class Choices:
    """What differs between the notebooks that follow the lecture."""

    seed: int = 1337
    build: Build = "default"
    """Which PyTorch's choices the sampled text follows."""
    optimizer: type[Adam] = AdamW
    lengths: tuple[int, ...] = (10_000,)
    """Steps of training; the loss is shown after each of these lengths."""
    rates: tuple[float, ...] = (1e-3,)
    """Learning rates: one, or one for each length."""
    samples: tuple[int, int] = (100, 500)
    """Characters drawn before and after training."""

    def __post_init__(self) -> None:
        if len(self.rates) not in (1, len(self.lengths)):
            raise ValueError(
                f"rates are {self.rates} for lengths {self.lengths}; expected one rate, or one "
                "for each length"
            )


def walk(text: str, choices: Choices = Choices(), show: Show = print) -> None:
    """Show every result of the lecture's notebook for a text, in its order."""
    tokenizer = CharTokenizer.from_text(text)
    show_text(text, tokenizer, show)
    tokens = tokenizer.encode(text)
    train, _ = split_corpus(tokens, BLOCK_SIZE)
    show(f"part for training: {len(train) / len(tokens)}")
    show_contexts(train, show)
    show_batch(train, choices.seed, show)
    show_bigram(train, tokenizer, choices, show)
    show_products(show)
    show_averaging(choices.seed, show)
    show_head(choices.seed, show)
    show_variance(choices.seed, show)
    show_sharpening(show)
    show_normalization(choices.seed, show)


def show_text(text: str, tokenizer: CharTokenizer, show: Show) -> None:
    """Show the corpus as characters and as integers."""
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


def show_bigram(train: np.ndarray, tokenizer: CharTokenizer, choices: Choices, show: Show) -> None:
    """Show the bigram before and after training: losses and samples, all from one stream."""
    x, y = random_batch(train, BLOCK_SIZE, 4, TorchGenerator(choices.seed))
    generator = TorchGenerator(choices.seed, choices.build)
    model = Bigram(len(tokenizer), BLOCK_SIZE, generator=generator)  # type: ignore[arg-type]
    before, after = choices.samples
    logits, _ = model(x)
    show((logits.size // len(tokenizer), len(tokenizer)))
    show(printed_loss(logits, y))
    show(tokenizer.decode(sample(model, before, generator)))
    updates = choices.optimizer(model.parameters())
    rates = choices.rates * (len(choices.lengths) // len(choices.rates))
    for length, rate in zip(choices.lengths, rates, strict=True):
        updates.set_lr(rate)
        show(train_steps(model, updates, train, 32, length, generator))
    show(tokenizer.decode(sample(model, after, generator)))


def show_products(show: Show) -> None:
    """Show that a product with rows that sum to 1 averages: the toy example, seeded with 42."""
    triangle = Tensor(np.tri(3, dtype=np.float32))
    a = triangle / triangle.sum(1, keepdims=True)
    b = Tensor(TorchGenerator(42).integers(0, 10, (3, 2)).astype(np.float32))
    for name, each in (("a", a), ("b", b), ("a @ b", a @ b)):
        show(f"{name} =")
        show(np.round(each.numpy(), 4))


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
    """Show one head of size 16 over random x (4, 8, 32): its weights; the variance of scores."""
    generator: Any = TorchGenerator(seed)
    x = Tensor(generator.randn((4, 8, 32)))
    key, query, value = (Linear(32, 16, bias=False, generator=generator) for _ in range(3))
    weights = F.softmax(query(x) @ key(x).mT, mask="causal")  # (B, T, T)
    show((weights @ value(x)).shape)
    show(np.round(weights.detach().numpy()[0], 4))
    k, q = (Tensor(generator.randn((4, 8, 16))) for _ in range(2))
    scaled = q @ k.mT * 16**-0.5
    for name, each in (("k", k), ("q", q), ("scaled scores", scaled)):
        show(f"variance of {name}: {each.var(correction=1).item():.4f}")


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
    """Show what normalising the rows (LayerNorm) or columns (BatchNorm) makes of x (32, 100).

    The lecture's own layers divide by the variance with n - 1, PyTorch's by that with n.
    """
    x = Tensor(TorchGenerator(seed).randn((32, 100)))
    for name, axis in (("LayerNorm", 1), ("BatchNorm", 0)):
        for divisor, correction in (("n - 1", 1), ("n", 0)):
            var = x.var(axis, keepdims=True, correction=correction)
            y = (x - x.mean(axis, keepdims=True)) / (var + 1e-5).sqrt()
            for what, part in (("column 0", y[:, 0]), ("row 0", y[0])):
                mean, std = part.mean().item(), part.std(correction=1).item()
                show(f"{name} ({divisor:5}) {what:8}  mean {mean:7.4f}  std {std:6.4f}")
