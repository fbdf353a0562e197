"""Published runs, replayed: the same draws in the same order.

The sequence of the published runs: seed, model, AdamW; then at every step, first an estimate of
the losses if one is due (200 random batches of each split), then one batch and one update. The
text is drawn afterwards, from the "cuda" stream seeded afresh, with the context cropped to T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_char import functional as F
from tinygrad_char.models.batches import Split, random_batch
from tinygrad_char.models.generate import Context
from tinygrad_char.models.ladder import LADDER, LECTURE, Sizes
from tinygrad_char.modes import no_grad
from tinygrad_char.optim import Adam, AdamW
from tinygrad_char.parallel import Workers
from tinygrad_char.tensor import Tensor
from tinygrad_char.torch_random import TorchGenerator

ALONE = Workers(1)


@dataclass(frozen=True)
class Recipe:
    """The settings of a published run."""

    lr: float
    steps: int
    batch_size: int = 32
    eval_every: int = 200
    eval_batches: int = 200
    rung: str | None = None
    """Of which rung it is a run; None if it has the rung's name."""
    sizes: Sizes = LECTURE


RECIPES = {
    **{
        name: Recipe(1e-2, 3000) if name in ("bigram", "emblinear") else Recipe(1e-3, 5000)
        for name in LADDER
    },
    "last": Recipe(1e-3, 5000, 16, 100, rung="lnorm", sizes=Sizes(32, 64, 4, 4, scale=64**-0.5)),
    "scaled": Recipe(3e-4, 1, 64, rung="lnorm", sizes=Sizes(256, 384, 6, 6)),
}
"""The published runs: the rungs, and two larger ones of the last rung.

"last" is the end of the lecture's own notebook, where scores are divided by the root of the
channels, not of the head's size. "scaled" was trained with dropout drawn on a GPU: only what it
printed before the first update can be replayed.
"""


@dataclass(frozen=True)
class Row:
    """The estimated losses before the update of a step."""

    step: int
    train: float
    validation: float


def estimate_loss(
    model: Any,
    tokens: np.ndarray,
    batch_size: int,
    batches: int,
    generator: Any,
    workers: Workers = ALONE,
) -> float:
    """Return the mean, in float32, of the losses of random batches drawn one after the other.

    The batches are drawn as one by one and computed a few at a time; each keeps its own mean.
    """
    size = model.block_size
    starts = generator.integers(0, len(tokens) - size, (batches, batch_size))
    group = max(1, 2048 // (batch_size * size))

    def losses(first: int) -> np.ndarray:
        part = starts[first : first + group].reshape(-1)
        window = tokens[part[:, None] + np.arange(size + 1)].astype(np.int64)
        with no_grad():
            logits, _ = model(window[:, :-1])
            each = F.cross_entropy(logits, window[:, 1:], reduction="none").numpy()
        return each.reshape(-1, batch_size * size).mean(axis=1)

    return float(np.concatenate(list(workers.map(losses, range(0, batches, group)))).mean())


def printed_loss(logits: Tensor, targets: np.ndarray) -> float:
    """Return the mean cross-entropy in the digits that PyTorch prints on a CPU.

    PyTorch adds the losses one after the other up to every sixteenth, these sums up to every
    sixteenth, and so on (`aten/src/ATen/native/LossNLL.cpp`). In another order the last digit of
    every second loss is another one.
    """
    losses = F.cross_entropy(logits.detach(), targets, reduction="none").numpy().reshape(-1)
    sums = np.zeros(8, np.float32)
    for number, loss in enumerate(losses):
        sums[0] += loss
        for level in range(7):
            if number % 16 ** (level + 1):
                break
            sums[level + 1] += sums[level]
            sums[level] = 0
    return float(np.add.accumulate(sums)[-1] / np.float32(len(losses)))


def train_steps(
    model: Any,
    optimizer: Adam,
    tokens: np.ndarray,
    batch_size: int,
    steps: int,
    generator: Any,
    before_update: Callable[[int], None] = lambda step: None,
) -> float:
    """Make updates, each on one random batch, and return the loss of the last batch, as printed.

    Raises
    ------
    ValueError
        There is no step, hence no last batch.
    """
    if steps < 1:
        raise ValueError(f"train_steps: steps is {steps}; expected at least 1")
    for step in range(steps):
        before_update(step)
        x, y = random_batch(tokens, model.block_size, batch_size, generator)
        logits, loss = model(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return printed_loss(logits, y)


def replay_run(
    name: str,
    split: Split,
    vocab_size: int,
    generator: TorchGenerator,
    *,
    recipe: Recipe | None = None,
    optimizer: type[Adam] = AdamW,
    on_row: Callable[[Row], None] = lambda row: None,
    workers: Workers = ALONE,
) -> tuple[Any, list[Row]]:
    """Train as it was published, all draws from one generator; return the model and its rows.

    Text drawn on a CPU after training goes on with the same generator; text drawn on a GPU comes
    from a new one, see `sample_published`.
    """
    recipe = recipe or RECIPES[name]
    model = LADDER[recipe.rung or name](vocab_size, generator=generator, sizes=recipe.sizes)
    updates = optimizer(model.parameters(), lr=recipe.lr)
    rows: list[Row] = []

    def estimate(step: int) -> None:
        if step % recipe.eval_every and step != recipe.steps - 1:
            return
        losses = [
            estimate_loss(model, part, recipe.batch_size, recipe.eval_batches, generator, workers)
            for part in split
        ]
        rows.append(Row(step, *losses))
        on_row(rows[-1])

    train_steps(model, updates, split.train, recipe.batch_size, recipe.steps, generator, estimate)
    return model, rows


def sample(model: Any, length: int, generator: Any, start: int = 0) -> list[int]:
    """Return `start` and `length` tokens drawn after it, the context cropped to T."""
    tokens = [start]
    context = Context(model, np.array([[start]]), slide=True)
    for _ in range(length):
        chosen = generator.multinomial(_softmax(context.logits()))
        tokens.append(int(chosen[0]))
        context.append(chosen)
    return tokens


def sample_published(model: Any, length: int = 500, seed: int = 1337) -> list[int]:
    """Return the text that a published run drew on a GPU after training."""
    return sample(model, length, TorchGenerator(seed, "cuda"))


def _softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)
