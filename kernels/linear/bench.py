"""Linear layers of the feed-forward network and of attention, measured and checked.

In bfloat16 PyTorch has two ways: autocast, whose results are bfloat16 too, and float32 products
whose precision is set to "medium". Both are compared with products of rounded operands.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, torch_tasks
from tinygrad_char.kernels.cuda.bench import PRECISIONS, Check, OnDevice, Ragged, Timed

WAYS = ("autocast", "medium")
"""PyTorch's, of products in bfloat16; ours is the same beside both."""
LAYERS = 24
"""Linear layers that one character passes on its way through the model, when text is generated."""


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    x, weight, bias, grad = at.operands(*_shapes(at))
    weights = many_weights(at)
    needs = (True, True, True)
    forward = Task(lambda: op.forward(x, weight, bias, bf16=True))
    backward = Task(lambda: op.backward(grad, x, weight, needs, bf16=True))
    return {
        "linear forward": Task(lambda: op.forward(x, weight, bias)),
        "linear backward": Task(lambda: op.backward(grad, x, weight, needs)),
        "linear one row": Task(lambda: tuple(op.forward(x[:1], each, None) for each in weights)),
        **{
            f"linear bf16 {way} {direction}": task
            for way in WAYS
            for direction, task in (("forward", forward), ("backward", backward))
        },
        "linear bf16 one row": Task(
            lambda: tuple(op.forward(x[:1], each, None, bf16=True) for each in weights)
        ),
    }


def many_weights(at: Dimensions) -> Array:
    """Return weights (LAYERS, 4C, C) that are not in the cache by the time that they come again."""
    return at.operands((LAYERS, 4 * at.channels, at.channels))[0]


def work(at: Dimensions) -> Work:
    product = 8.0 * at.rows * at.channels**2
    names = "linear", *(f"linear bf16 {way}" for way in WAYS)
    rows = "linear one row", "linear bf16 one row"
    return {
        **{f"{name} forward": ("operations", product) for name in names},
        **{f"{name} backward": ("operations", 2 * product) for name in names},
        **dict.fromkeys(rows, ("bytes", 16.0 * LAYERS * at.channels**2)),
    }


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    *inputs, grad = at.tensors(torch, *_shapes(at))
    multiply = torch.nn.functional.linear
    row = inputs[0][:1].detach()
    weights = torch.from_numpy(many_weights(at))
    low_row, low_weights = (each.bfloat16().float() for each in (row, weights))
    found = {
        **torch_tasks(torch, "linear", multiply, inputs, grad),
        "linear one row": Task(lambda: tuple(multiply(row, each) for each in weights)),
    }
    for way in WAYS:
        *inputs, grad = at.tensors(torch, *_shapes(at))
        found |= _torch_bf16(torch, way, inputs, grad)
    found["linear bf16 one row"] = Task(
        lambda: _autocast(torch, lambda: tuple(multiply(row, each) for each in weights)),
        lambda: tuple(multiply(low_row, each) for each in low_weights),
    )
    return found


def _torch_bf16(torch: Any, way: str, inputs: list[Any], grad: Any) -> dict[str, Task]:
    """Return forward and backward of a linear layer in one of PyTorch's ways."""
    multiply = torch.nn.functional.linear
    x, weight, bias = (each.requires_grad_() for each in inputs)
    low_x, low_weight = (each.detach().bfloat16().float().requires_grad_() for each in (x, weight))
    low_grad = grad.bfloat16().float()
    run = partial({"autocast": _autocast, "medium": _medium}[way], torch)

    def forward() -> Any:
        with torch.no_grad():
            return multiply(x, weight, bias)

    def exact() -> tuple[Any, ...]:
        out = multiply(low_x, low_weight)
        return *torch.autograd.grad(out, (low_x, low_weight), low_grad), grad.sum(0)

    out = run(lambda: multiply(x, weight, bias))
    given = grad.to(out.dtype)
    return {
        f"linear bf16 {way} forward": Task(
            lambda: run(forward), lambda: multiply(low_x, low_weight, bias).detach()
        ),
        f"linear bf16 {way} backward": Task(
            lambda: run(
                lambda: torch.autograd.grad(out, (x, weight, bias), given, retain_graph=True)
            ),
            exact,
        ),
    }


def _autocast(torch: Any, function: Callable[[], Any]) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return function()


def _medium(torch: Any, function: Callable[[], Any]) -> Any:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return function()
    finally:
        torch.set_float32_matmul_precision(before)


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
