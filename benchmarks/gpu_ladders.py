"""The same result in ever better ways, on a CUDA device: loops, products, fused.

The mean of all positions so far, and causal attention, as benchmarks/averaging.py and
benchmarks/attention.py have them on the CPU, in float32. What Python has a loop around is launched
from Python, as it is written; the rest is recorded and repeated. Each result is compared with
float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.benchmarks.gpu_timing import Case, Row, median_seconds, recorded_seconds
from tinygrad_char.kernels import attention, matmul, running_mean, softmax
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.backend import Backend
from tinygrad_char.kernels.cuda.bench import Shape

BOUND = 1e-4
"""Of the largest element: some tens of times what float32 rounding leaves."""

Compute = Callable[..., Any]


class Sizes(NamedTuple):
    """Shapes, (B, T, C) and (B, H, T, D); those of loops are smaller, and said."""

    rounds: int
    averaging: tuple[int, int, int]
    averaging_loops: tuple[int, int, int]
    attention: Shape
    attention_loops: Shape


FULL = Sizes(
    *(10, (256, 512, 64), (8, 512, 64)),
    *(Shape(64, 6, 256, 64), Shape(1, 6, 256, 64)),
)
SMOKE = Sizes(1, (2, 16, 4), (1, 5, 4), Shape(1, 2, 16, 16), Shape(1, 1, 4, 16))


def averaging(backend: Backend, quick: bool) -> Iterator[Case]:
    """Yield the running mean by each way."""
    sizes = SMOKE if backend.name != "cuda" else FULL
    xp = backend.xp

    def loops(x: Array) -> Array:
        y = xp.empty_like(x)
        for b in range(x.shape[0]):
            for t in range(x.shape[1]):
                y[b, t] = x[b, : t + 1].sum(axis=0) / (t + 1)
        return y

    def product(x: Array) -> Array:
        weights = xp.tri(x.shape[1], dtype=np.float32)
        weights = weights / weights.sum(axis=1, keepdims=True)
        return backend.chosen().kernels[matmul.forward](weights, x)

    def softmax_weights(x: Array) -> Array:
        length = x.shape[1]
        mask = softmax.causal_mask(xp, length, length)
        scores = xp.zeros((length, length), np.float32)
        return backend.chosen().kernels[matmul.forward](
            backend.chosen().kernels[softmax.forward](scores, mask), x
        )

    ways: dict[str, tuple[tuple[int, ...], Compute]] = {
        "Python loops": (sizes.averaging_loops, loops),
        "triangular product": (sizes.averaging, product),
        "softmax weights": (sizes.averaging, softmax_weights),
        "running sum": (sizes.averaging, running_mean.forward),
        "fused": (sizes.averaging, backend.chosen().kernels[running_mean.forward]),
    }
    for name, (shape, compute) in ways.items():

        def average(shape: Any = shape, compute: Compute = compute) -> Row:
            host = np.random.default_rng(0).standard_normal(shape, np.float32)
            x = backend.from_numpy(host)
            expected = running_mean.forward(host[:1].astype(np.float64))
            compare(backend.to_numpy(compute(x)[:1]), expected)
            taken = _seconds(backend, lambda: compute(x), sizes.rounds, compute is loops)
            return {"shape": list(shape), "seconds": taken, "bytes": 2 * host.nbytes}

        yield Case(f"running mean, {name}", average)


def attending(backend: Backend, quick: bool) -> Iterator[Case]:
    """Yield causal attention, forward, by each way; then with backward, but for the loops."""
    sizes = SMOKE if backend.name != "cuda" else FULL
    xp = backend.xp
    scale = sizes.attention.size**-0.5

    def loops(q: Array, k: Array, v: Array, _: Array) -> tuple[Array, ...]:
        out = xp.empty_like(q)
        for b in range(q.shape[0]):
            for h in range(q.shape[1]):
                for i in range(q.shape[2]):
                    scores = (k[b, h, : i + 1] * q[b, h, i]).sum(axis=1) * scale
                    weights = xp.exp(scores - scores.max())
                    weights = weights / weights.sum()
                    out[b, h, i] = (v[b, h, : i + 1] * weights[:, None]).sum(axis=0)
        return (out,)

    def weigh(q: Array, k: Array) -> Array:
        mask = softmax.causal_mask(xp, q.shape[2], k.shape[2])
        scores = backend.chosen().kernels[matmul.forward](q, k.swapaxes(-1, -2)) * scale
        return backend.chosen().kernels[softmax.forward](scores, mask)

    def product(q: Array, k: Array, v: Array, _: Array) -> tuple[Array, ...]:
        return (backend.chosen().kernels[matmul.forward](weigh(q, k), v),)

    def product_both(q: Array, k: Array, v: Array, grad: Array) -> tuple[Array, ...]:
        multiply = backend.chosen().kernels[matmul.forward]
        weights = weigh(q, k)
        out = multiply(weights, v)
        slopes = multiply(grad, v.swapaxes(-1, -2))
        slopes = backend.chosen().kernels[softmax.backward](slopes, weights) * scale
        turned = slopes.swapaxes(-1, -2), weights.swapaxes(-1, -2)
        return out, multiply(slopes, k), multiply(turned[0], q), multiply(turned[1], grad)

    options = attention.Options(True, scale)

    def fused(q: Array, k: Array, v: Array, _: Array) -> tuple[Array, ...]:
        return (backend.chosen().kernels[attention.forward](q, k, v, options)[0],)

    def fused_both(q: Array, k: Array, v: Array, grad: Array) -> tuple[Array, ...]:
        saved = attention.Saved(
            q, k, v, *backend.chosen().kernels[attention.forward](q, k, v, options)
        )
        grads = xp.empty_like(q), xp.empty_like(k), xp.empty_like(v)
        backend.chosen().kernels[attention.backward](grad, saved, grads, options)
        return saved.out, *grads

    ways: dict[str, tuple[Shape, Compute]] = {
        "Python loops": (sizes.attention_loops, loops),
        "whole matrices": (sizes.attention, product),
        "fused": (sizes.attention, fused),
        "whole matrices, with backward": (sizes.attention, product_both),
        "fused, with backward": (sizes.attention, fused_both),
    }
    for name, (shape, compute) in ways.items():

        def attend(shape: Shape = shape, compute: Compute = compute) -> Row:
            return _attend(backend, shape, scale, compute, sizes.rounds, compute is loops)

        yield Case(f"attention, {name}", attend)


def _attend(
    backend: Backend, shape: Shape, scale: float, compute: Compute, rounds: int, in_python: bool
) -> Row:
    """Return the time and the work of a way to attend, whose first head is right."""
    rng = np.random.default_rng(0)
    host = [rng.standard_normal(shape, np.float32) for _ in range(4)]
    arrays = [backend.from_numpy(each) for each in host]
    q, k, v, grad = (each[:1, :1].astype(np.float64) for each in host)
    results = compute(*arrays)
    for mine, exact in zip(results, _reference(q, k, v, grad, scale), strict=False):
        compare(backend.to_numpy(mine[:1, :1]), exact)
    product = np.prod(shape, dtype=float) * shape.length / 2
    return {
        "shape": list(shape),
        "seconds": _seconds(backend, lambda: compute(*arrays), rounds, in_python),
        "precision": "float32",
        "bytes": (4 if len(results) == 1 else 8) * host[0].nbytes,
        "products": (2 if len(results) == 1 else 7) * product,
    }


def _reference(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, grad: np.ndarray, scale: float
) -> tuple[np.ndarray, ...]:
    options = attention.Options(True, scale)
    saved = attention.Saved(q, k, v, *attention.forward(q, k, v, options))
    grads = (np.empty_like(q), np.empty_like(k), np.empty_like(v))
    attention.backward(grad, saved, grads, options)
    return saved.out, *grads


def _seconds(backend: Backend, compute: Callable[[], Any], rounds: int, looping: bool) -> float:
    if looping:
        return median_seconds(backend, compute, min(rounds, 3))
    return recorded_seconds(backend, compute, rounds)


def compare(result: np.ndarray, expected: np.ndarray) -> None:
    """Raise ValueError unless a result is what it should be."""
    error = float(np.abs(result.astype(np.float64) - expected).max() / np.abs(expected).max())
    if not error <= BOUND:
        raise ValueError(f"the result differs from float64 by {error:.2g} of its largest element")
