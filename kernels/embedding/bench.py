"""Rows of the tables of characters and positions, measured and checked."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, tasks, torch_tasks
from tinygrad_char.kernels.cuda.bench import ORDERS, Check, OnDevice, Ragged, Timed


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    weight, grad = at.operands((at.classes, at.channels), (at.rows, at.channels))
    idx = at.indices(at.rows, at.classes)
    return tasks(
        "embedding", lambda: op.forward(idx, weight), lambda: op.backward(grad, idx, at.classes)
    )


def work(at: Dimensions) -> Work:
    table = 4.0 * at.classes * at.channels
    return at.moved("embedding", 2 * at.stream, at.stream + table)


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    weight, grad = at.tensors(torch, (at.classes, at.channels), (at.rows, at.channels))
    idx = torch.from_numpy(at.indices(at.rows, at.classes))
    look_up = partial(torch.nn.functional.embedding, idx)
    return torch_tasks(torch, "embedding", look_up, [weight], grad)


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    sequences, sizes, single = on.sequences, on.sizes, np.dtype(np.float32)
    batch, length, channels = sequences.shape
    table = on.draw((sizes.vocabulary, channels), single)
    positions = on.draw((length, channels), single)
    letters = on.integers(sizes.vocabulary, batch, length)
    words = on.integers(sizes.words, batch, length)
    yield Timed(
        "embedding of letters and positions",
        lambda op: op.forward(letters, table, positions, on.dtype),
        sequences.nbytes + letters.nbytes + positions.nbytes,
    )
    yield Timed(
        "embedding backward of positions",
        lambda op: op.backward_addend(sequences, positions.shape, single),
        sequences.nbytes + positions.nbytes,
    )
    for name, idx, count in (
        ("embedding backward", letters, sizes.vocabulary),
        (f"embedding backward of {sizes.words} rows", words, sizes.words),
    ):

        def add_up(op: Any, idx: Array = idx, count: int = count) -> Array:
            return op.backward(sequences, idx, count, single)

        moved = sequences.nbytes + idx.nbytes + count * channels * single.itemsize
        yield Timed(name, add_up, moved)
        yield Timed(f"{name}, atomic", add_up, moved, atomics=True)


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        arrays = {
            "idx": at.integers(7, 3, length),
            "table_": at.draw(7, 24),
            "positions_": at.draw(length, 24),
            "grad": at.draw(3, length, 24),
        }
        for name, atomics in ORDERS.items():
            case = f"(3, {length}) of (7, 24){name}"
            yield Check("embedding", case, _check, arrays, atomics=atomics)


def _check(op: Any, i: Any) -> list[Array]:
    table, positions = i.table_, i.positions_
    return [
        op.forward(i.idx, table, positions, i.grad.dtype),
        op.backward(i.grad, i.idx, len(table), table.dtype),
        op.backward_addend(i.grad, positions.shape, table.dtype),
    ]
