"""A character for each row of logits, measured and checked."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed
from tinygrad_char.kernels.sampling.reference import Options

TEMPERATURE, TOP_P = 0.8, 0.9
ALL, FEW = Options(TEMPERATURE), Options(TEMPERATURE, None, TOP_P)


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    (logits,) = at.operands((at.rows, at.classes))
    uniform = np.random.default_rng(1).random(at.rows)  # the same ones each time
    return {
        "sampling": Task(lambda: op.forward(logits, uniform, ALL)),
        "sampling top-p": Task(lambda: op.forward(logits, uniform, FEW)),
    }


def work(at: Dimensions) -> Work:
    moved = ("bytes", at.logits + 16.0 * at.rows)
    return {"sampling": moved, "sampling top-p": moved}


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    (logits,) = at.tensors(torch, (at.rows, at.classes))
    uniform = torch.from_numpy(np.random.default_rng(1).random((at.rows, 1)))

    def probabilities(logits: Any, top_p: float) -> Any:
        p = torch.nn.functional.softmax(logits / TEMPERATURE, dim=-1)
        if top_p < 1:
            ranked, order = p.sort(dim=-1, descending=True, stable=True)
            ranked[ranked.cumsum(dim=-1) - ranked >= top_p] = 0
            p = torch.zeros_like(p).scatter_(-1, order, ranked)
        return p

    def task(top_p: float) -> Task:
        def check() -> Any:
            """Return what the uniform numbers choose: PyTorch draws others."""
            sums = probabilities(logits.double(), top_p).cumsum(dim=-1)
            return (sums <= uniform * sums[:, -1:]).sum(dim=-1)

        return Task(lambda: torch.multinomial(probabilities(logits, top_p), 1), check)

    return {"sampling": task(1.0), "sampling top-p": task(TOP_P)}


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    x = on.x
    uniform = on.backend.from_numpy(np.random.default_rng(0).random(len(x), np.float32))
    yield Timed("sampling", lambda op: op.forward(x, uniform), x.nbytes)


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        arrays = {"x": at.draw(5, length), "u_": at.rng.random(5)}
        yield Check("sampling", f"(5, {length})", _check, arrays)


def _check(op: Any, i: Any) -> list[Array]:
    return [op.forward(i.x, i.u_, Options(temperature=0.0))]
