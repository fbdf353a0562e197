"""The norm of the gradients of all parameters, measured and checked."""

from collections.abc import Iterator
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    (grad,) = at.operands((at.parameters,))
    return {"global_norm": Task(lambda: op.forward(grad))}


def work(at: Dimensions) -> Work:
    return {"global_norm": ("bytes", 4.0 * at.parameters)}


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    (grad,) = at.tensors(torch, (at.parameters,))
    norm = torch.linalg.vector_norm  # which adds up in float32, and is 4e-4 off here
    return {"global_norm": Task(lambda: norm(grad), lambda: norm(grad, dtype=torch.float64))}


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    yield Timed("norm of gradients", lambda op: op.forward(on.grad), on.grad.nbytes)


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        yield Check("global_norm", f"({length},)", _check, {"x": at.draw(length)})


def _check(op: Any, i: Any) -> list[Array]:
    return [op.forward(i.x)]
