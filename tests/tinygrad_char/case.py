"""What a case of an operation is, and lists of them for operations of one kind."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    name: str
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    positive: bool = False
    check: dict[str, Any] = field(default_factory=dict)  # options of gradcheck

    @property
    def covers(self) -> str:
        return self.name.partition("/")[0]

    def inputs(self) -> list[np.ndarray]:
        """Return float64 arrays with magnitudes from 0.25 to 1.75: away from kinks at zero."""
        rng = np.random.default_rng(list(self.name.encode()))
        arrays = [rng.uniform(0.25, 1.75, shape) for shape in self.shapes]
        if not self.positive:
            arrays = [each * rng.choice([-1.0, 1.0], each.shape) for each in arrays]
        return [np.asarray(each) for each in arrays]


def one(name: str, ours: Callable, theirs: Callable, *shapes: Any, **options: Any) -> list[Case]:
    return [Case(name, ours, theirs, shapes, **options)]


def binary(name: str, ours: Callable, theirs: Callable, **options: Any) -> list[Case]:
    shapes = {
        "": ((2, 3), (2, 3)),
        "/broadcast": ((2, 1, 3), (4, 1)),
        "/scalar": ((), (3,)),
        "/0-d": ((), ()),
        "/empty": ((0, 3), (3,)),
    }
    return [Case(name + suffix, ours, theirs, both, **options) for suffix, both in shapes.items()]


def unary(name: str, ours: Callable, theirs: Callable, **options: Any) -> list[Case]:
    shapes = {"": (3, 5), "/0-d": (), "/one": (1,), "/empty": (2, 0)}
    return [
        Case(name + suffix, ours, theirs, (each,), **options) for suffix, each in shapes.items()
    ]


def reduced(name: str, ours: Callable | None = None, theirs: Callable | None = None) -> list[Case]:
    """Cases over axes; `ours` and `theirs` take (x, axis, keepdims), axis a tuple.

    Where they are not given the method of that name is meant.
    """
    ours = ours or (lambda x, axis, keep: getattr(x, name)(axis, keep))
    theirs = theirs or (lambda t, x, axis, keep: getattr(x, name)(axis, keep))
    axes = {"0": (0,), "last, kept": (-1,), "0, 2": (0, 2), "all": (0, 1, 2)}
    return [
        Case(
            f"{name}/axis {label}",
            lambda x, axis=axis, keep="kept" in label: ours(x, axis, keep),
            lambda t, x, axis=axis, keep="kept" in label: theirs(t, x, axis, keep),
            ((2, 3, 4),),
        )
        for label, axis in axes.items()
    ]
