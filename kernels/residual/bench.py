"""Bias, dropout and addition to the residual stream, measured and checked."""

from collections.abc import Callable, Iterator
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, InPlace, Task, Work, torch_tasks
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed, checks_of_rows
from tinygrad_char.kernels.dropout import DropoutKey
from tinygrad_char.kernels.dropout.bench import CHECKED_KEY, DROPPED, TIMED_KEY


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    # Compared without dropout: PyTorch keeps other elements.
    z, x, grad, bias = at.operands(*_shapes(at))
    buffer, key = InPlace(z), DropoutKey(1, 2)
    return {
        "residual forward": Task(
            lambda: op.forward(buffer.used(), bias, x, DROPPED, key),
            lambda: op.forward(buffer.fresh(), bias, x, 0.0, None),
        ),
        "residual backward": Task(
            lambda: op.backward(grad, DROPPED, key, True),
            lambda: op.backward(grad, 0.0, None, True),
        ),
    }


def work(at: Dimensions) -> Work:
    return at.moved("residual", 3 * at.stream, 2 * at.stream)


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    # The gradient of the stream is that of the result, which costs neither side anything.
    z, x, grad, bias = at.tensors(torch, *_shapes(at))

    def add(p: float) -> Callable[..., Any]:
        return lambda z, bias: x + torch.nn.functional.dropout(z + bias, p)

    return torch_tasks(torch, "residual", add(DROPPED), [z, bias], grad, add(0.0))


def _shapes(at: Dimensions) -> tuple[tuple[int, ...], ...]:
    shape = (at.rows, at.channels)
    return shape, shape, shape, shape[1:]


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    x, y, grad, (_, bias) = on.x, on.y, on.grad, on.vectors
    yield Timed(
        "residual and dropout", lambda op: op.forward(y, bias, x, 0.2, TIMED_KEY), 3 * x.nbytes
    )
    yield Timed(
        "residual and dropout backward",
        lambda op: op.backward(grad, 0.2, TIMED_KEY, True),
        2 * x.nbytes,
    )


def checks(at: Ragged) -> Iterator[Check]:
    return checks_of_rows(at, "residual", _check, ("x", "grad", "z"), ("bias_",))


def _check(op: Any, i: Any) -> list[Array]:
    y = op.forward(i.z.copy(), i.bias_, i.x, 0.3, CHECKED_KEY)
    return [y, *op.backward(i.grad, 0.3, CHECKED_KEY, True)]
