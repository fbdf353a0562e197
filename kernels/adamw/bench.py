"""AdamW on a flat buffer of all parameters, measured and checked."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed

OPTIONS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
COMPARED_STEPS = 3


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    parameter, grad = at.operands((at.parameters,), (at.parameters,))

    def buffers() -> tuple[Array, Array, Array]:
        return parameter.copy(), np.zeros_like(grad), np.zeros_like(grad)

    p, m, v = buffers()

    def check() -> Array:
        p, m, v = buffers()
        for step in range(1, COMPARED_STEPS + 1):
            op.update(p, grad, m, v, step=step, decoupled=True, **OPTIONS)
        return p

    def run() -> None:
        op.update(p, grad, m, v, step=9, decoupled=True, **OPTIONS)

    return {"adamw": Task(run, check)}


def work(at: Dimensions) -> Work:
    return {"adamw": ("bytes", 28.0 * at.parameters)}


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    parameter, grad = at.tensors(torch, (at.parameters,), (at.parameters,))

    def start() -> tuple[Any, Any]:
        weights = parameter.clone().requires_grad_()
        weights.grad = grad
        return weights, torch.optim.AdamW([weights], fused=True, **OPTIONS)

    _, optimizer = start()

    def check() -> Any:
        weights, optimizer = start()
        for _ in range(COMPARED_STEPS):
            optimizer.step()
        return weights.detach()

    return {"adamw": Task(optimizer.step, check)}


def moving(op: Any, on: OnDevice) -> Iterator[Timed]:
    if on.dtype == np.float32:
        flat = [each.reshape(-1) for each in (on.x, on.grad, on.y, on.y * on.y)]
        yield Timed(
            "adamw",
            lambda op: op.update(*flat, step=1, decoupled=True, **OPTIONS),
            7 * on.x.nbytes,
        )


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        p, g, m, v = (at.draw(length) for _ in range(4))
        state = {"p_": p, "g_": g, "m_": m, "v_": v**2}
        yield Check("adamw", f"({length},)", _check, state, ("float32",))


def _check(op: Any, i: Any) -> list[Array]:
    p, g, m, v = (each.copy() for each in (i.p_, i.g_, i.m_, i.v_))
    options = {**OPTIONS, "lr": 0.01}
    op.update(p, g, m, v, step=3, decoupled=True, grad_scale=0.5, **options)
    return [p, m, v]
