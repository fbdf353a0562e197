"""How fast a CUDA device copies and multiplies, and how near to that the kernels come.

Each row has the fewest bytes that the computation has to move and the products that it has to add
up; benchmarks/gpu_report.py says which of the two limits it, and how near it is to that limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from tinygrad_char.benchmarks.gpu_timing import Case, Row, recorded_seconds
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.attention.bench import passes
from tinygrad_char.kernels.backend import Backend, bfloat16
from tinygrad_char.kernels.cuda.bench import PRECISIONS, OnDevice, Shape, Sizes, Timed, draw
from tinygrad_char.kernels.operations import benches, using

LENGTHS = tuple(1 << power for power in range(8, 15))
FULL = Sizes(20, 131_072, 1024, 8192, 16_384, 384, 65, 50_257, Shape(64, 6, 256, 64), LENGTHS)
QUICK = FULL._replace(rounds=5, lengths=(256, 2048, 16_384))
SMOKE = Sizes(1, 8, 64, 16, 16, 16, 7, 40, Shape(1, 1, 16, 16), (16, 32))

MEMORY_SHARE = 64
"""An array of kernels that move memory takes at most this part of what is free."""

Compute = Callable[[Any], Any]
"""Takes the functions of an operation."""


def sizes_for(backend: Backend, quick: bool) -> Sizes:
    """Return the sizes for a device, smaller where its memory is small."""
    if backend.name != "cuda":
        return SMOKE
    sizes = QUICK if quick else FULL
    free = backend.xp.cuda.runtime.memGetInfo()[0]
    rows = free // MEMORY_SHARE // (4 * sizes.channels) // 1024 * 1024
    return sizes._replace(rows=max(1024, min(sizes.rows, rows)))


def ceilings(backend: Backend, quick: bool) -> Iterator[Case]:
    """Yield what limits every kernel: bytes copied, and products added up, in a second."""
    sizes = sizes_for(backend, quick)

    def copy() -> Row:
        source = draw(backend, (sizes.rows, sizes.channels), np.dtype(np.float32))
        target = backend.xp.empty_like(source)

        def compute() -> Array:
            target[...] = source
            return target

        taken = recorded_seconds(backend, compute, sizes.rounds)
        return {"seconds": taken, "bytes": 2 * source.nbytes}

    yield Case("copy", copy)
    for precision in PRECISIONS:

        def multiply(precision: str = precision) -> Row:
            n = sizes.product
            a, b = (draw(backend, (n, n), _dtype(precision), seed) for seed in range(2))
            taken = _seconds(
                backend, "matmul", lambda op: op.forward(a, b), sizes.rounds, precision
            )
            return {"seconds": taken, "precision": precision, "products": float(n) ** 3}

        yield Case(f"product {precision}", multiply)


def _dtype(precision: str) -> np.dtype:
    return bfloat16() if precision == "bf16" else np.dtype(np.float32)


def _seconds(
    backend: Backend,
    name: str,
    compute: Compute,
    rounds: int,
    precision: str = "",
    atomics: bool = False,
) -> float:
    """Return the time of what an operation computes, in a precision, with sums in any order."""
    with using(tf32=precision == "tf32", atomics=atomics):
        return recorded_seconds(backend, _serving(backend, name, compute), rounds)


def _serving(backend: Backend, name: str, compute: Compute) -> Callable[[], Any]:
    """Return what computes with an operation as it is served in the context of the call."""
    return lambda: compute(backend.chosen().operation(name))


def kernels(backend: Backend, quick: bool) -> Iterator[Case]:
    """Yield the time of each kernel: what memory limits by dtype, products by precision."""
    sizes = sizes_for(backend, quick)
    for dtype in (np.dtype(np.float32), bfloat16()):
        on = OnDevice(backend, sizes, dtype)
        yield from _cases("moving", on, dtype.name, {"dtype": dtype.name})
    for precision in PRECISIONS:
        on = OnDevice(backend, sizes, _dtype(precision))
        yield from _cases("multiplying", on, precision, {"precision": precision})


def _cases(part: str, on: OnDevice, suffix: str, about: Row) -> Iterator[Case]:
    precision = about.get("precision", "")

    @cache
    def seconds(name: str, compute: Compute, atomics: bool) -> float:
        return _seconds(on.backend, name, compute, on.sizes.rounds, precision, atomics)

    for name, bench in benches(part).items():
        for timed in bench(on.backend.chosen().operation(name), on):

            def run(name: str = name, timed: Timed = timed) -> Row:
                taken = seconds(name, timed.compute, timed.atomics)
                if timed.includes is not None:
                    taken -= seconds(name, timed.includes, False)
                row = {**about, "seconds": taken, "bytes": timed.bytes}
                if timed.products is not None:
                    row["products"] = timed.products
                if timed.shape is not None:
                    row["shape"] = list(timed.shape)
                return row

            yield Case(f"{timed.name} {suffix}", run)


def attention_by_length(backend: Backend, quick: bool) -> Iterator[Case]:
    """Yield causal attention in bfloat16 at each length, forward and forward with backward."""
    sizes = sizes_for(backend, quick)
    for shape in attention_shapes(sizes):

        def attend(shape: Shape = shape) -> Row:
            return attention_row(backend, shape, "bf16", sizes.rounds)

        yield Case(f"T = {shape.length}", attend)


def attention_shapes(sizes: Sizes) -> list[Shape]:
    """Return a shape for each length, all of about as many tokens."""
    return [
        Shape(max(1, sizes.tokens // length), sizes.training.heads, length, sizes.training.size)
        for length in sizes.lengths
    ]


def attention_inputs(shape: Shape) -> list[np.ndarray]:
    """Return queries, keys, values and a gradient, the same for whoever computes."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for _ in range(4)]


def attention_row(backend: Backend, shape: Shape, precision: str, rounds: int) -> Row:
    """Return the times of causal attention, and the sizes of its results to compare."""
    inputs = [
        backend.from_numpy(each).astype(_dtype(precision)) for each in attention_inputs(shape)
    ]
    found = passes(*inputs)

    def seconds(compute: Compute, atomics: bool = False) -> float:
        return _seconds(backend, "attention", compute, rounds, precision, atomics)

    row = {
        "shape": list(shape),
        "precision": precision,
        "forward_seconds": seconds(found.forward),
        "seconds": seconds(found.both),
        "atomic_seconds": seconds(found.both, atomics=True),
        "bytes": {"forward": 4 * found.size, "backward": 8 * found.size},
        "products": {"forward": 2 * found.products, "backward": 5 * found.products},
    }
    with using(tf32=precision == "tf32"):
        results = [_serving(backend, "attention", found.both)(), *found.grads]
    row["sizes"] = [root_mean_square(backend.to_numpy(each)) for each in results]
    return row


def root_mean_square(array: np.ndarray) -> float:
    """Return how large the elements of an array are."""
    return float(np.sqrt(np.mean(np.square(array.astype(np.float32)), dtype=np.float64)))
