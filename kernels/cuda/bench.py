"""What an operation's `bench.py` is made with, for devices that run CUDA kernels.

The benchmarks look there for functions of these names, each of which may be missing; `op` has the
functions of the operation's reference, as the device serves them:

    moving(op, on)        what is timed in float32 and bfloat16, and limited by memory
    multiplying(op, on)   what is timed in float32, TF32 and bfloat16, and limited by products
    checks(at)            what is compared with the reference in float64, at ragged sizes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.backend import Backend

LENGTHS = (1, 2, 31, 33, 127, 129, 1000, 1025)
ORDERS = {"": False, " atomic": True}
"""In which gradients are added up, and whether any will do."""
PRECISIONS = ("float32", "tf32", "bf16")

Arrays = dict[str, np.ndarray]


class Shape(NamedTuple):
    """Queries, keys and values of attention."""

    batch: int
    heads: int
    length: int
    size: int


class Sizes(NamedTuple):
    """How much is computed, and how often it is timed."""

    rounds: int
    rows: int
    """Of the arrays (rows, channels) of kernels that only move memory."""
    channels: int
    product: int
    """Rows and columns of the matrices whose product gives the ceiling."""
    tokens: int
    """Rows of the linear layers, and tokens of a batch of attention at each length."""
    embedding: int
    vocabulary: int
    words: int
    """Rows of the table of a vocabulary of words, not of characters."""
    training: Shape
    """The attention of a training step."""
    lengths: tuple[int, ...]
    """Of sequences, of which a batch has the fewer the longer they are."""


class Timed(NamedTuple):
    """What is timed, the fewest bytes that it has to move, and the products that it adds up.

    `compute` takes the operation's functions. With `atomics`, gradients may be added up in any
    order. Of what includes another computation, the time of that is subtracted.
    """

    name: str
    compute: Callable[[Any], Any]
    bytes: float
    products: float | None = None
    atomics: bool = False
    includes: Callable[[Any], Any] | None = None
    shape: Shape | None = None


@dataclass
class OnDevice:
    """Arrays to time operations on, of a dtype: drawn when they are first asked for, and shared."""

    backend: Backend
    sizes: Sizes
    dtype: np.dtype

    @cached_property
    def x(self) -> Array:
        """Return (rows, channels)."""
        return self.draw((self.sizes.rows, self.sizes.channels))

    @cached_property
    def y(self) -> Array:
        """Return (rows, channels)."""
        return self.draw((self.sizes.rows, self.sizes.channels), seed=1)

    @cached_property
    def grad(self) -> Array:
        """Return (rows, channels)."""
        return self.draw((self.sizes.rows, self.sizes.channels), seed=2)

    @property
    def sequences(self) -> Array:
        """Return `x` as (B, T, channels)."""
        return self.x.reshape(-1, min(512, self.sizes.rows), self.sizes.channels)

    @property
    def vectors(self) -> tuple[Array, Array]:
        """Return a weight and a bias (channels,) in float32."""
        shape, single = (self.sizes.channels,), np.dtype(np.float32)
        return self.draw(shape, single), self.draw(shape, single, 1)

    def draw(self, shape: tuple[int, ...], dtype: np.dtype | None = None, seed: int = 0) -> Array:
        """Return elements of the normal distribution, of this dtype if no other one is given."""
        return draw(self.backend, shape, dtype or self.dtype, seed)

    def integers(self, below: int, *shape: int) -> Array:
        """Return integers from 0 on."""
        return self.backend.from_numpy(np.random.default_rng(0).integers(0, below, shape))


def draw(backend: Backend, shape: tuple[int, ...], dtype: np.dtype, seed: int = 0) -> Array:
    """Return elements of the normal distribution on a device; long arrays repeat themselves."""
    parts = 16 if shape[0] % 16 == 0 else 1
    rng = np.random.default_rng(seed)
    part = rng.standard_normal((shape[0] // parts, *shape[1:]), np.float32)
    tiled = backend.xp.tile(backend.from_numpy(part), (parts, *[1] * (len(shape) - 1)))
    return tiled.astype(dtype)


class Check(NamedTuple):
    """One computation of an operation, its inputs, and the precisions it is made in.

    `compute` takes the operation's functions and an object with the arrays by name, and returns the
    results. Inputs whose names end in `_` stay float32 where the others are bfloat16, as parameters
    do. With `atomics`, gradients may be added up in any order.
    """

    name: str
    case: str
    compute: Callable[[Any, Any], list[Array]]
    arrays: Arrays
    precisions: tuple[str, ...] = ("float32", "bf16")
    atomics: bool = False


class Ragged:
    """Ragged sizes for checks, fewer if `quick`, and numbers, the same ones each time."""

    def __init__(self, quick: bool) -> None:
        self.quick, self.lengths = quick, LENGTHS[3:6:2] if quick else LENGTHS
        self.rng = np.random.default_rng(0)

    def draw(self, *shape: int) -> np.ndarray:
        """Return float32 elements of the normal distribution."""
        return self.rng.standard_normal(shape, np.float32)

    def integers(self, below: int, *shape: int) -> np.ndarray:
        """Return integers from 0 on."""
        return self.rng.integers(0, below, shape)


def checks_of_rows(
    at: Ragged,
    name: str,
    compute: Callable[[Any, Any], list[Array]],
    matrices: tuple[str, ...] = ("x", "grad"),
    vectors: tuple[str, ...] = (),
) -> Iterator[Check]:
    """Yield checks of matrices of five rows, and vectors, of each length."""
    for length in at.lengths:
        arrays = {each: at.draw(5, length) for each in matrices}
        arrays |= {each: at.draw(length) for each in vectors}
        yield Check(name, f"(5, {length})", compute, arrays)
