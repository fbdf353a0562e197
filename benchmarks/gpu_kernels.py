"""How fast the kernels of a CUDA device are: against its copy bandwidth, and beside PyTorch.

Each computation is recorded and replayed, so that no time between launches is counted, neither
ours nor PyTorch's.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kernels.array import Array
from kernels.backend import Backend, bfloat16
from kernels.dropout import DropoutKey

Row = dict[str, Any]
KEY = DropoutKey(1, 1)
CHANNELS, HEAD, HEADS = 1024, 64, 6
TOKENS = 16384
"""Tokens of a batch of attention: sequences get fewer as they get longer."""


class Sizes:
    """How much is computed, and how often it is timed."""

    def __init__(self, rows: int, rounds: int, lengths: tuple[int, ...], tokens: int) -> None:
        self.rows, self.rounds, self.lengths, self.tokens = rows, rounds, lengths, tokens


FULL = Sizes(131_072, 20, (256, 512, 1024, 2048), TOKENS)
QUICK = Sizes(131_072, 5, (256, 2048), TOKENS)
SMOKE = Sizes(8, 2, (16,), 16)


def seconds(backend: Backend, compute: Callable[[], Any], rounds: int) -> float:
    """Return the median time of a replay of what `compute` does on the device."""
    backend.recorder.warm_up(compute)
    kept, replay = backend.recorder.record(compute)
    replay()
    samples = [_device_seconds(backend, replay) for _ in range(rounds)]
    del kept
    return statistics.median(samples)


def _device_seconds(backend: Backend, action: Callable[[], Any]) -> float:
    cuda = getattr(backend.xp, "cuda", None) if backend.name == "cuda" else None
    if cuda is None:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started
    start, end = cuda.Event(), cuda.Event()
    start.record()
    action()
    end.record()
    end.synchronize()
    return cuda.get_elapsed_time(start, end) / 1000


def copy_bandwidth(backend: Backend, sizes: Sizes) -> float:
    """Return the bytes read and written in a second by copying an array on the device."""
    source = backend.xp.ones((sizes.rows, CHANNELS), np.float32)
    target = backend.xp.empty_like(source)

    def copy() -> None:
        target[...] = source

    return 2 * source.nbytes / seconds(backend, copy, sizes.rounds)


def memory_bound(backend: Backend, sizes: Sizes) -> Iterator[Row]:
    """Yield for each kernel that only moves memory its time and its part of the copy bandwidth."""
    bandwidth = copy_bandwidth(backend, sizes)
    yield {"kernel": "copy", "bytes_per_second": bandwidth}
    for dtype in (np.dtype(np.float32), bfloat16()):
        for name, size, compute in _computations(backend, sizes, dtype):
            with backend.unchecked():
                taken = seconds(backend, compute, sizes.rounds)
            rate = size / taken
            yield {
                "kernel": name,
                "dtype": dtype.name,
                "seconds": taken,
                "bytes_per_second": rate,
                "part_of_copy": rate / bandwidth,
            }


def _computations(
    backend: Backend, sizes: Sizes, dtype: np.dtype
) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Yield names, the fewest bytes that have to be moved, and what computes."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Array:
        return backend.from_numpy(rng.standard_normal(shape, np.float32)).astype(dtype)

    rows = sizes.rows
    x, y, grad = (draw(rows, CHANNELS) for _ in range(3))
    size = x.nbytes
    weight, bias = (draw(CHANNELS).astype(np.float32) for _ in range(2))
    _, mean, rstd = backend.layernorm.forward(x, weight, bias)
    targets = backend.from_numpy(rng.integers(0, CHANNELS, rows))
    _, logsumexp = backend.cross_entropy.forward(x, targets)
    one = backend.xp.ones((), np.float32)
    both = (True, True, True)
    yield "layernorm", 2 * size, lambda: backend.layernorm.forward(x, weight, bias)
    yield (
        "layernorm backward",
        3 * size,
        lambda: backend.layernorm.backward(grad, x, weight, mean, rstd, both),
    )
    yield "softmax", 2 * size, lambda: backend.softmax.forward(x)
    yield "softmax backward", 3 * size, lambda: backend.softmax.backward(grad, y)
    yield "cross_entropy", size, lambda: backend.cross_entropy.forward(x, targets)
    yield (
        "cross_entropy backward",
        2 * size,
        lambda: backend.cross_entropy.backward(one, x, targets, logsumexp),
    )
    yield "bias and gelu", 2 * size, lambda: backend.bias_activation.forward(x, bias, "gelu")
    yield (
        "bias and gelu backward",
        3 * size,
        lambda: backend.bias_activation.backward(grad, (x, bias), "gelu", True),
    )
    yield "relu", 2 * size, lambda: backend.relu.forward(x)
    yield "dropout", 2 * size, lambda: backend.dropout.forward(x, 0.2, KEY)
    yield "residual and dropout", 3 * size, lambda: backend.residual.forward(x, bias, y, 0.2, KEY)
    yield "norm of gradients", size, lambda: backend.global_norm.forward(x)
    if dtype == np.float32:
        square = (y * y).reshape(-1)
        flat = (x.reshape(-1), grad.reshape(-1), y.reshape(-1), square)
        options = {"step": 1, "lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
        yield "adamw", 7 * size, lambda: backend.adamw.update(*flat, decoupled=True, **options)


def attention(backend: Backend, sizes: Sizes) -> Iterator[Row]:
    """Yield times of causal attention, forward and backward, in bfloat16, beside PyTorch's."""
    rng = np.random.default_rng(0)
    for length in sizes.lengths:
        shape = (max(1, sizes.tokens // length), HEADS, length, HEAD)
        host = [rng.standard_normal(shape, np.float32) for _ in range(4)]
        q, k, v, grad = (backend.from_numpy(each).astype(bfloat16()) for each in host)
        options = (True, HEAD**-0.5)
        grads = tuple(backend.xp.empty_like(each) for each in (q, k, v))

        def both(
            arrays: Any = (q, k, v), grad: Any = grad, grads: Any = grads, options: Any = options
        ) -> Any:
            out, logsumexp = backend.attention.forward(*arrays, *options)
            backend.attention.backward(grad, *arrays, out, logsumexp, grads, *options)
            return out

        row: Row = {"shape": list(shape), "seconds": seconds(backend, both, sizes.rounds)}
        # Two products forward and five backward, of which the causal mask leaves half.
        products = 7 * 2 * np.prod(shape, dtype=float) * length / 2
        row["flops_per_second"] = products / row["seconds"]
        if backend.name == "cuda" and importlib.util.find_spec("torch"):
            from benchmarks.gpu_torch import attention_seconds

            row["pytorch_flash_seconds"] = attention_seconds(host, sizes.rounds)
            row["pytorch_over_ours"] = row["pytorch_flash_seconds"] / row["seconds"]
        yield row
