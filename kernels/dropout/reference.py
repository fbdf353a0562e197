"""Dropout with counter-based random bits (Srivastava et al. 2014, JMLR 15).

The mask is a pure function of a key and of the element's index, so backward draws it again
instead of keeping it, and any part of it can be drawn by itself. A mask that comes from elsewhere
takes the key's place as a `MaskSource`.
"""

import math
from types import ModuleType
from typing import NamedTuple, Protocol

import numpy as np

from tinygrad_char.kernels.array import Array, namespace, select

LEVELS = 1 << 16
"""Probabilities are rounded to a multiple of 1 / LEVELS: sixteen random bits for each element."""
LANES = 16
"""Elements that one counter of Philox4x64 gives the bits of."""


class MaskSource(Protocol):
    """What the mask of one dropout call comes from: the same at every time that it is asked for."""

    def keep_mask(self, shape: tuple[int, ...], p: float, start: int) -> np.ndarray:
        """Return a boolean mask of `shape`, True with probability 1 - p: a part of the call's mask.

        `start` is the number of elements before it. Parts are first asked for in their order.
        """

    def keep_scale(self, p: float, dtype: np.dtype) -> float:
        """Return what elements of this dtype that are kept are multiplied by."""


class DropoutKey(NamedTuple):
    """The source of counter-based masks: a seed and the call's number."""

    seed: int
    call: int

    def keep_mask(self, shape: tuple[int, ...], p: float, start: int) -> np.ndarray:
        """Return a boolean mask of `shape`, True with probability 1 - p (p in steps of 2^-16).

        Element i of the call is kept when the i-th sixteen bits of NumPy's Philox4x64-10 (Salmon
        et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") with this key and a counter
        from 0 are at least `threshold(p)`.
        """
        group, skipped = divmod(start, LANES)
        end = skipped + math.prod(shape)
        philox = np.random.Philox(key=np.array(self, dtype=np.uint64), counter=group)
        bits = philox.random_raw(-(-end // 4)).astype("<u8", copy=False).view("<u2")
        return (bits[skipped:end] >= threshold(p)).reshape(shape)

    def keep_scale(self, p: float, dtype: np.dtype) -> float:
        """Return `keep_scale(p)`, whatever the dtype."""
        return keep_scale(p)


def threshold(p: float) -> int:
    """Return how many of the 65,536 sixteen-bit values drop an element."""
    return round(p * LEVELS)


def keep_scale(p: float) -> float:
    """Return 1 / (1 - p) for the p that a key's mask really has, and 0 where nothing is kept."""
    kept = LEVELS - threshold(p)
    return LEVELS / kept if kept else 0.0


def keep_mask(
    xp: ModuleType, shape: tuple[int, ...], p: float, key: MaskSource, start: int = 0
) -> Array:
    """Return a part of the key's mask, from element `start` on, as an array of the module xp."""
    return xp.asarray(key.keep_mask(shape, p, start))


def forward(x: Array, p: float, key: MaskSource) -> Array:
    """Return y = x / (1 - p) where the mask keeps x, else 0; backward needs p and the key."""
    return _apply(x, p, key)


def backward(grad: Array, p: float, key: MaskSource) -> Array:
    """Return dx = dy / (1 - p) where the mask of forward keeps x, else 0."""
    return _apply(grad, p, key)


def _apply(x: Array, p: float, key: MaskSource) -> Array:
    result = select(keep_mask(namespace(x), x.shape, p, key), x)
    result *= key.keep_scale(p, x.dtype)
    return result
