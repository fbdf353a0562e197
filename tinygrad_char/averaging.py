"""A running mean of the weights that an optimizer updates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.optimizer import Optimizer
from tinygrad_char.schedules import is_number

CHUNK = 1 << 15
"""Elements worked on at once, so that the passes over them stay in the processor's cache."""


class WeightAverage:
    """The exponential moving average a of the weights w: a += (1 - d) (w - a) after each update.

    d is `decay`, and smaller in the beginning, min(decay, (1 + t) / (10 + t)) at step t, so that
    the first weights are forgotten soon. Averages of weights late in training have a lower loss
    than the weights (Polyak and Juditsky 1992, doi:10.1137/0330046).

    Attributes
    ----------
    flat
        The average, laid out as the optimizer's flat buffer.

    Raises
    ------
    ValueError
        `decay` is not in [0, 1).
    RuntimeError
        Where it is used after the optimizer has taken other parameters into its buffer.
    """

    def __init__(self, optimizer: Optimizer, decay: float) -> None:
        if not (is_number(decay) and 0 <= decay < 1):
            raise ValueError(f"WeightAverage: decay={decay}, expected a number in [0, 1)")
        self.optimizer, self.decay = optimizer, decay
        self.flat: Array = optimizer.flat.copy()
        self._weights = optimizer.flat

    def update(self, step: int) -> None:
        """Take in the weights after update number `step`, counted from 1."""
        self._check()
        weights, average = self._weights, self.flat
        kept = min(self.decay, (1 + step) / (10 + step))
        share = average.dtype.type(1 - kept)
        chunk = CHUNK if namespace(average) is np else average.size
        for start in range(0, average.size, max(chunk, 1)):
            part = slice(start, start + chunk)
            average[part] += (weights[part] - average[part]) * share

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the average in the parameters while the context lasts, and then the weights again.

        Nothing may be trained meanwhile.
        """
        self._check()
        weights = self.optimizer.flat.copy()
        try:
            self._write(self.flat)
            yield
        finally:
            self._write(weights)

    def _check(self) -> None:
        if self.optimizer.flat is not self._weights:
            raise RuntimeError(
                "WeightAverage: the optimizer has other parameters in its buffer by now; make a "
                "new average of them"
            )

    def _write(self, values: Array) -> None:
        self.optimizer.flat[...] = values
        for each in self.optimizer.parameters:
            each.version.value += 1
