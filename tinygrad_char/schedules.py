"""Learning rates by step."""

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_char.kernels.words import shorten

Schedule = Callable[[int], float]
"""Gives the learning rate of a step, counted from 0."""


def is_number(value: Any) -> bool:
    """Return whether a value is a number of Python's or NumPy's."""
    return isinstance(value, int | float | np.number)


def check_number(name: str, option: str, value: float) -> None:
    """Raise ValueError, which names the option, unless a value is finite and at least 0."""
    if not (is_number(value) and 0 <= value <= sys.float_info.max):
        raise ValueError(f"{name}: {option}={shorten(value)}, expected a finite number >= 0")


def constant(lr: float) -> Schedule:
    """Return the schedule that gives `lr` at every step; ValueError if it cannot be one."""
    check_number("constant", "lr", lr)
    return lambda step: lr


def warmup_cosine(lr: float, warmup: int, total: int, floor: float) -> Schedule:
    """Return a schedule: linear warm-up, then a cosine down to `floor` (arXiv:1608.03983).

    Steps count from 0. Step i < warmup gives lr (i + 1) / (warmup + 1); then
    floor + (lr - floor) (1 + cos(pi (i - warmup) / (total - warmup))) / 2; from `total` on, floor.

    Raises
    ------
    ValueError
        A rate or a number of steps is negative or not finite.
    """
    for option, value in (("lr", lr), ("warmup", warmup), ("total", total), ("floor", floor)):
        check_number("warmup_cosine", option, value)

    def schedule(step: int) -> float:
        if step < warmup:
            return lr * (step + 1) / (warmup + 1)
        if step >= total:
            return floor
        progress = (step - warmup) / (total - warmup)
        return floor + (lr - floor) * (1 + math.cos(math.pi * progress)) / 2

    return schedule
