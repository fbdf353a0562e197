"""Causal attention, without and with dropout, measured and checked."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.attention.reference import Options, Saved
from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, torch_tasks
from tinygrad_char.kernels.cuda.bench import (
    ORDERS,
    PRECISIONS,
    Arrays,
    Check,
    OnDevice,
    Ragged,
    Timed,
)
from tinygrad_char.kernels.dropout import DropoutKey
from tinygrad_char.kernels.dropout.bench import CHECKED_KEY, DROPPED

HEADS = (16, 24, 32, 64, 80, 128)
"""Elements of a head."""
QUERIES_KEYS = ((1, 65), (33, 33), (129, 129), (257, 300))


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    q, k, v, grad = at.operands(*[_shape(at)] * 4)

    checked = Options(True, _shape(at)[-1] ** -0.5)  # without dropout, whose masks differ

    def tasks(name: str, options: Options) -> dict[str, Task]:
        saved = Saved(q, k, v, *op.forward(q, k, v, options))
        grads = tuple(np.empty_like(each) for each in (q, k, v))

        def check() -> tuple[Array, ...]:
            grads = tuple(np.empty_like(each) for each in (q, k, v))
            op.backward(grad, Saved(q, k, v, *op.forward(q, k, v, checked)), grads, checked)
            return grads

        return {
            f"{name} forward": Task(
                lambda: op.forward(q, k, v, options), lambda: op.forward(q, k, v, checked)[0]
            ),
            f"{name} backward": Task(lambda: op.backward(grad, saved, grads, options), check),
        }

    dropped = checked._replace(dropout=DROPPED, key=DropoutKey(1, 2))
    return {**tasks("attention", checked), **tasks("attention with dropout", dropped)}


def work(at: Dimensions) -> Work:
    # The upper half of a causal product counts nothing, what backward computes again does.
    half = at.batch * at.length * (at.length + 1.0) * at.channels
    return {
        f"{name} {direction}": ("operations", products * half)
        for name in ("attention", "attention with dropout")
        for direction, products in (("forward", 2), ("backward", 5))
    }


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    *qkv, grad = at.tensors(torch, *[_shape(at)] * 4)
    attention = torch.nn.functional.scaled_dot_product_attention

    def attend(p: float) -> Callable[..., Any]:
        return lambda q, k, v: attention(q, k, v, dropout_p=p, is_causal=True)

    return {
        **torch_tasks(torch, "attention", attend(0.0), qkv, grad),
        **torch_tasks(torch, "attention with dropout", attend(DROPPED), qkv, grad, attend(0.0)),
    }


def _shape(at: Dimensions) -> tuple[int, ...]:
    return at.batch, at.heads, at.length, at.channels // at.heads


class Passes(NamedTuple):
    """Causal attention on a device: forward, forward with backward, and what that writes."""

    forward: Callable[[Any], tuple[Array, Array]]
    both: Callable[[Any], Array]
    grads: tuple[Array, ...]
    size: int
    """Bytes of the queries."""
    products: float
    """One of forward's two, or of backward's five: the causal mask leaves half of it."""


def passes(q: Array, k: Array, v: Array, grad: Array) -> Passes:
    """Return the passes over these arrays (B, H, T, D)."""
    grads = tuple(namespace(q).empty_like(each) for each in (q, k, v))
    options = Options(True, q.shape[-1] ** -0.5)

    def forward(op: Any) -> tuple[Array, Array]:
        return op.forward(q, k, v, options)

    def both(op: Any) -> Array:
        out, statistics = forward(op)
        op.backward(grad, Saved(q, k, v, out, statistics), grads, options)
        return out

    product = np.prod(q.shape, dtype=float) * q.shape[2] / 2
    return Passes(forward, both, grads, q.nbytes, float(product))


def multiplying(op: Any, on: OnDevice) -> Iterator[Timed]:
    shape = on.sizes.training
    drawn = [on.draw(shape, seed=seed) for seed in range(4)]
    forward, both, _, size, product = passes(*drawn)
    yield Timed("attention forward", forward, 4 * size, 2 * product, shape=shape)
    backward = Timed("attention backward", both, 8 * size, 5 * product, False, forward, shape)
    yield backward
    yield backward._replace(name="attention backward, atomic", atomics=True)


def checks(at: Ragged) -> Iterator[Check]:
    for size in (16, 64) if at.quick else HEADS:
        for queries, keys in QUERIES_KEYS[1:2] if at.quick else QUERIES_KEYS:
            shapes = {"q": queries, "k": keys, "v": keys, "grad": queries}
            arrays = {name: at.draw(2, 3, length, size) for name, length in shapes.items()}
            shape = f"(2, 3, {queries}, {keys}, {size})"
            for causal, p in ((True, 0.2), (False, 0.0)):
                case, check = f"{shape}{' causal, dropout' if causal else ''}", _check(causal, p)
                for name, atomics in ORDERS.items():
                    yield Check("attention", case + name, check, arrays, PRECISIONS, atomics)
            far = {**arrays, **_far_from_zero(at, arrays)}
            for name, atomics in ORDERS.items():
                case = f"{shape} near 1000{name}"
                yield Check("attention", case, _check_far, far, PRECISIONS, atomics)


def _far_from_zero(at: Ragged, arrays: Arrays) -> Arrays:
    """Return q and k whose products are exact in each precision, and near 1000.

    Their first channel, of ones and of 1024, adds to all scores what leaves the weights alone.
    """
    q, k = ((at.integers(17, *arrays[name].shape) - 8).astype(np.float32) / 8 for name in "qk")
    q[..., 0], k[..., 0] = 1, 1024
    return {"q": q, "k": k}


def _check_far(op: Any, i: Any) -> list[Array]:
    """Return all but the gradient of the first channel of q, a sum of large numbers that is 0."""
    out, dq, dk, dv = _check(True, 0.2)(op, i)
    return [out, dq[..., 1:], dk, dv]


def _check(causal: bool, p: float) -> Callable[[Any, Any], list[Array]]:
    def compute(op: Any, i: Any) -> list[Array]:
        options = Options(causal, i.q.shape[-1] ** -0.5, p, CHECKED_KEY)
        out, statistics = op.forward(i.q, i.k, i.v, options)
        nan = np.float32(np.nan)
        grads = tuple((each * nan).astype(each.dtype) for each in (i.q, i.k, i.v))
        op.backward(i.grad, Saved(i.q, i.k, i.v, out, statistics), grads, options)
        return [out, *grads]

    return compute
