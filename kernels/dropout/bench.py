"""Dropout of the residual stream, measured and checked."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import (
    DROPPED,
    Dimensions,
    Task,
    Work,
    operands,
    tensors,
    torch_tasks,
)
from tinygrad_char.kernels.cuda.bench import (
    CHECKED_KEY,
    TIMED_KEY,
    Check,
    OnDevice,
    Ragged,
    Timed,
)
from tinygrad_char.kernels.dropout.reference import DropoutKey


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    (x,) = operands((at.rows, at.channels))
    key = DropoutKey(1, 2)
    ones = np.ones_like(x)

    def task(function: Callable[..., Array]) -> Task:
        """Compare how much the kept elements grow: PyTorch keeps others."""
        return Task(lambda: function(x, DROPPED, key), lambda: function(ones, DROPPED, key).max())

    return {"dropout forward": task(op.forward), "dropout backward": task(op.backward)}


def work(at: Dimensions) -> Work:
    moved = ("bytes", 2 * at.stream)
    return {"dropout forward": moved, "dropout backward": moved}


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    (x,) = tensors(torch, (at.rows, at.channels))
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
    for length in at.lengths:
        arrays = {"x": at.draw(5, length), "grad": at.draw(5, length)}
        yield Check("dropout", f"(5, {length})", _check, arrays)


def _check(op: Any, i: Any) -> list[Array]:
    return [op.forward(i.x, 0.3, CHECKED_KEY), op.backward(i.grad, 0.3, CHECKED_KEY)]
