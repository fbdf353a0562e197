"""GELU on the wide arrays of the feed-forward network, measured and checked."""

from collections.abc import Callable, Iterator
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, tasks, torch_tasks
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    x, grad = at.operands(*[(at.rows, 4 * at.channels)] * 2)
    return tasks("gelu", lambda: op.forward(x), lambda: op.backward(grad, x))


def work(at: Dimensions) -> Work:
    return at.moved("gelu", 2 * at.wide, 3 * at.wide)


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    x, grad = at.tensors(torch, *[(at.rows, 4 * at.channels)] * 2)
    return torch_tasks(torch, "gelu", torch.nn.functional.gelu, [x], grad)


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    yield Timed("gelu", lambda op: op.forward(on.x), 2 * on.x.nbytes)


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        arrays = {"x": at.draw(5, length), "grad": at.draw(5, length)}
        for approximate in ("none", "tanh"):
            yield Check("gelu", f"{approximate} (5, {length})", _check(approximate), arrays)


def _check(approximate: str) -> Callable[[Any, Any], list[Array]]:
    def compute(op: Any, i: Any) -> list[Array]:
        return [op.forward(i.x, approximate), op.backward(i.grad, i.x, approximate)]

    return compute
