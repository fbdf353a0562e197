"""LayerNorm, softmax and cross-entropy by CUDA kernels, which work row by row.

Each class has the functions of the reference of its name, and hands over to it what its kernels
do not serve. Inputs and outputs are float32 or bfloat16; statistics, losses and the gradients of
LayerNorm's parameters are float32.
"""

from typing import Any

import numpy as np

from tinygrad_char.kernels import cross_entropy, layernorm, softmax
from tinygrad_char.kernels.array import Array, namespace, signed
from tinygrad_char.kernels.cuda_operation import (
    ROW_BLOCK,
    SCALARS,
    Operation,
    by_rows,
    contiguous,
    row_plan,
    serves,
    vector_width,
)
from tinygrad_char.kernels.cuda_parameters import FlatParameters
from tinygrad_char.kernels.embedding import check_indices
from tinygrad_char.kernels.launcher import Launcher

MOST_PARTS = 384
"""Blocks of the first stage of a sum over rows: not the device's, so that no result depends on
the device's size. Almost three for each multiprocessor of an H200."""

MOST_RESCALING = 1024
"""Blocks that look whether a gradient has to be multiplied at all: about as many as run at once."""

MOST_CHANNELS = 24 * 1024
"""Channels that LayerNorm's backward has shared memory for."""


class LayerNorm(Operation):
    """See layernorm.py; layernorm.cu."""

    flat: FlatParameters | None = None

    def forward(
        self, x: Array, weight: Array | None, bias: Array | None, eps: float = 1e-5
    ) -> tuple[Array, Array, Array]:
        """See layernorm.forward."""
        if not (serves(x) and _single(weight, bias)):
            return layernorm.forward(x, weight, bias, eps)
        xp = namespace(x)
        x = contiguous(x)
        rows, columns = by_rows(x)
        y = xp.empty(x.shape, x.dtype)
        mean, rstd = (xp.empty((*x.shape[:-1], 1), np.float32) for _ in range(2))
        warps, blocks = row_plan(rows, columns)
        self.launch(
            "layernorm",
            "layernorm_forward",
            (blocks,),
            ROW_BLOCK,
            x,
            weight,
            bias,
            y,
            mean,
            rstd,
            np.int64(rows),
            np.int32(columns),
            np.float32(eps),
            SCALAR=SCALARS[x.dtype.name],
            VECTOR=vector_width(columns, x, y, weight, bias),
            WARPS=warps,
        )
        return y, mean, rstd

    def backward(
        self,
        grad: Array,
        x: Array,
        weight: Array | None,
        mean: Array,
        rstd: Array,
        needs: tuple[bool, bool, bool],
        addend: Array | None = None,
    ) -> tuple[Array | None, Array | None, Array | None]:
        """See layernorm.backward."""
        rows, columns = by_rows(x)
        if not (serves(grad, x, addend) and _single(weight, mean, rstd)) or columns > MOST_CHANNELS:
            return layernorm.backward(grad, x, weight, mean, rstd, needs, addend)
        xp = namespace(x)
        grad, x = contiguous(grad), contiguous(x)
        addend = None if addend is None else contiguous(addend)
        warps, blocks = row_plan(rows, columns)
        blocks = min(blocks, MOST_PARTS)
        grad_x = xp.empty(x.shape, x.dtype) if needs[0] else None
        partial = xp.empty((blocks, 2, columns), np.float32) if needs[1] or needs[2] else None
        self.launch(
            "layernorm",
            "layernorm_backward",
            (blocks,),
            ROW_BLOCK,
            grad,
            x,
            weight,
            mean,
            rstd,
            addend,
            grad_x,
            partial,
            np.int64(rows),
            np.int32(columns),
            shared_bytes=0 if partial is None else 8 // warps * 2 * columns * 4,
            SCALAR=SCALARS[x.dtype.name],
            VECTOR=vector_width(columns, x, grad, weight, addend, grad_x),
            WARPS=warps,
        )
        if partial is None:
            return grad_x, None, None
        if not needs[2] and weight is not None:
            out = None if self.flat is None else self.flat.buffer(weight)
            return grad_x, self.sum_rows(partial, (columns,), weight.dtype, out), None
        sums = self.sum_rows(partial, (2, columns), np.dtype(np.float32))
        return grad_x, sums[0] if needs[1] else None, sums[1] if needs[2] else None


class Softmax(Operation):
    """See softmax.py; softmax.cu. Along another axis than the last the reference serves.

    A causal mask reaches the kernel as any other; in backward a scale is a pass of its own.
    """

    causal_mask = staticmethod(softmax.causal_mask)

    def forward(
        self,
        x: Array,
        mask: Array | None = None,
        axis: int = -1,
        causal: bool = False,
        scale: float = 1.0,
    ) -> Array:
        """See softmax.forward."""
        if not serves(x) or axis not in (-1, x.ndim - 1) or x.size == 0:
            return softmax.forward(x, mask, axis, causal, scale)
        x = contiguous(x)
        rows, columns = by_rows(x)
        if causal:
            mask = softmax.with_causal(mask, x)
        if mask is not None:
            mask = _repeated(mask, x)
        y = namespace(x).empty(x.shape, x.dtype)
        warps, blocks = row_plan(rows, columns)
        self.launch(
            "softmax",
            "softmax_forward",
            (blocks,),
            ROW_BLOCK,
            x,
            mask,
            y,
            np.int64(rows),
            np.int64(1 if mask is None else by_rows(mask)[0]),
            np.int32(columns),
            np.float32(scale),
            SCALAR=SCALARS[x.dtype.name],
            VECTOR=vector_width(columns, x, y, mask),
            WARPS=warps,
        )
        return y

    def backward(
        self,
        grad: Array,
        y: Array,
        axis: int = -1,
        causal: bool = False,
        scale: float = 1.0,
    ) -> Array:
        """See softmax.backward."""
        if not serves(grad, y) or axis not in (-1, y.ndim - 1) or y.size == 0:
            return softmax.backward(grad, y, axis, causal, scale)
        if causal:
            grad = namespace(y).where(softmax.with_causal(None, y), grad, y.dtype.type(0))
        grad, y = contiguous(grad), contiguous(y)
        rows, columns = by_rows(y)
        grad_x = namespace(y).empty(y.shape, y.dtype)
        warps, blocks = row_plan(rows, columns)
        self.launch(
            "softmax",
            "softmax_backward",
            (blocks,),
            ROW_BLOCK,
            grad,
            y,
            grad_x,
            np.int64(rows),
            np.int32(columns),
            SCALAR=SCALARS[y.dtype.name],
            VECTOR=vector_width(columns, y, grad, grad_x),
            WARPS=warps,
        )
        if scale != 1:
            grad_x *= grad_x.dtype.type(scale)
        return grad_x


class CrossEntropy(Operation):
    """See cross_entropy.py; cross_entropy.cu.

    `one_pass` is forward and backward together: the logits are read once. With `check`, a target
    that is no class raises IndexError, for which the host waits for the device. Without, as under
    graph capture, its loss and its row of the gradient are NaN.
    """

    def __init__(self, launcher: Launcher, check: bool = True) -> None:
        super().__init__(launcher)
        self.check = check

    def forward(
        self, logits: Array, targets: Array, reduction: str = "mean", ignore_index: int = -100
    ) -> tuple[Array, Array]:
        """See cross_entropy.forward."""
        if not serves(logits):
            return cross_entropy.forward(logits, targets, reduction, ignore_index)
        self._check(logits, targets, ignore_index)
        logits, targets = contiguous(logits), _indices(targets)
        losses, statistics = _statistics(logits)
        self._by_rows(
            "cross_entropy_forward",
            logits,
            *(logits, targets, losses, statistics),
            *_sizes(logits),
            np.int64(ignore_index),
        )
        return self._reduce(logits, losses, targets, reduction, ignore_index), statistics

    def one_pass(
        self, logits: Array, targets: Array, reduction: str = "mean", ignore_index: int = -100
    ) -> tuple[Array, Array, Array | None]:
        """Return what forward returns, and what backward does for a cotangent of ones.

        `rescale` makes of this gradient (N, V) that for another cotangent. It is None for dtypes
        that kernels do not serve.
        """
        if not serves(logits):
            loss, statistics = cross_entropy.forward(logits, targets, reduction, ignore_index)
            return loss, statistics, None
        self._check(logits, targets, ignore_index)
        logits, targets = contiguous(logits), _indices(targets)
        losses, statistics = _statistics(logits)
        grad_logits = namespace(logits).empty(logits.shape, logits.dtype)
        self._by_rows(
            "cross_entropy_one_pass",
            logits,
            *(logits, targets, self._share(logits, targets, reduction, ignore_index)),
            *(losses, statistics, grad_logits),
            *_sizes(logits),
            np.int64(ignore_index),
        )
        return (
            self._reduce(logits, losses, targets, reduction, ignore_index),
            statistics,
            grad_logits,
        )

    def rescale(self, grad: Array, grad_logits: Array) -> Array:
        """Multiply a gradient of `one_pass` by the cotangent, a scalar or (N,), in its place.

        Where that is one, which only the device knows, nothing is read or written.
        """
        self._by_rows(
            "cross_entropy_rescale",
            grad_logits,
            _cotangent(grad_logits, grad),
            grad_logits,
            *_sizes(grad_logits),
            np.bool_(grad.ndim > 0),
            most_blocks=MOST_RESCALING,
        )
        return grad_logits

    def backward(
        self,
        grad: Array,
        logits: Array,
        targets: Array,
        statistics: Array,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> Array:
        """See cross_entropy.backward."""
        if not (serves(logits) and _single(statistics)):
            return cross_entropy.backward(
                grad, logits, targets, statistics, reduction, ignore_index
            )
        logits, targets = contiguous(logits), _indices(targets)
        grad_logits = namespace(logits).empty(logits.shape, logits.dtype)
        self._by_rows(
            "cross_entropy_backward",
            logits,
            *(_cotangent(logits, grad), logits, targets),
            self._share(logits, targets, reduction, ignore_index),
            *(statistics, grad_logits),
            *_sizes(logits),
            np.int64(ignore_index),
            np.bool_(reduction == "none"),
        )
        return grad_logits

    def _check(self, logits: Array, targets: Array, ignore_index: int) -> None:
        if self.check:
            safe = namespace(logits).where(targets != ignore_index, targets, 0)
            check_indices(safe, logits.shape[1], "cross_entropy: target")

    def _by_rows(
        self, function: str, logits: Array, *arguments: Any, most_blocks: int = 2**31 - 1
    ) -> None:
        grid = (min(row_plan(*logits.shape)[1], most_blocks),)
        self.launch("cross_entropy", function, grid, ROW_BLOCK, *arguments, **_macros(logits))

    def _share(
        self, logits: Array, targets: Array, reduction: str, ignore_index: int
    ) -> Array | None:
        """Return each target's part of the mean; None where there is no mean."""
        if reduction != "mean":
            return None
        share = namespace(logits).empty((), np.float32)
        sizes = (np.int64(len(targets)), np.int64(ignore_index))
        self._by_one_block("cross_entropy_share", logits, targets, share, *sizes)
        return share

    def _reduce(
        self, logits: Array, losses: Array, targets: Array, reduction: str, ignore_index: int
    ) -> Array:
        if reduction == "none":
            return losses
        loss = namespace(losses).empty((), np.float32)
        sizes = (np.int64(len(targets)), np.int64(ignore_index))
        is_mean = np.bool_(reduction == "mean")
        self._by_one_block("cross_entropy_reduce", logits, losses, targets, loss, *sizes, is_mean)
        return loss

    def _by_one_block(self, function: str, logits: Array, *arguments: Any) -> None:
        # Nothing in these kernels depends on the macros: those of the others, which are compiled.
        self.launch("cross_entropy", function, (1,), 1024, *arguments, **_macros(logits))


def _macros(logits: Array) -> dict[str, Any]:
    return {
        "SCALAR": SCALARS[logits.dtype.name],
        "VECTOR": vector_width(logits.shape[1], logits),
        "WARPS": row_plan(*logits.shape)[0],
    }


def _sizes(logits: Array) -> tuple[np.int64, np.int32]:
    return np.int64(logits.shape[0]), np.int32(logits.shape[1])


def _statistics(logits: Array) -> list[Array]:
    """Return memory for the losses and the statistics."""
    rows = len(logits)
    return [namespace(logits).empty(shape, np.float32) for shape in (rows, (rows, 2))]


def _cotangent(logits: Array, grad: Array) -> Array:
    return contiguous(namespace(logits).asarray(grad, np.float32))


def _indices(array: Array) -> Array:
    return contiguous(signed(array)).astype(np.int64, copy=False)


def _single(*arrays: Array | None) -> bool:
    return all(
        each is None or (each.dtype == np.float32 and each.flags.c_contiguous) for each in arrays
    )


def _repeated(mask: Array, x: Array) -> Array:
    """Return the mask with x's last axes, such that its rows serve those of x in turn."""
    xp = namespace(x)
    lengths = mask.shape
    while len(lengths) > 1 and lengths[0] == 1:
        lengths = lengths[1:]
    shape = x.shape[x.ndim - max(len(lengths), 1) :]
    return contiguous(xp.broadcast_to(mask.reshape(lengths), shape).astype(bool, copy=False))
