"""Bias and activation on the wide arrays of the feed-forward network, measured and checked."""

from collections.abc import Callable, Iterator
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, InPlace, Task, Work, torch_tasks
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed

TIMED = ("relu", "gelu")


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    z, grad, bias = at.operands(*_shapes(at))
    buffer = InPlace(z)

    def tasks(activation: str) -> dict[str, Task]:
        _, kept = op.forward(buffer.fresh(), bias, activation)
        name = f"bias_activation {activation}"
        return {
            f"{name} forward": Task(
                lambda: op.forward(buffer.used(), bias, activation),
                lambda: op.forward(buffer.fresh(), bias, activation)[0],
            ),
            f"{name} backward": Task(lambda: op.backward(grad, kept, activation, True)),
        }

    return {name: task for each in TIMED for name, task in tasks(each).items()}


def work(at: Dimensions) -> Work:
    return {
        f"bias_activation {activation} {direction}": ("bytes", passes * at.wide)
        for activation in TIMED
        for direction, passes in (("forward", 2), ("backward", 3))
    }


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    z, grad, bias = at.tensors(torch, *_shapes(at))
    functions = torch.nn.functional

    def tasks(name: str, activation: Callable[[Any], Any]) -> dict[str, Task]:
        name = f"bias_activation {name}"
        return torch_tasks(torch, name, lambda z, bias: activation(z + bias), [z, bias], grad)

    return {**tasks("relu", functions.relu), **tasks("gelu", functions.gelu)}


def _shapes(at: Dimensions) -> tuple[tuple[int, ...], ...]:
    shape = (at.rows, 4 * at.channels)
    return shape, shape, shape[1:]


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    x, y, grad, (_, bias) = on.x, on.y, on.grad, on.vectors
    yield Timed("bias and gelu", lambda op: op.forward(y, bias, "gelu"), 2 * x.nbytes)
    yield Timed(
        "bias and gelu backward",
        lambda op: op.backward(grad, (x, bias), "gelu", True),
        3 * x.nbytes,
    )


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        arrays = {"x": at.draw(5, length), "grad": at.draw(5, length), "bias_": at.draw(length)}
        for activation in ("relu", "gelu", "gelu_tanh"):
            case = f"{activation} (5, {length})"
            yield Check("bias_activation", case, _check(activation), arrays)


def _check(activation: str) -> Callable[[Any, Any], list[Array]]:
    def compute(op: Any, i: Any) -> list[Array]:
        y, kept = op.forward(i.x.copy(), i.bias_, activation)
        return [y, *op.backward(i.grad, kept, activation, True)]

    return compute
