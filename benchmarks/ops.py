"""Every fused kernel beside its reference and PyTorch, and beside what the machine can do.

The ceilings are measured in the same run: for kernels bound by memory, a copy that moves as many
bytes; for those bound by arithmetic, a large matrix product. One processor for each side unless
told otherwise, which is what a kernel has in training, where whole shards of a batch run side by
side. Exit code 1 where results differ.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from tinygrad_char.benchmarks.measure import Contender, Task
from tinygrad_char.benchmarks.report import TIMES, Columns, Options, Report, Row, parse
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.backend import CPU, references, status
from tinygrad_char.kernels.dropout import DropoutKey
from tinygrad_char.kernels.operations import operations
from tinygrad_char.models.memory import keep_freed_memory

BOUND = 1e-4
"""Some tens of times what float32 rounding leaves in sums over thousands of rows."""
P = 0.2
"""Probability of dropout."""
TEMPERATURE, TOP_P = 0.8, 0.9
"""Of the characters that are sampled."""
REFRESH = 50
"""Runs after which an array that is worked on in place gets its first values again."""
ADAMW: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
COMPARED_STEPS = 3
LAYERS = 24
"""Linear layers that one character passes on its way through the model, when text is generated."""


class Dimensions(NamedTuple):
    """Sequences, heads, characters of a sequence, channels, vocabulary, and parameters."""

    batch: int
    heads: int
    length: int
    channels: int
    classes: int
    parameters: int
    product: int

    @property
    def rows(self) -> int:
        """Characters of all sequences."""
        return self.batch * self.length


SIZES = {
    "smoke": Dimensions(2, 2, 5, 16, 7, 100, 64),
    "small": Dimensions(6, 4, 64, 128, 65, 804_096, 1024),
    "full": Dimensions(4, 6, 256, 384, 65, 10_788_929, 1024),
    "large": Dimensions(64, 6, 256, 384, 65, 10_788_929, 1024),
}
ROUNDS = {"smoke": 2, "small": 9, "full": 9, "large": 5}


@dataclass(frozen=True)
class Ops(Options):
    """Time each fused kernel."""

    size: Literal["smoke", "small", "full", "large"] = "full"
    """Arrays of a shard of `small` or `full`, or of a whole batch of `full`."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = 1
    """Processors for each side."""
    only: tuple[str, ...] = ()
    """Some kernels only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.only if name not in fused()]
        if unknown:
            raise ValueError(f"--only {unknown[0]}: {status()}; expected some of these")


def fused() -> list[str]:
    """Return the operations that kernels in C serve."""
    return [name for name in operations() if CPU.version_of(name) == "c"]


def operands(shapes: Mapping[str, Sequence[int]]) -> dict[str, Array]:
    """Return float32 numbers of the normal distribution, the same ones for the same shapes."""
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def indices(count: int, below: int) -> Array:
    """Return integers, the same ones each time."""
    return np.random.default_rng(1).integers(0, below, count)


class InPlace:
    """An array for kernels that overwrite it: fresh for a check, now and then for a run."""

    def __init__(self, values: Array) -> None:
        self.values, self.work, self.runs = values, values.copy(), 0

    def fresh(self) -> Array:
        """Return the first values."""
        return self.values.copy()

    def used(self) -> Array:
        """Return what earlier runs left, which is refreshed before it overflows."""
        self.runs += 1
        if self.runs % REFRESH == 0:
            np.copyto(self.work, self.values)
        return self.work


def adamw(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return steps on a flat buffer of all parameters."""
    given = operands({"parameter": (at.parameters,), "grad": (at.parameters,)})
    grad = given["grad"]

    def buffers() -> tuple[Array, Array, Array]:
        return given["parameter"].copy(), np.zeros_like(grad), np.zeros_like(grad)

    p, m, v = buffers()

    def check() -> Array:
        p, m, v = buffers()
        for step in range(1, COMPARED_STEPS + 1):
            op.update(p, grad, m, v, step=step, decoupled=True, **ADAMW)
        return p

    return {"adamw": Task(lambda: op.update(p, grad, m, v, step=9, decoupled=True, **ADAMW), check)}


def add(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return the addition of positions to each sequence of characters."""
    shape = (at.batch, at.length, at.channels)
    a, b, grad = operands({"a": shape, "b": shape[1:], "grad": shape}).values()
    return {
        "add forward": Task(lambda: op.forward(a, b)),
        "add backward": Task(lambda: op.backward(grad, a.shape, b.shape, (True, True))),
    }


def attention(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return causal attention, without and with dropout."""
    size = at.channels // at.heads
    shape = (at.batch, at.heads, at.length, size)
    q, k, v, grad = operands(dict.fromkeys(("q", "k", "v", "grad"), shape)).values()
    scale = size**-0.5

    def tasks(name: str, *dropout: Any) -> dict[str, Task]:
        out, statistics = op.forward(q, k, v, True, scale, *dropout)
        grads = tuple(np.empty_like(each) for each in (q, k, v))

        def backward() -> None:
            op.backward(grad, q, k, v, out, statistics, grads, True, scale, *dropout)

        def check() -> tuple[Array, ...]:
            grads = tuple(np.empty_like(each) for each in (q, k, v))
            op.backward(grad, q, k, v, *op.forward(q, k, v, True, scale), grads, True, scale)
            return grads

        return {
            f"{name} forward": Task(
                lambda: op.forward(q, k, v, True, scale, *dropout),
                lambda: op.forward(q, k, v, True, scale)[0],
            ),
            f"{name} backward": Task(backward, check),
        }

    key = DropoutKey(1, 2)
    return {**tasks("attention"), **tasks("attention with dropout", P, key)}


def bias_activation(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return bias and nonlinearity on the wide arrays of the feed-forward network."""
    shape = (at.rows, 4 * at.channels)
    z, grad, bias = operands({"z": shape, "grad": shape, "bias": shape[1:]}).values()
    buffer = InPlace(z)

    def tasks(activation: str) -> dict[str, Task]:
        _, kept = op.forward(buffer.fresh(), bias, activation)

        def backward() -> tuple[Array, Array]:
            return op.backward(grad, kept, activation, True)

        return {
            f"bias_activation {activation} forward": Task(
                lambda: op.forward(buffer.used(), bias, activation),
                lambda: op.forward(buffer.fresh(), bias, activation)[0],
            ),
            f"bias_activation {activation} backward": Task(backward),
        }

    return {**tasks("relu"), **tasks("gelu")}


def cross_entropy(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return the loss of logits."""
    logits = operands({"logits": (at.rows, at.classes)})["logits"]
    targets = indices(at.rows, at.classes)
    _, statistics = op.forward(logits, targets)
    one = np.float32(1)
    return {
        "cross_entropy forward": Task(
            lambda: op.forward(logits, targets), lambda: op.forward(logits, targets)[0]
        ),
        "cross_entropy backward": Task(lambda: op.backward(one, logits, targets, statistics)),
    }


def dropout(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return dropout of the residual stream; how much the kept elements grow is compared."""
    x = operands({"x": (at.rows, at.channels)})["x"]
    key = DropoutKey(1, 2)
    ones = np.ones_like(x)

    def task(function: Callable[..., Array]) -> Task:
        return Task(lambda: function(x, P, key), lambda: function(ones, P, key).max())

    return {"dropout forward": task(op.forward), "dropout backward": task(op.backward)}


def embedding(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return rows of the table of characters."""
    given = operands({"weight": (at.classes, at.channels), "grad": (at.rows, at.channels)})
    weight, grad = given.values()
    idx = indices(at.rows, at.classes)
    return {
        "embedding forward": Task(lambda: op.forward(idx, weight)),
        "embedding backward": Task(lambda: op.backward(grad, idx, at.classes)),
    }


def gelu(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return the exact nonlinearity on the wide arrays of the feed-forward network."""
    shape = (at.rows, 4 * at.channels)
    x, grad = operands({"x": shape, "grad": shape}).values()
    return {
        "gelu forward": Task(lambda: op.forward(x)),
        "gelu backward": Task(lambda: op.backward(grad, x)),
    }


def global_norm(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return the norm of the gradients of all parameters."""
    grad = operands({"grad": (at.parameters,)})["grad"]
    return {"global_norm": Task(lambda: op.forward(grad))}


def layernorm(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return normalisation of the residual stream."""
    shape = (at.rows, at.channels)
    given = operands({"x": shape, "grad": shape, "weight": shape[1:], "bias": shape[1:]})
    x, grad, weight, bias = given.values()
    _, mean, rstd = op.forward(x, weight, bias)
    return {
        "layernorm forward": Task(
            lambda: op.forward(x, weight, bias), lambda: op.forward(x, weight, bias)[0]
        ),
        "layernorm backward": Task(
            lambda: op.backward(grad, x, weight, mean, rstd, (True, True, True))
        ),
    }


def linear(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return the product that widens the channels for the feed-forward network."""
    wide = 4 * at.channels
    shapes = {
        "x": (at.rows, at.channels),
        "weight": (wide, at.channels),
        "bias": (wide,),
        "grad": (at.rows, wide),
    }
    x, weight, bias, grad = operands(shapes).values()
    weights = many_weights(at)
    return {
        "linear forward": Task(lambda: op.forward(x, weight, bias)),
        "linear backward": Task(lambda: op.backward(grad, x, weight, (True, True, True))),
        "linear one row": Task(lambda: tuple(op.forward(x[:1], each, None) for each in weights)),
    }


def many_weights(at: Dimensions) -> Array:
    """Return weights (LAYERS, 4C, C) that are not in the cache by the time that they come again."""
    shape = (LAYERS, 4 * at.channels, at.channels)
    return operands({"weight": shape})["weight"]


def residual(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return bias, dropout and addition to the residual stream; compared without dropout."""
    shape = (at.rows, at.channels)
    z, x, grad, bias = operands({"z": shape, "x": shape, "grad": shape, "bias": shape[1:]}).values()
    buffer, key = InPlace(z), DropoutKey(1, 2)
    return {
        "residual forward": Task(
            lambda: op.forward(buffer.used(), bias, x, P, key),
            lambda: op.forward(buffer.fresh(), bias, x, 0.0, None),
        ),
        "residual backward": Task(
            lambda: op.backward(grad, P, key, True), lambda: op.backward(grad, 0.0, None, True)
        ),
    }


def running_mean(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return the mean of all positions so far of the residual stream."""
    shape = (at.batch, at.length, at.channels)
    x, grad = operands({"x": shape, "grad": shape}).values()
    return {
        "running_mean forward": Task(lambda: op.forward(x)),
        "running_mean backward": Task(lambda: op.backward(grad)),
    }


def sampling(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return a character for each row of logits, with the same uniform numbers each time."""
    logits = operands({"logits": (at.rows, at.classes)})["logits"]
    uniform = np.random.default_rng(1).random(at.rows)
    return {
        "sampling": Task(lambda: op.forward(logits, uniform, TEMPERATURE)),
        "sampling top-p": Task(lambda: op.forward(logits, uniform, TEMPERATURE, None, TOP_P)),
    }


def log_softmax(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return the logarithms of the probabilities that logits give."""
    x, grad = operands(dict.fromkeys(("x", "grad"), (at.rows, at.classes))).values()
    y = op.forward(x)
    return {
        "log_softmax forward": Task(lambda: op.forward(x)),
        "log_softmax backward": Task(lambda: op.backward(grad, y)),
    }


def softmax(op: Any, at: Dimensions) -> dict[str, Task]:
    """Return the weights of attention by its scores, which are scaled: of all, and of the past."""
    shape = (at.batch, at.heads, at.length, at.length)
    x, grad = operands(dict.fromkeys(("x", "grad"), shape)).values()
    scale = (at.channels // at.heads) ** -0.5

    def tasks(name: str, causal: bool) -> dict[str, Task]:
        y = op.forward(x, None, -1, causal, scale)
        return {
            f"{name} forward": Task(lambda: op.forward(x, None, -1, causal, scale)),
            f"{name} backward": Task(lambda: op.backward(grad, y, -1, causal, scale)),
        }

    return {**tasks("softmax", False), **tasks("softmax causal", True)}


CASES: dict[str, Callable[[Any, Dimensions], dict[str, Task]]] = {
    "adamw": adamw,
    "add": add,
    "attention": attention,
    "bias_activation": bias_activation,
    "cross_entropy": cross_entropy,
    "dropout": dropout,
    "embedding": embedding,
    "gelu": gelu,
    "global_norm": global_norm,
    "layernorm": layernorm,
    "linear": linear,
    "log_softmax": log_softmax,
    "residual": residual,
    "running_mean": running_mean,
    "sampling": sampling,
    "softmax": softmax,
}
"""For each kernel, its tasks from an implementation with its reference's signature."""


def work(at: Dimensions) -> dict[str, tuple[str, float]]:
    """Return for each task the least that it must do: bytes to move, or operations.

    Every operand is read once and every result written once. A multiplication and an addition are
    two operations; the upper half of causal attention counts nothing, what backward computes
    again does. The upper half of causal weights is written, and not read.
    """
    stream, wide = 4.0 * at.rows * at.channels, 16.0 * at.rows * at.channels
    logits, table = 4.0 * at.rows * at.classes, 4.0 * at.classes * at.channels
    weights = 4.0 * at.batch * at.heads * at.length**2
    past = 2.0 * at.batch * at.heads * at.length * (at.length + 1)  # of the weights
    scores = at.batch * at.length * (at.length + 1.0) * at.channels  # of one half product
    product = 8.0 * at.rows * at.channels**2
    return {
        "product": ("operations", 2.0 * at.product**3),
        "adamw": ("bytes", 28.0 * at.parameters),
        "add forward": ("bytes", 2 * stream + stream / at.batch),
        "add backward": ("bytes", stream + stream / at.batch),
        "attention forward": ("operations", 2 * scores),
        "attention backward": ("operations", 5 * scores),
        "attention with dropout forward": ("operations", 2 * scores),
        "attention with dropout backward": ("operations", 5 * scores),
        "bias_activation relu forward": ("bytes", 2 * wide),
        "bias_activation relu backward": ("bytes", 3 * wide),
        "bias_activation gelu forward": ("bytes", 2 * wide),
        "bias_activation gelu backward": ("bytes", 3 * wide),
        "cross_entropy forward": ("bytes", logits),
        "cross_entropy backward": ("bytes", 2 * logits),
        "dropout forward": ("bytes", 2 * stream),
        "dropout backward": ("bytes", 2 * stream),
        "embedding forward": ("bytes", 2 * stream),
        "embedding backward": ("bytes", stream + table),
        "gelu forward": ("bytes", 2 * wide),
        "gelu backward": ("bytes", 3 * wide),
        "global_norm": ("bytes", 4.0 * at.parameters),
        "layernorm forward": ("bytes", 2 * stream),
        "layernorm backward": ("bytes", 3 * stream),
        "linear forward": ("operations", product),
        "linear backward": ("operations", 2 * product),
        "linear one row": ("bytes", 16.0 * LAYERS * at.channels**2),
        "log_softmax forward": ("bytes", 2 * logits),
        "log_softmax backward": ("bytes", 3 * logits),
        "residual forward": ("bytes", 3 * stream),
        "residual backward": ("bytes", 2 * stream),
        "running_mean forward": ("bytes", 2 * stream),
        "running_mean backward": ("bytes", 2 * stream),
        "sampling": ("bytes", logits + 16.0 * at.rows),
        "sampling top-p": ("bytes", logits + 16.0 * at.rows),
        "softmax forward": ("bytes", 2 * weights),
        "softmax backward": ("bytes", 3 * weights),
        "softmax causal forward": ("bytes", past + weights),
        "softmax causal backward": ("bytes", 2 * past + weights),
    }


def prepare(backend: str, names: list[str], at: Dimensions) -> dict[str, Task]:
    """Return the tasks of some kernels, fused or as references."""
    keep_freed_memory()
    source = CPU if backend == "fused" else references()
    return {
        task: found
        for name in names
        for task, found in CASES[name](source.operation(name), at).items()
    }


def copy_name(amount: float) -> str:
    """Return the name of the copy that reads and writes so many bytes together."""
    return f"copy of {amount / 2:,.0f} bytes"


def prepare_ceilings(amounts: list[float], at: Dimensions) -> dict[str, Task]:
    """Return what bounds every kernel: copies that move so many bytes, and a matrix product."""
    keep_freed_memory()
    square = np.ones((at.product, at.product), np.float32)
    result = np.empty_like(square)
    tasks = {"product": Task(lambda: np.matmul(square, square, out=result), lambda: result[0])}

    def copy(amount: float) -> Task:
        source = np.ones(round(amount / 8), np.float32)
        target = np.empty_like(source)
        return Task(lambda: np.copyto(target, source), lambda: target[:1])

    return {**{copy_name(amount): copy(amount) for amount in amounts}, **tasks}


def add_rates(rows: list[Row], at: Dimensions) -> None:
    """Note in each row what it did in a second, and what part of its ceiling that is."""
    amounts = work(at)
    copies = {copy_name(amount): amount for unit, amount in amounts.values() if unit == "bytes"}
    ceilings: dict[str, float] = {}
    for row in rows:
        task = row["task"]
        row["unit"], amount = amounts.get(task) or ("bytes", copies[task])
        row["per_second"] = amount / row["seconds"]
        row["ceiling"] = copy_name(amount) if row["unit"] == "bytes" else "product"
        ceilings.setdefault(row["ceiling"], row["per_second"])  # the machine comes first
        row["of_ceiling"] = row["per_second"] / ceilings[row["ceiling"]]


def _rate(row: Row) -> str:
    unit = "GB/s" if row["unit"] == "bytes" else "GFLOP/s"
    return f"{row['per_second'] / 1e9:.1f} {unit}"


COLUMNS: Columns = {
    **TIMES,
    "rate": _rate,
    "of ceiling": lambda row: f"{row['of_ceiling']:.0%}",
}


def main() -> None:
    """Compare, time, and exit 1 where results differ."""
    options = parse(Ops)
    if not fused():
        sys.exit(f"error: there is nothing to measure: {status()}")
    at = SIZES[options.size]
    names = [name for name in options.only or fused() if name in CASES]
    amounts = {task: amount for task, amount in work(at).items() if task.split()[0] in names}
    moved = sorted({amount for unit, amount in amounts.values() if unit == "bytes"})
    contenders = {
        "machine": Contender(prepare_ceilings, (moved, at)),
        "fused": Contender(prepare, ("fused", names, at)),
        "reference": Contender(prepare, ("reference", names, at)),
    }
    if options.against:
        from tinygrad_char.benchmarks.torch_ops import prepare_ops

        contenders["PyTorch"] = Contender(prepare_ops, (names, at))
    report = Report("ops", options)
    report.hold(
        f"{options.size}: {at.batch} sequences of {at.length}, {at.channels} channels",
        contenders,
        bound=BOUND,
        rounds=ROUNDS[options.size],
        columns=COLUMNS,
        complete=lambda rows: add_rates(rows, at),
        case={"size": options.size},
        seconds=0.02,
    )
    sys.exit(report.finish())


if __name__ == "__main__":
    main()
