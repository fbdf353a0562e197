"""ReLU on a device, measured and checked."""

from collections.abc import Iterator
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    yield Timed("relu", lambda op: op.forward(on.x), 2 * on.x.nbytes)


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        arrays = {"x": at.draw(5, length), "grad": at.draw(5, length)}
        yield Check("relu", f"(5, {length})", _check, arrays)


def _check(op: Any, i: Any) -> list[Array]:
    y = op.forward(i.x)
    return [y, op.backward(i.grad, y)]
