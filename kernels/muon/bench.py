"""Muon on the weights of a few transformer blocks, measured and checked."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.bench import Dimensions, InPlace, Task, Work
from tinygrad_char.kernels.cuda.bench import Check, OnDevice, Ragged, Timed
from tinygrad_char.kernels.muon import COEFFICIENTS, Options, stretch

BLOCKS = 4
WIDTHS = (96, 384)
"""Channels that are timed besides those of the arrays."""
OPTIONS = Options(momentum=0.95, nesterov=True, ns_steps=3)
LR, DECAY = 0.01, 0.1

Batch = tuple[Array, tuple[int, int]]


def batches(channels: int) -> list[Batch]:
    """Return where the weights of `BLOCKS` blocks lie that follow each other, by their shapes.

    Each has queries, keys and values (C, C) each, a projection (C, C), (4C, C) and (C, 4C).
    """
    square = channels * channels
    blocks = np.arange(BLOCKS)[:, None] * 12 * square
    return [
        ((blocks + np.array(places) * square).reshape(-1), shape)
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
        for starts, shape in batches(channels):
            op.update(p, grad, m, starts, shape=shape, lr=LR, weight_decay=DECAY, options=OPTIONS)
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
    symmetric = small * small * (large + (4 * OPTIONS.ns_steps - 3) * small)
    return float(symmetric + 2 * small * small * large)


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    return {name: _torch_task(torch, channels) for name, channels in _widths(at).items()}


def _torch_task(torch: Any, channels: int) -> Task:
    size = 12 * BLOCKS * channels**2
    parameter, grad = Dimensions.tensors(torch, (size,), (size,))
    momentum = torch.zeros_like(grad)
    indices = [
        (torch.from_numpy(starts[:, None] + np.arange(shape[0] * shape[1])), shape)
        for starts, shape in batches(channels)
    ]

    def run(p: Any, m: Any) -> Any:
        kept = OPTIONS.momentum
        m.lerp_(grad, 1 - kept)
        u = m * kept + grad * (1 - kept)
        for places, shape in indices:
            x = torch_orthogonalize(torch, u[places].view(-1, *shape))
            p[places] = p[places] * (1 - LR * DECAY) - x.view(len(x), -1) * (LR * stretch(shape))
        return p

    return Task(
        lambda: run(parameter, momentum),
        lambda: run(parameter.clone(), torch.zeros_like(grad)),
    )


def torch_orthogonalize(torch: Any, x: Any) -> Any:
    """Return what `orthogonalize` does of x (N, R, C), as PyTorch computes it."""
    x = x / x.norm(dim=(1, 2), keepdim=True)
    tall = x.shape[1] >= x.shape[2]
    gram = x.mT @ x if tall else x @ x.mT
    one = torch.eye(gram.shape[1], dtype=x.dtype)
    total = one
    for a, b, c in COEFFICIENTS[OPTIONS.ns_steps]:
        factor = torch.baddbmm(a * one + b * gram, gram, gram, alpha=c)
        gram, total = gram @ factor @ factor, total @ factor
    return x @ total if tall else total @ x


def multiplying(op: Any, on: OnDevice) -> Iterator[Timed]:
    if on.dtype != np.float32:
        return
    width = on.sizes.embedding
    for name, shape in (("square", (width, width)), ("wide", (width, 4 * width))):
        x = on.draw((BLOCKS, *shape))
        small, large = shape
        full = small * small * (2 * large + (4 * OPTIONS.ns_steps - 3) * small)
        yield Timed(f"muon {name}", partial(_orthogonalize, x), 2 * x.nbytes, float(BLOCKS * full))


def _orthogonalize(x: Array, op: Any) -> Array:
    return op.orthogonalize(x, OPTIONS.ns_steps)


def checks(at: Ragged) -> Iterator[Check]:
    for length in at.lengths:
        for shape in ((5, length), (length, 5)):
            arrays = {f"{name}_": at.draw(3, *shape) for name in "pgm"}
            arrays["starts"] = np.arange(3) * 5 * length
            yield Check("muon", f"(3, {shape[0]}, {shape[1]})", _check, arrays, ("float32",))


def _check(op: Any, i: Any) -> list[Array]:
    p, g, m = (each.copy().reshape(-1) for each in (i.p_, i.g_, i.m_))
    options: dict[str, Any] = {"lr": LR, "weight_decay": DECAY, "options": OPTIONS}
    op.update(p, g, m, i.starts, shape=i.p_.shape[1:], grad_scale=0.5, **options)
    return [p, m, op.orthogonalize(i.g_, OPTIONS.ns_steps)]
