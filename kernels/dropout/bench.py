"""Dropout of the residual stream, measured and checked."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, torch_tasks
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed, checks_of_rows
from tinygrad_char.kernels.dropout.reference import DropoutKey

DROPPED = 0.2
"""Probability of dropout."""
TIMED_KEY, CHECKED_KEY = DropoutKey(1, 1), DropoutKey(0x0123456789ABCDEF, 77)


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    (x,) = at.operands((at.rows, at.channels))
    key = DropoutKey(1, 2)
    ones = np.ones_like(x)

    def task(function: Callable[..., Array]) -> Task:
        """Compare how much the kept elements grow: PyTorch keeps others."""
        return Task(lambda: function(x, DROPPED, key), lambda: function(ones, DROPPED, key).max())

    return {"dropout forward": task(op.forward), "dropout backward": task(op.backward)}


def work(at: Dimensions) -> Work:
    return at.moved("dropout", 2 * at.stream, 2 * at.stream)


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    (x,) = at.tensors(torch, (at.rows, at.channels))
    ones = torch.ones_like(x, requires_grad=True)
    grad = torch.ones_like(x)

    def drop(x: Any) -> Any:
        return torch.nn.functional.dropout(x, DROPPED)

    forward, backward = torch_tasks(torch, "dropout", drop, [x], grad).values()
    return {
        "dropout forward": forward._replace(check=lambda: drop(ones.detach()).max()),
        "dropout backward": backward._replace(
            check=lambda: torch.autograd.grad(drop(ones), ones, grad)[0].max()
        ),
    }


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    yield Timed("dropout", lambda op: op.forward(on.x, 0.2, TIMED_KEY), 2 * on.x.nbytes)


def checks(at: Ragged) -> Iterator[Check]:
    return checks_of_rows(at, "dropout", _check)


def _check(op: Any, i: Any) -> list[Array]:
    return [op.forward(i.x, 0.3, CHECKED_KEY), op.backward(i.grad, 0.3, CHECKED_KEY)]
