"""The bigram model: the next character from the last one alone."""

from typing import Any

from tinygrad_char import functional as F
from tinygrad_char.nn import Embedding, Module
from tinygrad_char.random import Generator
from tinygrad_char.tensor import Tensor


class Bigram(Module):
    """A table of logits: row i scores what may follow character i.

    Its exact optimum is the table of log-frequencies of character pairs, which makes it the
    yardstick for every model that sees more.
    """

    def __init__(
        self, vocab_size: int, block_size: int, *, generator: Generator | None = None
    ) -> None:
        super().__init__()
        self.vocab_size, self.block_size = vocab_size, block_size
        self.table = Embedding(vocab_size, vocab_size, generator=generator)

    def forward(
        self, idx: Any, targets: Any = None, cache: None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits (B, T, V) for idx (B, T), and the mean loss if targets (B, T) are given."""
        logits = self.table(idx)
        return logits, None if targets is None else F.cross_entropy(logits, targets)

    def new_cache(self) -> None:
        """Return no cache: there is nothing to remember."""
        return
