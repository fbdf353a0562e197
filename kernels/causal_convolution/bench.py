"""Four taps over the residual stream, measured and checked."""

from collections.abc import Iterator
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, tasks, torch_tasks
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed

TAPS = 4
NEEDS = (True, True)


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    x, grad, weight = at.operands(*_shapes(at))
    return tasks(
        "causal_convolution",
        lambda: op.forward(x, weight),
        lambda: op.backward(grad, x, weight, NEEDS),
    )


def work(at: Dimensions) -> Work:
    return at.moved("causal_convolution", 2 * at.stream, 3 * at.stream)


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    x, grad, weight = at.tensors(torch, *_shapes(at))

    def convolve(x: Any, weight: Any) -> Any:
        padded = torch.nn.functional.pad(x.transpose(1, 2), (TAPS - 1, 0))
        taps = weight.flip(0).T.unsqueeze(1)
        mixed = torch.nn.functional.conv1d(padded, taps, groups=at.channels)
        return x + mixed.transpose(1, 2)

    return torch_tasks(torch, "causal_convolution", convolve, [x, weight], grad)


def _shapes(at: Dimensions) -> tuple[tuple[int, ...], ...]:
    shape = (at.batch, at.length, at.channels)
    return shape, shape, (TAPS, at.channels)


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    x, weight = on.sequences, on.draw((TAPS, on.sizes.channels), on.vectors[0].dtype)
    yield Timed("causal_convolution", lambda op: op.forward(x, weight), 2 * x.nbytes)
    yield Timed(
        "causal_convolution backward",
        lambda op: op.backward(x, x, weight, NEEDS),
        3 * x.nbytes,
    )


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        arrays = {
            "x": at.draw(2, length, 33),
            "grad": at.draw(2, length, 33),
            "weight_": at.draw(TAPS, 33),
        }
        yield Check("causal_convolution", f"(2, {length}, 33)", _check, arrays)


def _check(op: Any, i: Any) -> list[Array]:
    return [op.forward(i.x, i.weight_), *op.backward(i.grad, i.x, i.weight_, NEEDS)]
