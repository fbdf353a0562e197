"""Linear layers of the feed-forward network and of attention, measured and checked."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, torch_tasks
from tinygrad_char.kernels.cuda.bench import PRECISIONS, Check, OnDevice, Ragged, Timed

LAYERS = 24
"""Linear layers that one character passes on its way through the model, when text is generated."""


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    x, weight, bias, grad = at.operands(*_shapes(at))
    weights = many_weights(at)
    return {
        "linear forward": Task(lambda: op.forward(x, weight, bias)),
        "linear backward": Task(lambda: op.backward(grad, x, weight, (True, True, True))),
        "linear one row": Task(lambda: tuple(op.forward(x[:1], each, None) for each in weights)),
    }


def many_weights(at: Dimensions) -> Array:
    """Return weights (LAYERS, 4C, C) that are not in the cache by the time that they come again."""
    return at.operands((LAYERS, 4 * at.channels, at.channels))[0]


def work(at: Dimensions) -> Work:
    product = 8.0 * at.rows * at.channels**2
    return {
        "linear forward": ("operations", product),
        "linear backward": ("operations", 2 * product),
        "linear one row": ("bytes", 16.0 * LAYERS * at.channels**2),
    }


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    *inputs, grad = at.tensors(torch, *_shapes(at))
    multiply = torch.nn.functional.linear
    row = inputs[0][:1].detach()
    weights = torch.from_numpy(many_weights(at))
    return {
        **torch_tasks(torch, "linear", multiply, inputs, grad),
        "linear one row": Task(lambda: tuple(multiply(row, each) for each in weights)),
    }


def _shapes(at: Dimensions) -> tuple[tuple[int, ...], ...]:
    """Return those of the product that widens the channels for the feed-forward network."""
    wide = 4 * at.channels
    return (at.rows, at.channels), (wide, at.channels), (wide,), (at.rows, wide)


def multiplying(op: Any, on: OnDevice) -> Iterator[Timed]:
    width, tokens = on.sizes.embedding, on.sizes.tokens
    for name, inputs, outputs in (
        ("qkv", width, 3 * width),
        ("expand", width, 4 * width),
        ("contract", 4 * width, width),
    ):
        x, weight = on.draw((tokens, inputs)), on.draw((outputs, inputs))
        yield Timed(
            f"linear {name}",
            partial(_multiply, x, weight),
            x.nbytes + weight.nbytes + tokens * outputs * on.dtype.itemsize,
            float(tokens * inputs * outputs),
        )


def _multiply(x: Array, weight: Array, op: Any) -> Array:
    return op.forward(x, weight, None)


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        x, weight, grad = at.draw(3, 33, length), at.draw(17, length), at.draw(3, 33, 17)
        arrays = {"x": x, "weight_": weight, "grad": grad}
        yield Check("linear", f"(99, {length}, 17)", _check, arrays, PRECISIONS)


def _check(op: Any, i: Any) -> list[Array]:
    y = op.forward(i.x, i.weight_, None)
    return [y, *op.backward(i.grad, i.x, i.weight_, (True, True, False))[:2]]
