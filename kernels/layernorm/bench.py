"""Normalisation of the residual stream, measured and checked."""

from collections.abc import Iterator
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, torch_tasks
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed, checks_of_rows
from tinygrad_char.kernels.layernorm.reference import Saved

ALL, SCALED = (True, True, True), (True, True, False)


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    x, grad, weight, bias = at.operands(*_shapes(at))
    _, mean, rstd = op.forward(x, weight, bias)
    return {
        "layernorm forward": Task(
            lambda: op.forward(x, weight, bias), lambda: op.forward(x, weight, bias)[0]
        ),
        "layernorm backward": Task(lambda: op.backward(grad, Saved(x, weight, mean, rstd), ALL)),
        **_rms_norm(op, x, grad, weight),
    }


def _rms_norm(op: Any, x: Array, grad: Array, weight: Array) -> dict[str, Task]:
    def forward() -> Any:
        return op.rms_forward(x, weight, None)

    def backward() -> Any:
        return op.rms_backward(grad, saved, SCALED)

    saved = Saved(x, weight, None, forward()[1])
    return {
        "layernorm rms forward": Task(forward, lambda: forward()[0]),
        "layernorm rms backward": Task(backward, lambda: backward()[:2]),
    }


def work(at: Dimensions) -> Work:
    moved = 2 * at.stream, 3 * at.stream
    return {**at.moved("layernorm", *moved), **at.moved("layernorm rms", *moved)}


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    x, grad, weight, bias = at.tensors(torch, *_shapes(at))

    def normalize(x: Any, weight: Any, bias: Any) -> Any:
        return torch.nn.functional.layer_norm(x, (at.channels,), weight, bias)

    def rms_normalize(x: Any, weight: Any) -> Any:
        return torch.nn.functional.rms_norm(x, (at.channels,), weight, 1e-5)

    return {
        **torch_tasks(torch, "layernorm", normalize, [x, weight, bias], grad),
        **torch_tasks(torch, "layernorm rms", rms_normalize, [x, weight], grad),
    }


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
    z, root = op.rms_forward(i.x, i.weight_, i.bias_)
    return [
        *(y, *op.backward(i.grad, Saved(i.x, i.weight_, mean, rstd), ALL)),
        *(z, *op.rms_backward(i.grad, Saved(i.x, i.weight_, None, root), ALL)),
    ]
