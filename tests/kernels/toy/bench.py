"""The square of the residual stream, measured and checked."""

from collections.abc import Iterator
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, tasks, torch_tasks
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    x, grad = at.operands(*[(at.rows, at.channels)] * 2)
    return tasks("toy", lambda: op.forward(x), lambda: op.backward(grad, x))


def work(at: Dimensions) -> Work:
    return at.moved("toy", 2 * at.stream, 3 * at.stream)


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    x, grad = at.tensors(torch, *[(at.rows, at.channels)] * 2)
    return torch_tasks(torch, "toy", lambda x: x * x, [x], grad)


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    yield Timed("toy", lambda op: op.forward(on.x), 2 * on.x.nbytes)
    yield Timed("toy backward", lambda op: op.backward(on.grad, on.x), 3 * on.x.nbytes)


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        arrays = {"x": at.draw(length), "grad": at.draw(length)}
        yield Check("toy", f"({length},)", _check, arrays, ("float32",))


def _check(op: Any, i: Any) -> list[Array]:
    return [op.forward(i.x), op.backward(i.grad, i.x)]
