"""Text from a model, one character at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_char.kernels import sampling as sampling_kernel
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.forks import cached_property
from tinygrad_char.kernels.devices import backend_of
from tinygrad_char.kernels.words import shorten
from tinygrad_char.models.errors import RunError, UsageError
from tinygrad_char.models.schema import LARGEST
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.modes import no_grad, quiet
from tinygrad_char.nn import EvaluationMode
from tinygrad_char.random import Stream
from tinygrad_char.repeated import RepeatedCall
from tinygrad_char.tensor import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the next character is chosen from its logits."""

    temperature: float = 0.8
    """Divides the logits: below 1 safer, above 1 wilder, 0 always the likeliest."""
    top_k: int | None = None
    """Choose among the k likeliest characters only."""
    top_p: float | None = None
    """Choose among the fewest likeliest characters that together have this probability."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(
                f"temperature is {self.temperature}; expected 0 (always the likeliest) or a "
                "finite number above"
            )
        if self.top_k is not None and (not isinstance(self.top_k, int) or self.top_k < 1):
            raise UsageError(f"top-k is {shorten(self.top_k)}; expected an integer of at least 1")
        if self.top_k is not None and self.top_k > LARGEST:
            raise UsageError(f"top-k is {shorten(self.top_k)}; expected an integer below 2^63")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"top-p is {self.top_p}; expected a number above 0, up to 1")

    @cached_property
    def _options(self) -> sampling_kernel.Options:
        return sampling_kernel.Options(self.temperature, self.top_k, self.top_p)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the probabilities (B, V), float64, for logits (B, V); temperature above 0.

        A top-k beyond the vocabulary keeps everything. Equal logits at the edge of top-k are all
        kept. Top-p keeps, likeliest first, every character before which less than p was reached.
        """
        weights = sampling_kernel.weights(logits, self._options)
        return weights / weights.sum(axis=-1, keepdims=True)

    def choose(self, logits: Array, streams: Sequence[Stream]) -> np.ndarray:
        """Return one token for each row of logits (B, V), each drawn from its own stream.

        The logits may be on a device. Temperature 0 draws nothing.

        Raises
        ------
        ValueError
            There are not as many streams as rows.
        RunError
            A row gives no probabilities, since its logits are not all numbers, as after training
            that diverged.
        """
        if len(streams) != len(logits):
            raise ValueError(f"{len(logits)} rows of logits and {len(streams)} streams")
        backend = backend_of(logits)
        if self.temperature == 0:
            uniform = np.zeros(len(streams))
        else:
            uniform = np.fromiter((each.fraction() for each in streams), float, len(streams))
        chosen = backend.chosen().kernels[sampling_kernel.forward](
            logits, backend.from_numpy(uniform), self._options
        )
        tokens = backend.to_numpy(chosen)
        if tokens.min(initial=0) < 0:
            row = int(tokens.argmin())
            raise RunError(
                f"row {row} of the logits gives no probabilities: "
                f"{shorten(backend.to_numpy(logits[row]).tolist())}; expected finite numbers, or "
                "-infinity for some. The model is of no use: take another checkpoint"
            )
        return tokens


class Context:
    """What a model sees of the texts that it continues, and the logits that follow.

    A model sees at most block_size characters. When they are full, the older half is forgotten
    and the rest is read again from position 0, so that a cached step stays cheap and the logits
    are the same, to rounding, with and without the cache. `slide=True` instead forgets one
    character at each step, as published notebooks do; then nothing can be cached.

    Raises
    ------
    ValueError
        The texts (B, T) that are given have no character.
    """

    def __init__(
        self, model: Any, tokens: np.ndarray, *, cache: bool = True, slide: bool = False
    ) -> None:
        if not tokens.shape[1]:
            raise ValueError("there is no character to continue; give at least one")
        self.model, self.slide = model, slide
        self._evaluation = EvaluationMode(model)
        self._cache = model.new_cache() if cache and not slide else None
        self._next = RepeatedCall(self._read_next, self._cached, next(model.parameters()).backend)
        seen = tokens[:, -model.block_size :]
        self._length, self._read = seen.shape[1], 0  # of the room; of that, what the cache holds
        self._room = np.array(seen, np.int64)  # grows to block_size, which may be immense

    @property
    def window(self) -> np.ndarray:
        """The characters (B, T) that the model sees, until the next is appended."""
        return self._room[:, : self._length]

    def append(self, tokens: np.ndarray) -> None:
        """Add one character to each text: tokens (B,)."""
        size = self.model.block_size
        if self._length == size:
            keep = size - 1 if self.slide else size // 2
            self._room[:, :keep] = self._room[:, size - keep :]
            self._length, self._read = keep, 0
            for each in self._cache or ():
                each.length = 0  # its memory is filled again
        if self._length == self._room.shape[1]:
            more = np.empty(
                (len(tokens), min(size, 2 * self._length + 64) - self._length), np.int64
            )
            self._room = np.concatenate([self._room, more], axis=1)
        self._room[:, self._length] = tokens
        self._length += 1

    def logits(self) -> np.ndarray:
        """Return the logits (B, V) of the character that follows; append one before the next."""
        logits = self.logits_on_device()
        return backend_of(logits).to_numpy(logits)

    def logits_on_device(self) -> Array:
        """Return the same as an array of the model's device."""
        if self._cache is None:
            return self._on_tape(self.window)[:, -1]
        unread = self.window[:, self._read :]
        if self._next.reason is None and unread.shape[1] == 1:
            logits = self._next(unread, np.arange(self._read, self._length))
        else:
            logits = self._on_tape(unread, cache=self._cache)
        self._read = self._length
        return logits[:, -1]

    @quiet
    def _on_tape(self, tokens: np.ndarray, **options: Any) -> Array:
        with self._evaluation.active(), no_grad():
            return self.model(tokens, **options)[0].array

    def _read_next(self, token: Tensor, position: Tensor) -> Tensor:
        with self._evaluation.active():
            return self.model(token, cache=self._cache, positions=position)[0]

    def _cached(self) -> list[Array]:
        return [array for each in self._cache or () for array in each.arrays()]


def generate(
    model: Any,
    prompt: np.ndarray,
    length: int,
    sampling: Sampling,
    streams: Sequence[Stream],
    *,
    cache: bool = True,
    slide: bool = False,
) -> Iterator[np.ndarray]:
    """Yield `length` times the next token (B,) of B texts that all start with `prompt` (T,).

    The text of a stream does not depend on how many others there are. The model is used in
    evaluation mode, at each token, by the thread that asks for it; others are not concerned.
    """
    context = Context(
        model, np.repeat(prompt[None], len(streams), axis=0), cache=cache, slide=slide
    )
    for _ in range(length):
        tokens = sampling.choose(context.logits_on_device(), streams)
        yield tokens
        context.append(tokens)


def encode_prompt(prompt: str, tokenizer: CharTokenizer, unknown: Any = "error") -> np.ndarray:
    """Return the prompt's tokens; an empty one becomes a newline, or the first character known.

    Raises
    ------
    UsageError
        The prompt has unknown characters and the policy is "error".
    """
    tokens = tokenizer.encode(prompt, unknown)
    if len(tokens):
        return tokens
    start = "\n" if "\n" in tokenizer.characters else tokenizer.characters[0]
    return tokenizer.encode(start)


class StopFilter:
    """Passes a growing text on, up to a stop string, of which it never passes any part."""

    def __init__(self, stop: str | None) -> None:
        self.stop = stop or ""
        self.stopped = False
        self._held = ""

    def feed(self, text: str) -> str:
        """Return what may be shown after `text` has come: all but what may begin the stop."""
        if self.stopped:
            return ""
        self._held += text
        if self.stop and self.stop in self._held:
            self.stopped = True
            shown, self._held = self._held.split(self.stop, 1)[0], ""
            return shown
        keep = max(
            (
                n
                for n in range(min(len(self.stop), len(self._held) + 1))
                if self._held.endswith(self.stop[:n])
            ),
            default=0,
        )
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """Return what was held back, when no more text comes."""
        shown, self._held = self._held, ""
        return shown
