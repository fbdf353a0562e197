"""Attention by CUDA kernels: the (T, S) weights never leave the multiprocessors."""

from collections.abc import Sequence
from types import NotImplementedType
from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.kernels.array import Array, address, namespace
from tinygrad_char.kernels.attention import reference
from tinygrad_char.kernels.attention.reference import Gradients, Options, Saved
from tinygrad_char.kernels.cuda.operation import ACCESS_BYTES, SCALARS, Operation, serves
from tinygrad_char.kernels.dropout.mask import can_draw, mask_arguments

WARPS, THREADS = 4, 128
HEADS = (16, 32, 64, 128)
"""The head sizes that kernels are compiled for; others are filled up to the next."""

MOST_HEAD = HEADS[-1]
BACKWARD_OTHERS = 32
"""Rows of the tiles that the backward passes walk over."""


class Plan(NamedTuple):
    """How the kernels are compiled for one kind of head, and what their blocks need."""

    precision: str
    scalar: str
    head: int
    rows: int
    others: int

    @property
    def own(self) -> int:
        """Queries or keys that a block owns."""
        return 16 * WARPS * self.rows

    @property
    def forward_bytes(self) -> int:
        """Shared memory of the forward pass."""
        return self._bytes(self.own + 4 * self.others)

    @property
    def backward_bytes(self) -> int:
        """Shared memory of the backward passes, with three elements for each query."""
        return self._bytes(2 * self.own + 4 * BACKWARD_OTHERS) + 2 * BACKWARD_OTHERS * 12

    @property
    def atomic_bytes(self) -> int:
        """Shared memory of the one backward pass with atomic additions, and its tile of slopes."""
        return self.backward_bytes + self._bytes(self.own, BACKWARD_OTHERS)

    def _bytes(self, rows: int, columns: int | None = None) -> int:
        itemsize = 2 if self.precision == "BF16" else 4
        return rows * ((columns or self.head) * itemsize + ACCESS_BYTES)

    def macros(self, options: Options) -> dict[str, Any]:
        return {
            "PRECISION": self.precision,
            "SCALAR": self.scalar,
            "HEAD": self.head,
            "ROWS": self.rows,
            "FORWARD_OTHERS": self.others,
            "DROPOUT": int(options.dropout > 0 and options.key is not None),
        }


def plan(precision: str, size: int) -> Plan:
    """Return the plan for PLAIN, TF32 or BF16 products and heads of a size up to MOST_HEAD.

    As many rows are worked on at once as registers can hold.
    """
    head = next(each for each in HEADS if each >= size)
    if precision == "BF16":
        return Plan(precision, SCALARS["bfloat16"], head, 1 if head == MOST_HEAD else 2, 64)
    return Plan(precision, SCALARS["float32"], head, 1, 32 if head == MOST_HEAD else 64)


class _View(NamedTuple):
    """All memory from a view's first to its last element, and its strides in elements."""

    span: Array
    steps: tuple[int, ...]


class Attention(Operation):
    """Serves equal head sizes of queries, keys and values up to 128, a multiple of sixteen bytes.

    float32 products are exact, or with `tf32` those of the tensor cores, whose operands have ten
    bits after the point. With `atomics`, backward makes its weights once and adds up the gradient
    of the queries in whatever order is fastest.
    """

    def forward(self, q: Array, k: Array, v: Array, options: Options) -> tuple[Array, Array]:
        # statistics are float32
        if not _serves(q, k, v, options):
            if q.dtype.name != "bfloat16":
                return NotImplemented
            # CuPy multiplies no batches of bfloat16
            q32, k32, v32 = (each.astype(np.float32) for each in (q, k, v))
            wide = self.forward(q32, k32, v32, options)
            if wide is NotImplemented:
                wide = reference.forward(q32, k32, v32, options)
            return wide[0].astype(q.dtype), wide[1]
        xp = namespace(q)
        batch, heads, queries, size = q.shape
        out = xp.empty((batch, queries, heads, size), q.dtype).transpose(0, 2, 1, 3)
        statistics = xp.empty((batch, heads, queries, 2), np.float32)
        chosen = self._plan(q)
        self._launch(
            "attention_forward",
            (batch * heads, -(-queries // chosen.own)),
            chosen.macros(options),
            (*map(_view, (q, k, v, out)), statistics),
            (heads, queries, k.shape[2], size),
            _arguments(options),
            shared_bytes=chosen.forward_bytes,
        )
        return out, statistics

    def backward(
        self, grad: Array, saved: Saved, grads: Gradients, options: Options
    ) -> NotImplementedType | None:
        q, k, v, out, statistics = saved
        xp = namespace(q)
        if not (_serves(q, k, v, options) and serves(grad, out, q, *grads)):
            if q.dtype.name != "bfloat16":
                return NotImplemented
            self._backward_in_float32(grad, saved, grads, options)
            return None
        batch, heads, queries, size = q.shape
        keys, pairs, chosen = k.shape[2], batch * heads, self._plan(q)
        macros = chosen.macros(options)
        padded = -(-queries // BACKWARD_OTHERS) * BACKWARD_OTHERS
        d_out, *qkv = map(_view, (grad, q, k, v))
        targets = [each if fits_tiles(each) else xp.empty(each.shape, each.dtype) for each in grads]
        d_q, d_k, d_v = map(_view, targets)
        rows = self._rows(d_out, out, statistics, padded, macros)

        def walk(
            name: str, own: int, written: tuple[_View | Array, ...], shared_bytes: int
        ) -> None:
            """Write the gradients of the queries or keys that blocks own."""
            self._launch(
                f"attention_backward_{name}",
                (pairs, -(-own // chosen.own)),
                macros,
                (d_out, *qkv, rows, *written),
                (heads, queries, keys, padded, size),
                _arguments(options),
                shared_bytes=shared_bytes,
            )

        if self.settings.atomics:
            sums = xp.zeros((pairs, queries, chosen.head), np.float32)
            walk("atomic", keys, (d_k, d_v, sums), chosen.atomic_bytes)
            self._launch(
                "attention_scale_queries",
                (pairs, -(-queries // 32)),
                macros,
                (sums, d_q),
                (heads, queries, size),
                (np.float32(options.scale),),
                threads=256,
            )
        else:
            walk("queries", queries, (d_q,), chosen.backward_bytes)
            walk("keys", keys, (d_k, d_v), chosen.backward_bytes)
        _copy(targets, grads)
        return None

    def _rows(
        self, d_out: _View, out: Array, statistics: Array, padded: int, macros: dict[str, Any]
    ) -> Array:
        """Return what backward needs of each query (B H, 3, padded): attention_rows."""
        batch, heads, queries, size = out.shape
        rows = namespace(out).empty((batch * heads, 3, padded), np.float32)
        self._launch(
            "attention_rows",
            (batch * heads, -(-padded // 32)),
            macros,
            (d_out, _view(out), statistics, rows),
            (heads, queries, padded, size),
            threads=256,
        )
        return rows

    def _backward_in_float32(
        self, grad: Array, saved: Saved, grads: Gradients, options: Options
    ) -> None:
        grad = grad.astype(np.float32)
        single = Saved(*(each.astype(np.float32, copy=False) for each in saved))
        grad_q, grad_k, grad_v = (namespace(each).empty(each.shape, np.float32) for each in grads)
        results = grad_q, grad_k, grad_v
        if self.backward(grad, single, results, options) is NotImplemented:
            reference.backward(grad, single, results, options)
        _copy(results, grads)

    def _launch(
        self,
        function: str,
        grid: tuple[int, int],
        macros: dict[str, Any],
        operands: tuple[_View | Array, ...],
        sizes: tuple[int, ...],
        options: tuple[Any, ...] = (),
        threads: int = THREADS,
        shared_bytes: int = 0,
    ) -> None:
        """Run a kernel of these operands, the strides of those that are views, sizes, options."""
        views = [each for each in operands if isinstance(each, _View)]
        self.launch(
            function,
            grid,
            threads,
            *(each.span if isinstance(each, _View) else each for each in operands),
            *(np.int64(step) for each in views for step in each.steps),
            *map(np.int32, sizes),
            *options,
            shared_bytes=shared_bytes,
            **macros,
        )

    def _plan(self, q: Array) -> Plan:
        if q.dtype.name == "bfloat16":
            return plan("BF16", q.shape[3])
        return plan("TF32" if self.settings.tf32 else "PLAIN", q.shape[3])


def _view(array: Array) -> _View:
    """Return what kernels need of an array (B, H, T, D), or of an aligned copy."""
    xp = namespace(array)
    if not fits_tiles(array):
        array = xp.ascontiguousarray(array)
    steps = tuple(
        stride // array.itemsize if length > 1 else 0
        for stride, length in zip(array.strides[:3], array.shape[:3], strict=True)
    )
    last = sum(step * (length - 1) for step, length in zip(steps, array.shape[:3], strict=True))
    span = xp.lib.stride_tricks.as_strided(array, (last + array.shape[3],), (array.itemsize,))
    return _View(span, steps)


def fits_tiles(array: Array) -> bool:
    """Return whether kernels can read and write a view as it is, sixteen bytes at a time."""
    return (
        array.strides[3] == array.itemsize
        and address(array) % ACCESS_BYTES == 0
        and all(
            length <= 1 or (stride > 0 and stride % ACCESS_BYTES == 0)
            for stride, length in zip(array.strides[:3], array.shape[:3], strict=True)
        )
    )


def _copy(results: Sequence[Array], targets: Sequence[Array]) -> None:
    """Write results to the arrays that were asked for, where they are not these themselves."""
    for result, target in zip(results, targets, strict=True):
        if result is not target:
            target[...] = result


def _arguments(options: Options) -> tuple[Any, ...]:
    causal, scale, dropout, key = options
    return np.bool_(causal), np.float32(scale), *mask_arguments(dropout, key)


def _serves(q: Array, k: Array, v: Array, options: Options) -> bool:
    size = q.shape[3]
    return (
        serves(q, k, v)
        and 0 < size == v.shape[3] <= MOST_HEAD
        and size * q.itemsize % ACCESS_BYTES == 0
        and q.size > 0
        and k.size > 0
        and options.scale > 0
        and can_draw(options.dropout, options.key)
    )
