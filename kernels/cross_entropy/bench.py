"""The loss of logits, measured and checked."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, torch_tasks
from tinygrad_char.kernels.cross_entropy.reference import Saved
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed

WIDE = 9001
"""Classes that are more than a block keeps in registers."""


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    (logits,) = at.operands((at.rows, at.classes))
    targets = at.indices(at.rows, at.classes)
    _, statistics = op.forward(logits, targets)
    one = np.float32(1)
    return {
        "cross_entropy forward": Task(
            lambda: op.forward(logits, targets), lambda: op.forward(logits, targets)[0]
        ),
        "cross_entropy backward": Task(
            lambda: op.backward(one, Saved(logits, targets, statistics))
        ),
    }


def work(at: Dimensions) -> Work:
    return at.moved("cross_entropy", at.logits, 2 * at.logits)


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    logits = at.tensors(torch, (at.rows, at.classes))
    targets = torch.from_numpy(at.indices(at.rows, at.classes))
    loss = torch.nn.functional.cross_entropy
    one = torch.tensor(1.0)
    return torch_tasks(torch, "cross_entropy", lambda x: loss(x, targets), logits, one)


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    x, size = on.x, on.x.nbytes
    targets = on.integers(on.sizes.channels, on.sizes.rows)
    _, statistics = op.forward(x, targets)
    one = on.backend.xp.ones((), np.float32)
    yield Timed("cross_entropy", lambda op: op.forward(x, targets), size)
    yield Timed(
        "cross_entropy backward",
        lambda op: op.backward(one, Saved(x, targets, statistics)),
        2 * size,
    )
    yield Timed("cross_entropy in one pass", lambda op: op.one_pass(x, targets), 2 * size)


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        case = f"(5, {length})"
        arrays = {"x": at.draw(5, length), "idx": at.integers(length, 5)}
        yield Check("cross_entropy", case, _check, arrays)
        yield Check("cross_entropy", f"one pass {case}", _check_one_pass, arrays)
        far = {**arrays, "x": at.draw(5, length) + np.float32(1000)}
        yield Check("cross_entropy", f"{case} near 1000", _check_one_pass, far)
    wide = {"x": at.draw(3, WIDE), "idx": at.integers(WIDE, 3)}
    yield Check("cross_entropy", f"one pass (3, {WIDE})", _check_one_pass, wide)


def _check(op: Any, i: Any) -> list[Array]:
    loss, statistics = op.forward(i.x, i.idx)
    one = i.x[:1, 0].astype(loss.dtype).reshape(()) * 0 + 1
    return [loss, statistics, op.backward(one, Saved(i.x, i.idx, statistics))]


def _check_one_pass(op: Any, i: Any) -> list[Array]:
    half = i.x[:1, 0].astype(np.float32).reshape(()) * 0 + np.float32(0.5)
    found = op.one_pass(i.x, i.idx)
    if found is NotImplemented:  # as by the reference: it is left to backward
        loss, statistics = op.forward(i.x, i.idx)
        return [loss, statistics, op.backward(half, Saved(i.x, i.idx, statistics))]
    loss, statistics, gradient = found
    return [loss, statistics, op.rescale(half, gradient)]
