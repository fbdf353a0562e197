"""The mean of all positions so far of the residual stream, measured and checked."""

from collections.abc import Iterator
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, tasks, torch_tasks
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    x, grad = at.operands(*[(at.batch, at.length, at.channels)] * 2)
    return tasks("running_mean", lambda: op.forward(x), lambda: op.backward(grad))


def work(at: Dimensions) -> Work:
    return at.moved("running_mean", 2 * at.stream, 2 * at.stream)


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    x, grad = at.tensors(torch, *[(at.batch, at.length, at.channels)] * 2)
    counts = torch.arange(1, at.length + 1)[:, None]
    return torch_tasks(torch, "running_mean", lambda x: x.cumsum(dim=1) / counts, [x], grad)


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    x = on.sequences
    yield Timed("running_mean", lambda op: op.forward(x), 2 * x.nbytes)
    yield Timed("running_mean backward", lambda op: op.backward(x), 2 * x.nbytes)


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        arrays = {"x": at.draw(2, length, 33), "grad": at.draw(2, length, 33)}
        yield Check("running_mean", f"(2, {length}, 33)", _check, arrays)


def _check(op: Any, i: Any) -> list[Array]:
    return [op.forward(i.x), op.backward(i.grad)]
