"""Windows of a token sequence: the training split at random, a whole split exactly once."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.packed_tokens import integers
from tinygrad_char.random import Stream

Batch = tuple[np.ndarray, np.ndarray]


class IntegerStream(Protocol):
    """A source of random integers; a `numpy.random.Generator` is one."""

    def integers(self, low: int, high: int, size: int, /) -> np.ndarray:
        """Draw `size` int64 integers from low (included) to high (excluded)."""


class Split(NamedTuple):
    """The two parts of a token sequence, as views."""

    train: np.ndarray
    validation: np.ndarray


def split_corpus(tokens: np.ndarray, block_size: int, fraction: float = 0.9) -> Split:
    """Cut `tokens` in two: the first int(fraction * n) for training, the rest for validation.

    Raises
    ------
    UsageError
        If either part has fewer than block_size + 1 tokens, which is what one window takes
        (block_size inputs, each with the token after it), or an argument is out of range.
    """
    _require_positive("block_size", block_size)
    if not 0 < fraction < 1:
        raise UsageError(f"the training fraction is {fraction}; it must lie between 0 and 1")
    size = len(tokens)
    train, validation = cut(size, fraction)
    if min(train, validation) <= block_size:
        shorter = f", or a `--block-size` below {block_size}" if block_size > 1 else ""
        raise UsageError(
            f"the text is too short: {size} characters split into {train} for training and "
            f"{validation} for validation, but each part needs at least block_size + 1 = "
            f"{block_size + 1}. Give a text of at least {_smallest_size(block_size, fraction)} "
            f"characters{shorter}."
        )
    return Split(tokens[:train], tokens[train:])


def cut(size: int, fraction: float = 0.9) -> tuple[int, int]:
    """Return how many of `size` tokens are for training, and how many for validation."""
    train = int(fraction * size)
    return train, size - train


def random_batch(
    tokens: np.ndarray, block_size: int, batch_size: int, stream: IntegerStream
) -> Batch:
    """Draw `batch_size` windows, each start equally likely, with replacement.

    Parameters
    ----------
    tokens : ndarray
        (n,), integers or packed, n > block_size.
    stream : IntegerStream
        Asked once per batch, for the starts in [0, n - block_size).

    Returns
    -------
    x, y : ndarray
        (batch_size, block_size), int64; y[b, t] is the token that follows x[b, t].

    Raises
    ------
    UsageError
        If no window fits in `tokens`, or a size is below 1.
    """
    _require_positive("block_size", block_size)
    _require_positive("batch_size", batch_size)
    if len(tokens) <= block_size:
        raise UsageError(
            f"a window takes block_size + 1 = {block_size + 1} tokens, but there are "
            f"{len(tokens)}; give a longer text, or a `--block-size` below {max(len(tokens), 2)}"
        )
    starts = stream.integers(0, len(tokens) - block_size, batch_size)
    positions = starts[:, None] + np.arange(block_size)  # (B, T)
    x = integers(tokens.take(positions)).astype(np.int64, copy=False)
    y = integers(tokens.take(positions + 1)).astype(np.int64, copy=False)
    return x, y


class RandomBatches:
    """Random batches of a token sequence, which may be drawn before they are asked for.

    Parameters
    ----------
    tokens, block_size, batch_size
        See `random_batch`.
    stream
        Whose state decides: what was drawn ahead is drawn anew if it has changed since.
    """

    def __init__(
        self, tokens: np.ndarray, block_size: int, batch_size: int, stream: Stream
    ) -> None:
        self._arguments = (tokens, block_size, batch_size, stream)
        self._stream = stream
        self._ahead: tuple[dict[str, Any], list[Batch], dict[str, Any]] | None = None

    def draw(self, count: int = 1) -> list[Batch]:
        """Return the next batches."""
        if self._ahead is not None:
            before, batches, after = self._ahead
            self._ahead = None
            if len(batches) == count and before == self._stream.get_state():
                self._stream.set_state(after)
                return batches
        return [random_batch(*self._arguments) for _ in range(count)]

    def draw_ahead(self, count: int = 1) -> None:
        """Draw what `draw` will return, and leave the stream as it is."""
        before = self._stream.get_state()
        try:
            batches = self.draw(count)
            self._ahead = (before, batches, self._stream.get_state())
        finally:
            self._stream.set_state(before)


def cut_batch(x: np.ndarray, y: np.ndarray, shards: int) -> list[Batch]:
    """Cut a batch in `shards` parts of about equal size, or in single windows if it has fewer."""
    parts = min(shards, len(x))
    size, longer = divmod(len(x), parts)  # the first parts take what is left over
    ends = [size * part + min(part, longer) for part in range(parts + 1)]
    return [(x[start:end], y[start:end]) for start, end in pairwise(ends)]


def whole_split(tokens: np.ndarray, block_size: int, batch_size: int) -> Sequence[Batch]:
    """Walk through `tokens` in windows that do not overlap: each target comes exactly once.

    The mean of a loss over all n - 1 targets is the sum of each batch's mean loss times
    its number of targets, divided by n - 1.

    Returns
    -------
    sequence of x, y
        (b, block_size), int64, with b <= batch_size; at the end, where block_size does not divide
        n - 1, one batch (1, r) with the r < block_size targets that remain. Each is made when it
        is asked for.

    Raises
    ------
    UsageError
        At the call, if there are fewer than two tokens, or a size is below 1.
    """
    _require_positive("block_size", block_size)
    _require_positive("batch_size", batch_size)
    if len(tokens) < 2:
        raise UsageError(f"there is nothing to predict in {len(tokens)} tokens; at least 2 needed")
    return _WholeSplit(tokens, block_size, batch_size)


class OverlappingWindows(Sequence[tuple[np.ndarray, np.ndarray, int]]):
    """A walk through tokens in windows of which each begins half a one after the last.

    Gives x, y, context: x and y (b, t), int64, with b <= batch_size and t = block_size but for a
    text that is shorter. Of each row of y the first `context` are targets of an earlier window; the
    others come exactly once.

    Raises
    ------
    UsageError
        There are fewer than two tokens, or a size is below 1.
    """

    def __init__(self, tokens: np.ndarray, block_size: int, batch_size: int) -> None:
        whole_split(tokens, block_size, batch_size)  # which checks them
        targets = len(tokens) - 1
        self._tokens, self._length = tokens, min(block_size, targets)
        context = self._length // 2
        stride = self._length - context
        starts = np.arange(stride, targets - self._length + 1, stride)
        self._parts = [(np.zeros(1, np.int64), 0)]
        for first in range(0, len(starts), batch_size):
            self._parts.append((starts[first : first + batch_size], context))
        end = self._length + (starts[-1] if len(starts) else 0)
        if end < targets:
            last = np.array([targets - self._length])
            self._parts.append((last, self._length - (targets - end)))

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: Any) -> Any:
        starts, context = self._parts[number]
        places = starts[:, None] + np.arange(self._length + 1)
        both = integers(self._tokens.take(places)).astype(np.int64, copy=False)
        return both[:, :-1], both[:, 1:], context


class _WholeSplit(Sequence[Batch]):
    def __init__(self, tokens: np.ndarray, block_size: int, batch_size: int) -> None:
        self._tokens, self._block_size = tokens, block_size
        self._whole = (len(tokens) - 1) // block_size * block_size  # targets in whole windows
        self._step = batch_size * block_size

    def __len__(self) -> int:
        return -(-self._whole // self._step) + (self._whole < len(self._tokens) - 1)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        start = number * self._step
        end, width = min(start + self._step, self._whole), self._block_size
        if start >= self._whole:
            start, end = self._whole, len(self._tokens) - 1
            width = end - start
        x, y = self._tokens[start:end], self._tokens[start + 1 : end + 1]
        return _rows(x, width), _rows(y, width)


def _rows(tokens: np.ndarray, width: int) -> np.ndarray:
    return integers(tokens).reshape(-1, width).astype(np.int64)


def _fits(size: int, block_size: int, fraction: float) -> bool:
    return min(cut(size, fraction)) > block_size


def _smallest_size(block_size: int, fraction: float) -> int:
    """Length of the shortest text whose two parts both hold a window."""
    low, high = 0, 2 * block_size + 2
    while not _fits(high, block_size, fraction):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _fits(middle, block_size, fraction) else (middle, high)
    return high


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        option = name.replace("_", "-")
        raise UsageError(f"{name} is {value}; it must be at least 1 (`--{option}`)")
