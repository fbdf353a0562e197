"""The weights of attention by its scores, of all and of the past, measured and checked."""

from collections.abc import Iterator
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, tasks, torch_tasks
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed, checks_of_rows


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    x, grad = at.operands(*[_shape(at)] * 2)
    scale = _scale(at)

    def timed(name: str, causal: bool) -> dict[str, Task]:
        rest = (-1, causal, scale)
        y = op.forward(x, None, *rest)
        return tasks(name, lambda: op.forward(x, None, *rest), lambda: op.backward(grad, y, *rest))

    return {**timed("softmax", False), **timed("softmax causal", True)}


def work(at: Dimensions) -> Work:
    # The upper half of causal weights is written, and not read.
    weights = 4.0 * at.batch * at.heads * at.length**2
    past = 2.0 * at.batch * at.heads * at.length * (at.length + 1)
    causal = at.moved("softmax causal", past + weights, 2 * past + weights)
    return {**at.moved("softmax", 2 * weights, 3 * weights), **causal}


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    x, grad = at.tensors(torch, *[_shape(at)] * 2)
    scale, softmax = _scale(at), torch.nn.functional.softmax
    later = torch.tril(torch.ones(at.length, at.length)) == 0

    def causal(x: Any) -> Any:
        return softmax((x * scale).masked_fill(later, float("-inf")), dim=-1)

    return {
        **torch_tasks(torch, "softmax", lambda x: softmax(x * scale, dim=-1), [x], grad),
        **torch_tasks(torch, "softmax causal", causal, [x], grad),
    }


def _shape(at: Dimensions) -> tuple[int, ...]:
    return at.batch, at.heads, at.length, at.length


def _scale(at: Dimensions) -> float:
    return (at.channels // at.heads) ** -0.5


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    x, y, grad = on.x, on.y, on.grad
    yield Timed("softmax", lambda op: op.forward(x), 2 * x.nbytes)
    yield Timed("softmax backward", lambda op: op.backward(grad, y), 3 * x.nbytes)


def checks(at: Ragged) -> Iterator[Check]:
    return checks_of_rows(at, "softmax", _check)


def _check(op: Any, i: Any) -> list[Array]:
    y = op.forward(i.x)
    return [y, op.backward(i.grad, y)]
