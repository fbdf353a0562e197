"""What an operation's `bench.py` is made with, for the host.

The benchmarks look there for functions of these names, each of which may be missing; `op` has the
functions of the operation's reference, as some version serves them:

    cases(op, at)            the tasks that are timed, by names that begin with the operation's
    work(at)                 the least that each task must do: ("bytes", how many) to move, or
                             ("operations", how many), a multiplication and an addition being two
    torch_cases(torch, at)   the same tasks by PyTorch, whose module it is given

and for devices those of kernels/cuda/bench.py. Work counts every operand as read once and every
result as written once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.recording import aligned

REFRESH = 50
"""Runs after which an array that is worked on in place gets its first values again."""

Work = dict[str, tuple[str, float]]


class Task(NamedTuple):
    """What is timed, and what is compared: an array, a number, or a tuple of them."""

    run: Callable[[], Any]
    check: Callable[[], Any] | None = None
    """None where what `run` returns is compared."""


class Dimensions(NamedTuple):
    """Sequences, heads, characters of a sequence, channels, vocabulary, and parameters.

    And what tasks of these sizes are made with.
    """

    batch: int
    heads: int
    length: int
    channels: int
    classes: int
    parameters: int
    product: int

    @property
    def rows(self) -> int:
        """Characters of all sequences."""
        return self.batch * self.length

    @property
    def stream(self) -> float:
        """Bytes of the residual stream (rows, channels)."""
        return 4.0 * self.rows * self.channels

    @property
    def wide(self) -> float:
        """Bytes of the wide arrays of the feed-forward network (rows, 4 channels)."""
        return 4 * self.stream

    @property
    def logits(self) -> float:
        """Bytes of the logits (rows, classes)."""
        return 4.0 * self.rows * self.classes

    @staticmethod
    def operands(*shapes: tuple[int, ...]) -> list[Array]:
        """Return float32 arrays of the normal distribution, the same ones for the same shapes.

        They begin with a cache line, as those of recorded steps do: elsewhere, where chance puts
        them, a kernel takes up to a sixth longer.
        """
        generator = np.random.default_rng(0)
        places = (aligned(4 * math.prod(shape)).view(np.float32) for shape in shapes)
        arrays = [place.reshape(shape) for place, shape in zip(places, shapes, strict=True)]
        return [generator.standard_normal(dtype=np.float32, out=each) for each in arrays]

    @staticmethod
    def tensors(torch: Any, *shapes: tuple[int, ...]) -> list[Any]:
        """Return the `operands` of these shapes as tensors of PyTorch."""
        return [torch.from_numpy(each) for each in Dimensions.operands(*shapes)]

    @staticmethod
    def indices(count: int, below: int) -> Array:
        """Return integers (count,) from 0 on, the same ones each time."""
        return np.random.default_rng(1).integers(0, below, count)

    @staticmethod
    def moved(name: str, forward: float, backward: float) -> Work:
        """Return the work of an operation whose forward and backward move so many bytes."""
        return {f"{name} forward": ("bytes", forward), f"{name} backward": ("bytes", backward)}


class InPlace:
    """An array for kernels that overwrite it: fresh for a check, now and then for a run."""

    def __init__(self, values: Array) -> None:
        self.values, self.work, self.runs = values, values.copy(), 0

    def fresh(self) -> Array:
        """Return a copy of the first values, for a check."""
        return self.values.copy()

    def used(self) -> Array:
        """Return what earlier runs left, which is refreshed before it overflows."""
        self.runs += 1
        if self.runs % REFRESH == 0:
            np.copyto(self.work, self.values)
        return self.work


def tasks(name: str, forward: Callable[[], Any], backward: Callable[[], Any]) -> dict[str, Task]:
    """Return both directions of an operation, whose results are what is compared."""
    return {f"{name} forward": Task(forward), f"{name} backward": Task(backward)}


def torch_tasks(
    torch: Any,
    name: str,
    function: Callable[..., Any],
    inputs: list[Any],
    grad: Any,
    compared: Callable[..., Any] | None = None,
) -> dict[str, Task]:
    """Return forward, and backward alone, of a function of all these tensors.

    Where the function is random, another one is compared.
    """
    for each in inputs:
        each.requires_grad_()

    def forward(function: Callable[..., Any]) -> Any:
        with torch.no_grad():
            return function(*inputs)

    def backward(out: Any) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(out, inputs, grad, retain_graph=True)

    other = compared or function
    return {
        f"{name} forward": Task(lambda: forward(function), lambda: forward(other)),
        f"{name} backward": Task(backward(function(*inputs)), lambda: backward(other(*inputs))()),
    }
