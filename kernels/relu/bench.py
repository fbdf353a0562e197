"""ReLU on a device, measured and checked."""

from collections.abc import Iterator
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed, checks_of_rows


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    yield Timed("relu", lambda op: op.forward(on.x), 2 * on.x.nbytes)


def checks(at: Ragged) -> Iterator[Check]:
    return checks_of_rows(at, "relu", _check)


def _check(op: Any, i: Any) -> list[Array]:
    y = op.forward(i.x)
    return [y, op.backward(i.grad, y)]
