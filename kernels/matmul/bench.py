"""Matrix products, checked; their time on a device is what others are compared with."""

from collections.abc import Iterator
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cuda.bench import PRECISIONS, Check, Ragged


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        a, b, grad = at.draw(3, 33, length), at.draw(3, length, 17), at.draw(3, 33, 17)
        arrays = {"a": a, "b": b, "grad": grad}
        yield Check("matmul", f"(3, 33, {length}, 17)", _check, arrays, PRECISIONS)


def _check(op: Any, i: Any) -> list[Array]:
    return [op.forward(i.a, i.b), *op.backward(i.grad, i.a, i.b, (True, True))]
