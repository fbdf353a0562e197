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
    _check("warmup_cosine", lr, warmup, total, floor)

    def fall(progress: float) -> float:
        return (1 + math.cos(math.pi * progress)) / 2

    return _falling(lr, warmup, warmup, total, floor, fall)


def warmup_linear(lr: float, warmup: int, total: int, floor: float) -> Schedule:
    """Return a schedule: linear warm-up as in `warmup_cosine`, then a line down to `floor`.

    Raises
    ------
    ValueError
        A rate or a number of steps is negative or not finite.
    """
    _check("warmup_linear", lr, warmup, total, floor)
    return _falling(lr, warmup, warmup, total, floor, lambda progress: 1 - progress)


def warmup_stable_decay(
    lr: float, warmup: int, total: int, floor: float, decay: int, *, sqrt: bool = False
) -> Schedule:
    """Return a schedule: linear warm-up, then `lr`, and in the last `decay` steps down to `floor`.

    The last steps go down on a line (Hu et al. 2024, arXiv:2404.06395), or with `sqrt` as
    1 - sqrt(progress) does (Haegele et al. 2024, arXiv:2405.18392). They begin after the warm-up.

    Raises
    ------
    ValueError
        A rate or a number of steps is negative or not finite.
    """
    _check("warmup_stable_decay", lr, warmup, total, floor)
    check_number("warmup_stable_decay", "decay", decay)

    def fall(progress: float) -> float:
        return 1 - (math.sqrt(progress) if sqrt else progress)

    return _falling(lr, warmup, max(warmup, total - decay), total, floor, fall)


def _check(name: str, lr: float, warmup: int, total: int, floor: float) -> None:
    for option, value in (("lr", lr), ("warmup", warmup), ("total", total), ("floor", floor)):
        check_number(name, option, value)


def _falling(
    lr: float, warmup: int, begin: int, total: int, floor: float, fall: Callable[[float], float]
) -> Schedule:
    """Return a warm-up, then `lr`, and from `begin` to `total` what `fall` of the progress says."""

    def schedule(step: int) -> float:
        if step < warmup:
            return lr * (step + 1) / (warmup + 1)
        if step >= total:
            return floor
        if step < begin:
            return lr
        return floor + (lr - floor) * fall((step - begin) / (total - begin))

    return schedule
