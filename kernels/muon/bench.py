"""Muon on the weights of a few transformer blocks, measured and checked."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, InPlace, Task, Work
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed
from tinygrad_char.kernels.muon import COEFFICIENTS, Matrices, Rates, Rule, stretch

BLOCKS = 4
WIDTHS = (96, 384)
"""Channels that are timed besides those of the arrays."""
RULE = Rule()
RATES = Rates(lr=0.01, weight_decay=0.1)


def batches(channels: int) -> list[Matrices]:
    """Return where the weights of `BLOCKS` blocks lie that follow each other, by their shapes.

    Each has queries, keys and values (C, C) each, a projection (C, C), (4C, C) and (C, 4C).
    """
    square = channels * channels
    blocks = np.arange(BLOCKS)[:, None] * 12 * square
    return [
        Matrices((blocks + np.array(places) * square).reshape(-1), shape)
        for places, shape in (
            ((0, 1, 2, 3), (channels, channels)),
            ((4,), (4 * channels, channels)),
            ((8,), (channels, 4 * channels)),
        )
    ]


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    return {name: _task(op, channels) for name, channels in _widths(at).items()}


def _widths(at: Dimensions) -> dict[str, int]:
    small = {} if at.channels < min(WIDTHS) else {f"muon {each} channels": each for each in WIDTHS}
    return {"muon": at.channels, **small}


def _task(op: Any, channels: int) -> Task:
    size = 12 * BLOCKS * channels**2
    parameter, grad = Dimensions.operands((size,), (size,))
    p, m = InPlace(parameter), InPlace(np.zeros_like(grad))

    def run(p: Array, m: Array) -> Array:
        for each in batches(channels):
            op.update(p, grad, m, each, RULE, RATES)
        return p

    return Task(lambda: run(p.used(), m.used()), lambda: run(p.fresh(), m.fresh()))


def work(at: Dimensions) -> Work:
    return {
        name: ("operations", sum(len(starts) * operations(shape) for starts, shape in batches(c)))
        for name, c in _widths(at).items()
    }


def operations(shape: tuple[int, int]) -> float:
    """Return the operations of a matrix's products, of symmetric ones those of a triangle."""
    small, large = sorted(shape)
    symmetric = small * small * (large + (4 * RULE.ns_steps - 3) * small)
    return float(symmetric + 2 * small * small * large)


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    return {name: _torch_task(torch, channels) for name, channels in _widths(at).items()}


def _torch_task(torch: Any, channels: int) -> Task:
    """Return the same of tensors that have the matrices of one shape side by side."""
    size = 12 * BLOCKS * channels**2
    places = [
        torch.from_numpy(starts[:, None] + np.arange(shape[0] * shape[1]))
        for starts, shape in batches(channels)
    ]
    shapes = [(-1, *shape) for _, shape in batches(channels)]
    kept, decay = RULE.momentum, 1 - RATES.lr * RATES.weight_decay

    def start() -> list[list[Any]]:
        parameter, grad = Dimensions.tensors(torch, (size,), (size,))
        flat = parameter, grad, torch.zeros_like(grad)
        return [
            [each[place].view(shape) for each in flat]
            for place, shape in zip(places, shapes, strict=True)
        ]

    def run(state: list[list[Any]]) -> None:
        for p, g, m in state:
            m.lerp_(g, 1 - kept)
            x = torch_orthogonalize(torch, torch.lerp(g, m, kept))
            p.mul_(decay).sub_(x, alpha=RATES.lr * stretch(p.shape[1:]))

    def check() -> Any:
        state, whole = start(), torch.empty(size)
        run(state)
        for place, (p, *_) in zip(places, state, strict=True):
            whole[place] = p.view(place.shape)
        return whole

    used = start()
    return Task(lambda: run(used), check)


def torch_orthogonalize(torch: Any, x: Any) -> Any:
    """Return what `orthogonalize` does of x (N, R, C), as PyTorch computes it."""
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    tall = x.shape[1] >= x.shape[2]
    gram = x.mT @ x if tall else x @ x.mT
    one = torch.eye(gram.shape[1], dtype=x.dtype)
    total = None
    for number, (a, b, c) in enumerate(COEFFICIENTS[RULE.ns_steps], start=1):
        factor = torch.baddbmm(a * one + b * gram, gram, gram, alpha=c)
        if number < RULE.ns_steps:
            gram = gram @ factor @ factor
        total = factor if total is None else total @ factor
    return x @ total if tall else total @ x


def multiplying(op: Any, on: OnDevice) -> Iterator[Timed]:
    if on.dtype != np.float32:
        return
    width = on.sizes.embedding
    for name, shape in (("square", (width, width)), ("wide", (width, 4 * width))):
        x = on.draw((BLOCKS, *shape))
        small, large = shape
        full = small * small * (2 * large + (4 * RULE.ns_steps - 3) * small)
        yield Timed(f"muon {name}", partial(_orthogonalize, x), 2 * x.nbytes, float(BLOCKS * full))


def _orthogonalize(x: Array, op: Any) -> Array:
    return op.orthogonalize(x, RULE.ns_steps)


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        for shape in ((5, length), (length, 5)):
            arrays = {f"{name}_": at.draw(3, *shape) for name in "pgm"}
            arrays["starts"] = np.arange(3) * 5 * length
            yield Check("muon", f"(3, {shape[0]}, {shape[1]})", _check, arrays, ("float32",))


def _check(op: Any, i: Any) -> list[Array]:
    p, g, m = (each.copy().reshape(-1) for each in (i.p_, i.g_, i.m_))
    matrices = Matrices(i.starts, i.p_.shape[1:])
    op.update(p, g, m, matrices, RULE, RATES._replace(grad_scale=0.5))
    return [p, m, op.orthogonalize(i.g_, RULE.ns_steps)]
