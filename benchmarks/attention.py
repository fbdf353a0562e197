"""Causal attention in float32: plain loops, whole matrices, ours, and PyTorch's fused call.

Forward alone, and forward with the gradients of queries, keys and values. Each contender works
in a process of its own, whose growth in memory, operands included, is shown. Exit code 1 where
results differ.
"""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from tinygrad_char.benchmarks.measure import Contender
from tinygrad_char.benchmarks.report import Options, Report, parse
from tinygrad_char.kernels import attention, softmax
from tinygrad_char.kernels.backend import CPU
from tinygrad_char.kernels.cpu.bench import Task
from tinygrad_char.kernels.cpu.cores import available_cores, one_core
from tinygrad_char.models.memory import keep_freed_memory


class Shape(NamedTuple):
    """The shape of queries, keys and values."""

    batch: int
    heads: int
    length: int
    size: int


SHAPES = {
    "smoke": [Shape(2, 2, length, 8) for length in (8, 13)],
    "training": [Shape(64, 6, 256, 64)],
    "long": [Shape(4, 6, 2048, 64)],
    "sweep": [Shape(4, 6, 1 << power, 64) for power in range(3, 12)],
}
ROUNDS = {"smoke": 2, "training": 7, "long": 7, "sweep": 5}
LONGEST_LOOPS = 32
"""Beyond this length, the loops of a run take longer than everything else together."""
BOUND = 1e-4
"""Of the outputs and the gradients: some tens of times what float32 rounding leaves."""


@dataclass(frozen=True)
class Attention(Options):
    """Time causal attention, forward and backward."""

    size: Literal["smoke", "training", "long", "sweep"] = "training"
    """(64, 6, 256, 64), (4, 6, 2048, 64), or (4, 6, T, 64) for T = 8 to 2048."""


def operands(shape: Shape) -> list[np.ndarray]:
    """Return queries, keys, values, and a gradient of the result."""
    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape, np.float32) for _ in range(4)]


def prepare_ours(shape: Shape, alone: bool) -> dict[str, Task]:
    """Return the kernels of this installation, on all cores or, as within a shard, on one."""
    keep_freed_memory()
    q, k, v, grad = operands(shape)
    options = attention.Options(True, shape.size**-0.5)

    def forward() -> np.ndarray:
        with one_core() if alone else nullcontext():
            return CPU.kernels[attention.forward](q, k, v, options)[0]

    def both() -> tuple[np.ndarray, ...]:
        with one_core() if alone else nullcontext():
            saved = attention.Saved(q, k, v, *CPU.kernels[attention.forward](q, k, v, options))
            grads = (np.empty_like(q), np.empty_like(k), np.empty_like(v))
            CPU.kernels[attention.backward](grad, saved, grads, options)
            return saved.out, *grads

    return {"forward": Task(forward), "forward and backward": Task(both)}


def prepare_products(shape: Shape) -> dict[str, Task]:
    """Return attention as it is written on paper, with whole (T, T) matrices."""
    keep_freed_memory()
    q, k, v, grad = operands(shape)
    scale = np.float32(shape.size**-0.5)
    mask = softmax.causal_mask(np, shape.length, shape.length)

    def weigh() -> np.ndarray:
        return softmax.forward((q @ k.swapaxes(-1, -2)) * scale, mask)

    def both() -> tuple[np.ndarray, ...]:
        weights = weigh()
        out = weights @ v
        dscores = softmax.backward(grad @ v.swapaxes(-1, -2), weights) * scale
        return out, dscores @ k, dscores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ grad

    return {"forward": Task(lambda: weigh() @ v), "forward and backward": Task(both)}


def prepare_loops(shape: Shape) -> dict[str, Task]:
    """Return attention one element at a time, in Python."""
    arrays = [array.tolist() for array in operands(shape)]

    def each_head(function: Any) -> list[Any]:
        return [
            [function(*parts) for parts in zip(*sequence, strict=True)]
            for sequence in zip(*arrays, strict=True)
        ]

    def both() -> tuple[np.ndarray, ...]:
        results = np.array(each_head(loop_both), np.float32)  # (B, H, 4, T, D)
        return tuple(np.moveaxis(results, 2, 0))

    return {
        "forward": Task(
            lambda: np.array(each_head(lambda q, k, v, _: loop_forward(q, k, v)[0]), np.float32)
        ),
        "forward and backward": Task(both),
    }


Matrix = list[list[float]]


def loop_forward(q: Matrix, k: Matrix, v: Matrix) -> tuple[Matrix, Matrix]:
    """Return the result (T, D) of one head, and the weights, row i of which has i + 1."""
    size = len(q[0])
    scale = size**-0.5
    out, weights = [], []
    for i, query in enumerate(q):
        scores = [scale * _dot(query, k[j]) for j in range(i + 1)]
        peak = max(scores)
        row = [math.exp(score - peak) for score in scores]
        total = sum(row)
        row = [each / total for each in row]
        weights.append(row)
        out.append([sum(row[j] * v[j][d] for j in range(i + 1)) for d in range(size)])
    return out, weights


def loop_both(
    q: Matrix, k: Matrix, v: Matrix, grad: Matrix
) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """Return the result of one head and the gradients of q, k and v, each (T, D)."""
    out, weights = loop_forward(q, k, v)
    size = len(q[0])
    scale = size**-0.5
    grad_q, grad_k, grad_v = ([[0.0] * size for _ in q] for _ in range(3))
    for i, row in enumerate(weights):
        delta = _dot(grad[i], out[i])
        for j, weight in enumerate(row):
            dscore = weight * (_dot(grad[i], v[j]) - delta) * scale
            for d in range(size):
                grad_v[j][d] += weight * grad[i][d]
                grad_q[i][d] += dscore * k[j][d]
                grad_k[j][d] += dscore * q[i][d]
    return out, grad_q, grad_k, grad_v


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def main() -> None:
    """Compare, time, and exit 1 where results differ."""
    options = parse(Attention)
    report = Report("attention", options, BOUND)
    shapes = SHAPES[options.size]
    for shape in shapes:
        contenders = {"ours": Contender(prepare_ours, (shape, False))}
        if (options.threads or available_cores()) > 1:
            contenders["ours, one core"] = Contender(prepare_ours, (shape, True))
        contenders["whole matrices"] = Contender(prepare_products, (shape,))
        if shape.length <= LONGEST_LOOPS:
            contenders["Python loops"] = Contender(prepare_loops, (shape,))
        if options.against:
            from tinygrad_char.benchmarks.torch_models import prepare_attention

            contenders["PyTorch, sdpa"] = Contender(prepare_attention, (operands, shape))
        report.hold(
            f"(B, H, T, D) = {tuple(shape)}",
            contenders,
            rounds=ROUNDS[options.size],
            case={"shape": list(shape), "length": shape.length},
        )
    sys.exit(report.finish(x="length" if len(shapes) > 1 else None))


if __name__ == "__main__":
    main()
