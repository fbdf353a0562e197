"""The addition of positions to each sequence of characters, measured."""

from typing import Any

from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, tasks, torch_tasks


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    a, b, grad = at.operands(*_shapes(at))
    return tasks(
        "add", lambda: op.forward(a, b), lambda: op.backward(grad, a.shape, b.shape, (True, True))
    )


def work(at: Dimensions) -> Work:
    return at.moved("add", 2 * at.stream + at.stream / at.batch, at.stream + at.stream / at.batch)


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    a, b, grad = at.tensors(torch, *_shapes(at))
    return torch_tasks(torch, "add", lambda a, b: a + b, [a, b], grad)


def _shapes(at: Dimensions) -> tuple[tuple[int, ...], ...]:
    shape = (at.batch, at.length, at.channels)
    return shape, shape[1:], shape
