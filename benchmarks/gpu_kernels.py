"""How fast a CUDA device copies and multiplies, and how near to that the kernels come.

Each row has the fewest bytes that the computation has to move and the products that it has to add
up; benchmarks/gpu_report.py says which of the two limits it, and how near it is to that limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.benchmarks.gpu_timing import Case, Row, recorded_seconds
from tinygrad_char.kernels import (
    adamw,
    attention,
    bias_activation,
    cross_entropy,
    dropout,
    embedding,
    gelu,
    global_norm,
    layernorm,
    linear,
    matmul,
    relu,
    residual,
    running_mean,
    sampling,
    softmax,
)
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.backend import Backend, bfloat16
from tinygrad_char.kernels.dropout import DropoutKey
from tinygrad_char.kernels.operations import using

KEY = DropoutKey(1, 1)
PRECISIONS = ("float32", "tf32", "bf16")


class Shape(NamedTuple):
    """Queries, keys and values of attention."""

    batch: int
    heads: int
    length: int
    size: int


class Sizes(NamedTuple):
    """How much is computed, and how often it is timed."""

    rounds: int
    rows: int
    """Of the arrays (rows, channels) of kernels that only move memory."""
    channels: int
    product: int
    """Rows and columns of the matrices whose product gives the ceiling."""
    tokens: int
    """Rows of the linear layers, and tokens of a batch of attention at each length."""
    embedding: int
    vocabulary: int
    words: int
    """Rows of the table of a vocabulary of words, not of characters."""
    training: Shape
    """The attention of a training step."""
    lengths: tuple[int, ...]
    """Of sequences, of which a batch has the fewer the longer they are."""


LENGTHS = tuple(1 << power for power in range(8, 15))
FULL = Sizes(20, 131_072, 1024, 8192, 16_384, 384, 65, 50_257, Shape(64, 6, 256, 64), LENGTHS)
QUICK = FULL._replace(rounds=5, lengths=(256, 2048, 16_384))
SMOKE = Sizes(1, 8, 64, 16, 16, 16, 7, 40, Shape(1, 1, 16, 16), (16, 32))

MEMORY_SHARE = 64
"""An array of kernels that move memory takes at most this part of what is free."""


def sizes_for(backend: Backend, quick: bool) -> Sizes:
    """Return the sizes for a device, smaller where its memory is small."""
    if backend.name != "cuda":
        return SMOKE
    sizes = QUICK if quick else FULL
    free = backend.xp.cuda.runtime.memGetInfo()[0]
    rows = free // MEMORY_SHARE // (4 * sizes.channels) // 1024 * 1024
    return sizes._replace(rows=max(1024, min(sizes.rows, rows)))


def draw(backend: Backend, shape: tuple[int, ...], dtype: np.dtype, seed: int = 0) -> Array:
    """Return normally distributed numbers on the device; long arrays repeat themselves."""
    parts = 16 if shape[0] % 16 == 0 else 1
    rng = np.random.default_rng(seed)
    part = rng.standard_normal((shape[0] // parts, *shape[1:]), np.float32)
    tiled = backend.xp.tile(backend.from_numpy(part), (parts, *[1] * (len(shape) - 1)))
    return tiled.astype(dtype)


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
            taken = _in_precision(
                backend,
                precision,
                lambda: backend.chosen().kernels[matmul.forward](a, b),
                sizes.rounds,
            )
            return {"seconds": taken, "precision": precision, "products": float(n) ** 3}

        yield Case(f"product {precision}", multiply)


def _dtype(precision: str) -> np.dtype:
    return bfloat16() if precision == "bf16" else np.dtype(np.float32)


def in_any_order(compute: Callable[[], Any]) -> Callable[[], Any]:
    """Return what computes the same with gradients that are added up in any order."""

    def atomic() -> Any:
        with using(atomics=True):
            return compute()

    return atomic


def _in_precision(
    backend: Backend,
    precision: str,
    compute: Callable[[], Any],
    rounds: int,
    atomics: bool = False,
) -> float:
    with using(tf32=precision == "tf32", atomics=atomics):
        return recorded_seconds(backend, compute, rounds)


def kernels(backend: Backend, quick: bool) -> Iterator[Case]:
    """Yield the time of each kernel."""
    sizes = sizes_for(backend, quick)
    for dtype in (np.dtype(np.float32), bfloat16()):
        for name, size, compute in _moving(backend, sizes, dtype):

            def move(size: int = size, compute: Callable = compute, dtype: np.dtype = dtype) -> Row:
                taken = recorded_seconds(backend, compute, sizes.rounds)
                return {"dtype": dtype.name, "seconds": taken, "bytes": size}

            yield Case(f"{name} {dtype.name}", move)
    yield from _multiplying(backend, sizes)


def _moving(
    backend: Backend, sizes: Sizes, dtype: np.dtype
) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Yield names, the fewest bytes that have to be moved, and what computes."""
    single = np.dtype(np.float32)
    rows, channels = sizes.rows, sizes.channels
    x, y, grad = (draw(backend, (rows, channels), dtype, seed) for seed in range(3))
    size = x.nbytes
    weight, bias = (draw(backend, (channels,), single, seed) for seed in range(2))
    _, mean, rstd = backend.chosen().kernels[layernorm.forward](x, weight, bias)
    rng = np.random.default_rng(0)
    targets = backend.from_numpy(rng.integers(0, channels, rows))
    _, statistics = backend.chosen().kernels[cross_entropy.forward](x, targets)
    one = backend.xp.ones((), np.float32)
    both = (True, True, True)
    ops = backend
    yield "layernorm", 2 * size, lambda: ops.chosen().kernels[layernorm.forward](x, weight, bias)
    yield (
        "layernorm backward",
        3 * size,
        lambda: ops.chosen().kernels[layernorm.backward](grad, x, weight, mean, rstd, both),
    )
    yield "softmax", 2 * size, lambda: ops.chosen().kernels[softmax.forward](x)
    yield "softmax backward", 3 * size, lambda: ops.chosen().kernels[softmax.backward](grad, y)
    yield "cross_entropy", size, lambda: ops.chosen().kernels[cross_entropy.forward](x, targets)
    yield (
        "cross_entropy backward",
        2 * size,
        lambda: ops.chosen().kernels[cross_entropy.backward](one, x, targets, statistics),
    )
    yield (
        "cross_entropy in one pass",
        2 * size,
        lambda: ops.chosen().kernels[cross_entropy.one_pass](x, targets),
    )
    yield (
        "bias and gelu",
        2 * size,
        lambda: ops.chosen().kernels[bias_activation.forward](y, bias, "gelu"),
    )
    yield (
        "bias and gelu backward",
        3 * size,
        lambda: ops.chosen().kernels[bias_activation.backward](grad, (x, bias), "gelu", True),
    )
    yield "gelu", 2 * size, lambda: ops.chosen().kernels[gelu.forward](x)
    yield "relu", 2 * size, lambda: ops.chosen().kernels[relu.forward](x)
    yield "dropout", 2 * size, lambda: ops.chosen().kernels[dropout.forward](x, 0.2, KEY)
    yield (
        "residual and dropout",
        3 * size,
        lambda: ops.chosen().kernels[residual.forward](y, bias, x, 0.2, KEY),
    )
    yield (
        "residual and dropout backward",
        2 * size,
        lambda: ops.chosen().kernels[residual.backward](grad, 0.2, KEY, True),
    )
    sequences = x.reshape(-1, min(512, rows), channels)
    yield "running_mean", 2 * size, lambda: ops.chosen().kernels[running_mean.forward](sequences)
    yield (
        "running_mean backward",
        2 * size,
        lambda: ops.chosen().kernels[running_mean.backward](sequences),
    )
    table, positions = (
        draw(backend, shape, single)
        for shape in ((sizes.vocabulary, channels), sequences.shape[1:])
    )
    letters, words = (
        backend.from_numpy(rng.integers(0, count, sequences.shape[:2]))
        for count in (sizes.vocabulary, sizes.words)
    )
    yield (
        "embedding of letters and positions",
        size + letters.nbytes + positions.nbytes,
        lambda: ops.chosen().kernels[embedding.forward](letters, table, positions, dtype),
    )
    yield (
        "embedding backward of positions",
        size + positions.nbytes,
        lambda: ops.chosen().kernels[embedding.backward_addend](sequences, positions.shape, single),
    )
    for name, indices, count in (
        ("embedding backward", letters, sizes.vocabulary),
        (f"embedding backward of {sizes.words} rows", words, sizes.words),
    ):
        moved = size + indices.nbytes + count * channels * single.itemsize

        def add_up(indices: Array = indices, count: int = count) -> Array:
            return ops.chosen().kernels[embedding.backward](sequences, indices, count, single)

        yield name, moved, add_up
        yield f"{name}, atomic", moved, in_any_order(add_up)
    uniform = backend.from_numpy(rng.random(rows, np.float32))
    yield "sampling", size, lambda: ops.chosen().kernels[sampling.forward](x, uniform)
    yield "norm of gradients", size, lambda: ops.chosen().kernels[global_norm.forward](grad)
    if dtype == single:
        flat = (x.reshape(-1), grad.reshape(-1), y.reshape(-1), (y * y).reshape(-1))
        options = {"step": 1, "lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
        yield (
            "adamw",
            7 * size,
            lambda: ops.chosen().kernels[adamw.update](*flat, decoupled=True, **options),
        )


def _multiplying(backend: Backend, sizes: Sizes) -> Iterator[Case]:
    """Yield the linear layers of a training step, and its attention, in each precision."""
    width = sizes.embedding
    layers = {
        "qkv": (width, 3 * width),
        "expand": (width, 4 * width),
        "contract": (4 * width, width),
    }

    @cache
    def attention_times(precision: str) -> Row:
        return attention_row(backend, sizes.training, precision, sizes.rounds)

    for precision in PRECISIONS:
        dtype = _dtype(precision)
        for name, (inputs, outputs) in layers.items():

            def multiply(
                precision: str = precision,
                dtype: np.dtype = dtype,
                inputs: int = inputs,
                outputs: int = outputs,
            ) -> Row:
                x = draw(backend, (sizes.tokens, inputs), dtype)
                weight = draw(backend, (outputs, inputs), dtype)
                taken = _in_precision(
                    backend,
                    precision,
                    lambda: backend.chosen().kernels[linear.forward](x, weight, None),
                    sizes.rounds,
                )
                size = x.nbytes + weight.nbytes + sizes.tokens * outputs * dtype.itemsize
                products = float(sizes.tokens * inputs * outputs)
                return {
                    "precision": precision,
                    "seconds": taken,
                    "bytes": size,
                    "products": products,
                }

            yield Case(f"linear {name} {precision}", multiply)
        for direction, field in (
            ("forward", "forward_seconds"),
            ("backward", "seconds"),
            ("backward, atomic", "atomic_seconds"),
        ):

            def attend(
                precision: str = precision, direction: str = direction, field: str = field
            ) -> Row:
                row = attention_times(precision)
                taken = row[field]
                if direction != "forward":
                    taken -= row["forward_seconds"]
                direction = direction.removesuffix(", atomic")
                return {
                    "precision": precision,
                    "shape": row["shape"],
                    "seconds": taken,
                    "bytes": row["bytes"][direction],
                    "products": row["products"][direction],
                }

            yield Case(f"attention {direction} {precision}", attend)


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
    dtype = _dtype(precision)
    q, k, v, grad = (backend.from_numpy(each).astype(dtype) for each in attention_inputs(shape))
    options = (True, shape.size**-0.5)
    grads = tuple(backend.xp.empty_like(each) for each in (q, k, v))

    def forward() -> Any:
        return backend.chosen().kernels[attention.forward](q, k, v, *options)

    def both() -> Any:
        out, statistics = forward()
        backend.chosen().kernels[attention.backward](
            grad, q, k, v, out, statistics, grads, *options
        )
        return out

    seconds = _in_precision(backend, precision, both, rounds)
    forward_seconds = _in_precision(backend, precision, forward, rounds)
    atomic_seconds = _in_precision(backend, precision, both, rounds, atomics=True)
    with using(tf32=precision == "tf32"):
        results = [both(), *grads]
    # Two products forward and five backward, of which the causal mask leaves half.
    product = np.prod(shape, dtype=float) * shape.length / 2
    return {
        "shape": list(shape),
        "precision": precision,
        "forward_seconds": forward_seconds,
        "seconds": seconds,
        "atomic_seconds": atomic_seconds,
        "bytes": {"forward": 4 * q.nbytes, "backward": 8 * q.nbytes},
        "products": {"forward": 2 * product, "backward": 5 * product},
        "sizes": [root_mean_square(backend.to_numpy(each)) for each in results],
    }


def root_mean_square(array: np.ndarray) -> float:
    """Return how large the numbers of an array are."""
    return float(np.sqrt(np.mean(np.square(array.astype(np.float32)), dtype=np.float64)))
