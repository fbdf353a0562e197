"""Derives the coefficients of the steps: `python -m tinygrad_char.kernels.muon.coefficients`.

A step applies p(s) = a s + b s^3 + c s^5 to the singular values s of a matrix. The first finds
them in [l, 1], and its p is the one with the least max |1 - p(s)| there, which is some e. They are
then in [1 - e, 1 + e], for which the next p is fitted. No other polynomials of these degrees, one
after the other, bring all of them nearer to 1 (Polar Express: Amsel et al. 2025, arXiv:2505.16932).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LOWEST = {2: 0.05, 3: 0.02, 4: 0.01, 5: 0.005}
"""The least singular value, as a part of the largest that there can be, by number of steps.

Smaller values grow all the same, by nearly the product of all a; they only do not come near 1.
"""
DECIMALS = 4
"""As many as are kept of each coefficient, which moves no singular value by more than 0.0003."""

Step = tuple[float, float, float]


def fit(low: float, high: float) -> tuple[Step, float]:
    """Return a, b and c of the odd quintic that is nearest to 1 on [low, high], and its deviation.

    By the exchange of Remez: the deviation has its sign in turns at four places, the ends and the
    two extrema between them, which a quintic in s has where 5 c s^4 + 3 b s^2 + a = 0.
    """
    inner = [(3 * low + high) / 4, (low + 3 * high) / 4]
    before = -math.inf
    while True:
        places = np.array([low, *inner, high])
        columns = [places, places**3, places**5, np.array([1.0, -1.0, 1.0, -1.0])]
        a, b, c, deviation = np.linalg.solve(np.stack(columns, axis=1), np.ones(4)).tolist()
        if deviation <= before + 1e-12:  # which grows until the places are the right ones
            return (a, b, c), deviation
        before, root = deviation, math.sqrt(9 * b * b - 20 * a * c)
        inner = [math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c))]


def derived(steps: int, lowest: float) -> list[Step]:
    """Return the coefficients of each of so many steps, from singular values in [lowest, 1] on."""
    found, low, high = [], lowest, 1.0
    for _ in range(steps):
        (a, b, c), deviation = fit(low, high)
        found.append((round(a, DECIMALS), round(b, DECIMALS), round(c, DECIMALS)))
        low, high = 1 - deviation, 1 + deviation
    return found


def values_after(coefficients: Sequence[Step], values: np.ndarray) -> np.ndarray:
    """Return what the steps make of singular values."""
    for a, b, c in coefficients:
        values = values * (a + b * values**2 + c * values**4)
    return values


def deviation(coefficients: Sequence[Step], lowest: float) -> float:
    """Return how far from 1 the steps leave singular values in [lowest, 1], at most."""
    return float(abs(1 - values_after(coefficients, np.geomspace(lowest, 1, 100_001))).max())


def main() -> None:
    """Print the coefficients of each number of steps, and how near to 1 they lead."""
    for steps, lowest in LOWEST.items():
        found = derived(steps, lowest)
        print(
            f"{steps} steps, singular values from {lowest} to 1: each within "
            f"{deviation(found, lowest):.4f} of 1"
        )
        for each in found:
            print("   ", each)


if __name__ == "__main__":
    main()
