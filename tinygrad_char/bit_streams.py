"""The generators other than the Mersenne Twister from which PyTorch draws."""

from __future__ import annotations

from functools import cache

import numpy as np


class MCG31:
    """MKL's multiplicative congruential generator MCG31m1, after L'Ecuyer (1999).

    x_{k+1} = 1132489760 x_k mod (2^31 - 1), and the k-th number is x_k / (2^31 - 1), starting with
    the seed itself.
    """

    MODULUS = (1 << 31) - 1
    MULTIPLIER = 1132489760

    def __init__(self, seed: int) -> None:
        self._state = seed % self.MODULUS or 1

    def uniform(self, count: int) -> np.ndarray:
        """Return the next numbers in (0, 1), float64."""
        powers = _mcg31_powers(max(count - 1, 0).bit_length())[:count]
        # Both factors are below 2^31, so that the product fits into 64 bits.
        values = powers * np.uint64(self._state) % np.uint64(self.MODULUS)
        self._state = self._state * pow(self.MULTIPLIER, count, self.MODULUS) % self.MODULUS
        return values / self.MODULUS


@cache
def _mcg31_powers(doublings: int) -> np.ndarray:
    """Return multiplier^k mod 2^31 - 1 for k = 0 .. 2^doublings - 1."""
    if not doublings:
        return np.ones(1, np.uint64)
    half = _mcg31_powers(doublings - 1)
    step = pow(MCG31.MULTIPLIER, len(half), MCG31.MODULUS)
    return np.concatenate([half, half * np.uint64(step) % np.uint64(MCG31.MODULUS)])


def philox4x32(seed: int, offset: int, count: int) -> np.ndarray:
    """Return the first words of Philox4x32-10 (Salmon et al. 2011), uint32, for `count` elements.

    The key is the seed, the counter (offset, element, 0): 64, 32 and 32 bits.
    """
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    a = np.full(count, offset & 0xFFFFFFFF, np.uint64)
    b = np.full(count, offset >> 32, np.uint64)
    c, d = np.arange(count, dtype=np.uint64), np.zeros(count, np.uint64)
    for number in range(10):
        first, second = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        key_low = np.uint64(seed + number * 0x9E3779B9 & 0xFFFFFFFF)
        key_high = np.uint64((seed >> 32) + number * 0xBB67AE85 & 0xFFFFFFFF)
        a, b = second >> shift ^ b ^ key_low, second & low
        c, d = first >> shift ^ d ^ key_high, first & low
    return a.astype(np.uint32)
