"""What the kernels of a CUDA device compute, beside their references in float64.

Sizes are ragged on purpose. A result may be a small multiple of the float32 reference's own error
away from the truth, and a few roundings of its largest number in the precision at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.kernels import (
    adamw,
    attention,
    bias_activation,
    cross_entropy,
    dropout,
    embedding,
    global_norm,
    layernorm,
    linear,
    matmul,
    residual,
    running_mean,
    sampling,
    softmax,
)
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.backend import Backend, bfloat16, references
from tinygrad_char.kernels.dropout import DropoutKey
from tinygrad_char.kernels.operations import using

FACTOR, UNITS = 4.0, 6.0
ROUNDING = {"float32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}
KEY = DropoutKey(0x0123456789ABCDEF, 77)
LENGTHS = (1, 2, 31, 33, 127, 129, 1000, 1025)
ORDERS = {"": False, " atomic": True}
"""In which gradients are added up, and whether any will do."""
WIDE = 9001
"""Classes that are more than a block keeps in registers."""
HEADS = (16, 24, 32, 64, 80, 128)

Arrays = dict[str, np.ndarray]
Compute = Callable[[Any, Any], list[Array]]
"""Takes the operations (a backend or the references) and an object with the arrays by name."""


class Check(NamedTuple):
    """One computation, its inputs, and the precisions it is made in.

    Inputs whose names end in `_` stay float32 where the others are bfloat16, as parameters do. With
    `atomics`, gradients may be added up in any order.
    """

    name: str
    case: str
    compute: Compute
    arrays: Arrays
    precisions: tuple[str, ...] = ("float32", "bf16")
    atomics: bool = False


class Outcome(NamedTuple):
    """How far a computation was from the truth, and how far it might have been."""

    name: str
    case: str
    precision: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is a number, and small enough."""
        return self.error <= self.allowed


REFERENCES = references()


class _Named:
    def __init__(self, arrays: dict[str, Any]) -> None:
        self.__dict__.update(arrays)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no input {name!r}: there are {', '.join(self.__dict__)}")


def run(check: Check, precision: str, backend: Backend) -> Outcome:
    """Make a check on a device; the error is infinite where a result is missing or not finite."""
    low = bfloat16() if precision == "bf16" else np.dtype(np.float32)
    rounded = {
        name: each.astype(low) if each.dtype == np.float32 and not name.endswith("_") else each
        for name, each in check.arrays.items()
    }

    def wide(dtype: type) -> _Named:
        return _Named(
            {
                name: each.astype(dtype) if each.dtype in (low, np.float32) else each
                for name, each in rounded.items()
            }
        )

    device = {name: backend.from_numpy(each) for name, each in rounded.items()}
    with using(tf32=precision == "tf32", atomics=check.atomics):
        results = [backend.to_numpy(each) for each in check.compute(backend, _Named(device))]
    single, truth = (check.compute(REFERENCES, wide(t)) for t in (np.float32, np.float64))
    worst, bound = 0.0, 0.0
    for result, rough, exact in zip(results, single, truth, strict=True):
        scale = float(np.abs(exact).max(initial=0)) or 1.0
        error = float(np.abs(result.astype(np.float64) - exact).max(initial=0)) / scale
        own = float(np.abs(np.asarray(rough, np.float64) - exact).max(initial=0)) / scale
        allowed = FACTOR * own + UNITS * ROUNDING[precision]
        if not np.isfinite(error):
            error = np.inf
        if not bound or error / allowed > worst / bound:
            worst, bound = error, allowed
    return Outcome(check.name, check.case, precision, worst, bound)


def checks(quick: bool) -> Iterator[Check]:
    """Yield every check; fewer sizes if `quick`."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    lengths = LENGTHS[3:6:2] if quick else LENGTHS
    for length in lengths:
        rows = {"x": draw(5, length), "grad": draw(5, length)}
        columns = {"weight_": draw(length), "bias_": draw(length)}
        case = f"(5, {length})"
        yield Check("layernorm", case, _layernorm, {**rows, **columns})
        yield Check("softmax", case, _softmax, rows)
        yield Check("dropout", case, _dropout, rows)
        yield Check("residual", case, _residual, {**rows, "z": draw(5, length), **columns})
        for activation in ("relu", "gelu", "gelu_tanh"):
            compute = _bias_activation(activation)
            yield Check("bias_activation", f"{activation} {case}", compute, {**rows, **columns})
        targets = rng.integers(0, length, 5)
        logits = {"x": draw(5, length), "idx": targets}
        yield Check("cross_entropy", case, _cross_entropy, logits)
        yield Check("cross_entropy", f"one pass {case}", _cross_entropy_in_one_pass, logits)
        far: Arrays = {"x": draw(5, length) + np.float32(1000), "idx": targets}
        yield Check("cross_entropy", f"{case} near 1000", _cross_entropy_in_one_pass, far)
        indices = rng.integers(0, 7, (3, length))
        tables = {"table_": draw(7, 24), "positions_": draw(length, 24)}
        sums = {"idx": indices, **tables, "grad": draw(3, length, 24)}
        for name, atomics in ORDERS.items():
            case = f"(3, {length}) of (7, 24){name}"
            yield Check("embedding", case, _embedding, sums, atomics=atomics)
        state = {
            "p_": draw(length),
            "g_": draw(length),
            "m_": draw(length),
            "v_": draw(length) ** 2,
        }
        yield Check("adamw", f"({length},)", _adamw, state, ("float32",))
        yield Check("global_norm", f"({length},)", _global_norm, {"x": draw(length)})
        sequences = {"x": draw(2, length, 33), "grad": draw(2, length, 33)}
        yield Check("running_mean", f"(2, {length}, 33)", _running_mean, sequences)
        yield Check("sampling", case, _sampling, {"x": draw(5, length), "u_": rng.random(5)})
        product = {"a": draw(3, 33, length), "b": draw(3, length, 17), "grad": draw(3, 33, 17)}
        all_precisions = ("float32", "tf32", "bf16")
        yield Check("matmul", f"(3, 33, {length}, 17)", _matmul, product, all_precisions)
        layer = {"x": draw(3, 33, length), "weight_": draw(17, length), "grad": draw(3, 33, 17)}
        yield Check("linear", f"(99, {length}, 17)", _linear, layer, all_precisions)
    wide = {"x": draw(3, WIDE), "idx": rng.integers(0, WIDE, 3)}
    yield Check("cross_entropy", f"one pass (3, {WIDE})", _cross_entropy_in_one_pass, wide)
    for size in (16, 64) if quick else HEADS:
        for queries, keys in ((33, 33),) if quick else ((1, 65), (33, 33), (129, 129), (257, 300)):
            shapes = {"q": queries, "k": keys, "v": keys, "grad": queries}
            arrays = {name: draw(2, 3, length, size) for name, length in shapes.items()}
            for causal, p in ((True, 0.2), (False, 0.0)):
                case = f"(2, 3, {queries}, {keys}, {size}){' causal, dropout' if causal else ''}"
                compute, precisions = _attention(causal, p), ("float32", "tf32", "bf16")
                for name, atomics in ORDERS.items():
                    yield Check("attention", case + name, compute, arrays, precisions, atomics)
            far = {**arrays, **_far_from_zero(rng, arrays)}
            for name, atomics in ORDERS.items():
                case = f"(2, 3, {queries}, {keys}, {size}) near 1000{name}"
                yield Check("attention", case, _attention_far, far, precisions, atomics)


def _layernorm(ops: Any, i: Any) -> list[Array]:
    y, mean, rstd = ops.chosen().kernels[layernorm.forward](i.x, i.weight_, i.bias_)
    return [
        y,
        *ops.chosen().kernels[layernorm.backward](
            i.grad, i.x, i.weight_, mean, rstd, (True, True, True)
        ),
    ]


def _softmax(ops: Any, i: Any) -> list[Array]:
    y = ops.chosen().kernels[softmax.forward](i.x)
    return [y, ops.chosen().kernels[softmax.backward](i.grad, y)]


def _dropout(ops: Any, i: Any) -> list[Array]:
    return [
        ops.chosen().kernels[dropout.forward](i.x, 0.3, KEY),
        ops.chosen().kernels[dropout.backward](i.grad, 0.3, KEY),
    ]


def _residual(ops: Any, i: Any) -> list[Array]:
    y = ops.chosen().kernels[residual.forward](i.z.copy(), i.bias_, i.x, 0.3, KEY)
    return [y, *ops.chosen().kernels[residual.backward](i.grad, 0.3, KEY, True)]


def _bias_activation(activation: str) -> Compute:
    def compute(ops: Any, i: Any) -> list[Array]:
        y, kept = ops.chosen().kernels[bias_activation.forward](i.x.copy(), i.bias_, activation)
        return [y, *ops.chosen().kernels[bias_activation.backward](i.grad, kept, activation, True)]

    return compute


def _cross_entropy(ops: Any, i: Any) -> list[Array]:
    loss, statistics = ops.chosen().kernels[cross_entropy.forward](i.x, i.idx)
    one = i.x[:1, 0].astype(loss.dtype).reshape(()) * 0 + 1
    return [
        loss,
        statistics,
        ops.chosen().kernels[cross_entropy.backward](one, i.x, i.idx, statistics),
    ]


def _cross_entropy_in_one_pass(ops: Any, i: Any) -> list[Array]:
    half = i.x[:1, 0].astype(np.float32).reshape(()) * 0 + np.float32(0.5)
    if not hasattr(ops.cross_entropy, "one_pass"):
        loss, statistics = ops.chosen().kernels[cross_entropy.forward](i.x, i.idx)
        return [
            loss,
            statistics,
            ops.chosen().kernels[cross_entropy.backward](half, i.x, i.idx, statistics),
        ]
    loss, statistics, gradient = ops.chosen().kernels[cross_entropy.one_pass](i.x, i.idx)
    return [loss, statistics, ops.chosen().kernels[cross_entropy.rescale](half, gradient)]


def _embedding(ops: Any, i: Any) -> list[Array]:
    table, positions = i.table_, i.positions_
    return [
        ops.chosen().kernels[embedding.forward](i.idx, table, positions, i.grad.dtype),
        ops.chosen().kernels[embedding.backward](i.grad, i.idx, len(table), table.dtype),
        ops.chosen().kernels[embedding.backward_addend](i.grad, positions.shape, table.dtype),
    ]


def _adamw(ops: Any, i: Any) -> list[Array]:
    options = {"step": 3, "lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
    p, g, m, v = (each.copy() for each in (i.p_, i.g_, i.m_, i.v_))
    ops.chosen().kernels[adamw.update](p, g, m, v, decoupled=True, grad_scale=0.5, **options)
    return [p, m, v]


def _global_norm(ops: Any, i: Any) -> list[Array]:
    return [ops.chosen().kernels[global_norm.forward](i.x)]


def _sampling(ops: Any, i: Any) -> list[Array]:
    return [ops.chosen().kernels[sampling.forward](i.x, i.u_, temperature=0.0)]


def _running_mean(ops: Any, i: Any) -> list[Array]:
    return [
        ops.chosen().kernels[running_mean.forward](i.x),
        ops.chosen().kernels[running_mean.backward](i.grad),
    ]


def _matmul(ops: Any, i: Any) -> list[Array]:
    return [
        ops.chosen().kernels[matmul.forward](i.a, i.b),
        *ops.chosen().kernels[matmul.backward](i.grad, i.a, i.b, (True, True)),
    ]


def _linear(ops: Any, i: Any) -> list[Array]:
    y = ops.chosen().kernels[linear.forward](i.x, i.weight_, None)
    return [
        y,
        *ops.chosen().kernels[linear.backward](i.grad, i.x, i.weight_, (True, True, False))[:2],
    ]


def _far_from_zero(rng: np.random.Generator, arrays: Arrays) -> Arrays:
    """Return q and k whose products are exact in each precision, and near 1000.

    Their first channel, of ones and of 1024, adds to all scores what leaves the weights alone.
    """
    q, k = (rng.integers(-8, 9, arrays[name].shape).astype(np.float32) / 8 for name in "qk")
    q[..., 0], k[..., 0] = 1, 1024
    return {"q": q, "k": k}


def _attention_far(ops: Any, i: Any) -> list[Array]:
    """Return all but the gradient of the first channel of q, a sum of large numbers that is 0."""
    out, dq, dk, dv = _attention(True, 0.2)(ops, i)
    return [out, dq[..., 1:], dk, dv]


def _attention(causal: bool, p: float) -> Compute:
    def compute(ops: Any, i: Any) -> list[Array]:
        scale = i.q.shape[-1] ** -0.5
        options = (causal, scale, p, KEY)
        out, statistics = ops.chosen().kernels[attention.forward](i.q, i.k, i.v, *options)
        grads = tuple(each * np.float32(np.nan) for each in (i.q, i.k, i.v))
        grads = tuple(
            each.astype(like.dtype) for each, like in zip(grads, (i.q, i.k, i.v), strict=True)
        )
        ops.chosen().kernels[attention.backward](
            i.grad, i.q, i.k, i.v, out, statistics, grads, *options
        )
        return [out, *grads]

    return compute
