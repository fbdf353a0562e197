"""What layers keep of the positions that a growing text has had so far."""

from __future__ import annotations

import numpy as np

from tinygrad_char.kernels.array import Array, namespace


class Cache:
    """Positions that are filled, of memory that is allocated once.

    Attributes
    ----------
    capacity
        How many there may be; None where older ones are forgotten.
    filled
        The length, as an int64 array of one element: kernels count in it.
    """

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity
        self.filled = np.zeros(1, np.int64)

    @property
    def length(self) -> int:
        """How many positions are filled; what is above a smaller length is filled again."""
        return int(self.filled[0])

    @length.setter
    def length(self, length: int) -> None:
        if length < 0 or (self.capacity is not None and length > self.capacity):
            most = "on" if self.capacity is None else f"to {self.capacity}"
            raise ValueError(
                f"{type(self).__name__}: length={length}, expected an integer from 0 {most}"
            )
        self.filled[0] = length

    def arrays(self) -> list[Array]:
        """Return all that changes when positions are added."""
        return [self.filled]


class KeyValueCache(Cache):
    """The keys and values of the positions so far.

    `keys` and `values` are (B, H, capacity, D); the first `length` positions are filled.
    """

    capacity: int

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.keys: Array | None = None
        self.values: Array | None = None

    def arrays(self) -> list[Array]:
        """Return the count, and keys and values where there are any."""
        return [self.filled, *(each for each in (self.keys, self.values) if each is not None)]

    def room(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Return keys and values with room for k (B, H, T, D) and v (B, H, T, E) behind the filled.

        Raises
        ------
        ValueError
            They are more than the capacity.
        """
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise ValueError(f"cache of {self.capacity} positions cannot hold {end}")
        if self.keys is None or self.values is None:
            xp = namespace(k)
            self.keys, self.values = (
                xp.empty((*each.shape[:2], self.capacity, each.shape[3]), each.dtype)
                for each in (k, v)
            )
        return self.keys, self.values


class ConvolutionCache(Cache):
    """The last inputs of a causal convolution, whatever there were before.

    `history` (B, taps - 1, C) has the latest last; those before the first position count nothing.
    """

    def __init__(self, taps: int) -> None:
        super().__init__(None)
        self.taps = taps
        self.history: Array | None = None

    def arrays(self) -> list[Array]:
        """Return the count, and the history where there is one."""
        return [self.filled, *([] if self.history is None else [self.history])]

    def room(self, x: Array) -> Array:
        """Return the history of inputs such as x (B, T, C)."""
        if self.history is None:
            shape = (x.shape[0], self.taps - 1, x.shape[2])
            self.history = namespace(x).zeros(shape, x.dtype)
        return self.history
