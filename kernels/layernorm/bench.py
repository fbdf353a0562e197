"""Normalisation of the residual stream, measured and checked."""

from collections.abc import Iterator
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, torch_tasks
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed, checks_of_rows
from tinygrad_char.kernels.layernorm.reference import Saved

ALL = (True, True, True)


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    x, grad, weight, bias = at.operands(*_shapes(at))
    _, mean, rstd = op.forward(x, weight, bias)
    return {
        "layernorm forward": Task(
            lambda: op.forward(x, weight, bias), lambda: op.forward(x, weight, bias)[0]
        ),
        "layernorm backward": Task(lambda: op.backward(grad, Saved(x, weight, mean, rstd), ALL)),
    }


def work(at: Dimensions) -> Work:
    return at.moved("layernorm", 2 * at.stream, 3 * at.stream)


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    x, grad, weight, bias = at.tensors(torch, *_shapes(at))

    def normalize(x: Any, weight: Any, bias: Any) -> Any:
        return torch.nn.functional.layer_norm(x, (at.channels,), weight, bias)

    return torch_tasks(torch, "layernorm", normalize, [x, weight, bias], grad)


def _shapes(at: Dimensions) -> tuple[tuple[int, ...], ...]:
    shape = (at.rows, at.channels)
    return shape, shape, shape[1:], shape[1:]


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    x, grad, (weight, bias) = on.x, on.grad, on.vectors
    _, mean, rstd = op.forward(x, weight, bias)
    yield Timed("layernorm", lambda op: op.forward(x, weight, bias), 2 * x.nbytes)
    yield Timed(
        "layernorm backward",
        lambda op: op.backward(grad, Saved(x, weight, mean, rstd), ALL),
        3 * x.nbytes,
    )


def checks(at: Ragged) -> Iterator[Check]:
    return checks_of_rows(at, "layernorm", _check, vectors=("weight_", "bias_"))


def _check(op: Any, i: Any) -> list[Array]:
    y, mean, rstd = op.forward(i.x, i.weight_, i.bias_)
    return [y, *op.backward(i.grad, Saved(i.x, i.weight_, mean, rstd), ALL)]
