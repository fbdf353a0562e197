"""Cross-entropy in CUDA C, row by row. Losses and statistics are float32."""

from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array, namespace, signed
from tinygrad_char.kernels.cross_entropy.reference import Saved
from tinygrad_char.kernels.cuda.operation import (
    Operation,
    contiguous,
    is_single,
    row_macros,
    serves,
)
from tinygrad_char.kernels.embedding import check_indices

MOST_RESCALING = 1024
"""Blocks that look whether a gradient has to be multiplied at all: about as many as run at once."""


class CrossEntropy(Operation):
    """`one_pass` is forward and backward together: the logits are read once.

    With `check`, a target that is no class raises IndexError, for which the host waits for the
    device. Without, as under graph capture, its loss and its row of the gradient are NaN.
    """

    def forward(
        self, logits: Array, targets: Array, reduction: str = "mean", ignore_index: int = -100
    ) -> tuple[Array, Array]:
        if not serves(logits):
            return NotImplemented
        self._check(logits, targets, ignore_index)
        logits, targets = contiguous(logits), _indices(targets)
        losses, statistics = _statistics(logits)
        arrays = logits, targets, losses, statistics
        self.launch_rows(
            "cross_entropy_forward", logits, arrays, *_sizes(logits), np.int64(ignore_index)
        )
        return self._reduce(logits, losses, targets, reduction, ignore_index), statistics

    def one_pass(
        self, logits: Array, targets: Array, reduction: str = "mean", ignore_index: int = -100
    ) -> tuple[Array, Array, Array | None]:
        if not serves(logits):
            return NotImplemented
        self._check(logits, targets, ignore_index)
        logits, targets = contiguous(logits), _indices(targets)
        losses, statistics = _statistics(logits)
        grad_logits = namespace(logits).empty(logits.shape, logits.dtype)
        share = self._share(logits, targets, reduction, ignore_index)
        self.launch_rows(
            "cross_entropy_one_pass",
            logits,
            (logits, targets, share, losses, statistics, grad_logits),
            *_sizes(logits),
            np.int64(ignore_index),
        )
        loss = self._reduce(logits, losses, targets, reduction, ignore_index)
        return loss, statistics, grad_logits

    def rescale(self, grad: Array, grad_logits: Array) -> Array:
        # where the cotangent is one, which only the device knows, nothing is read or written
        self.launch_rows(
            "cross_entropy_rescale",
            grad_logits,
            (_cotangent(grad_logits, grad), grad_logits),
            *_sizes(grad_logits),
            np.bool_(grad.ndim > 0),
            most_blocks=MOST_RESCALING,
        )
        return grad_logits

    def backward(
        self, grad: Array, saved: Saved, reduction: str = "mean", ignore_index: int = -100
    ) -> Array:
        logits, targets, statistics = saved
        if not (serves(logits) and is_single(statistics)):
            return NotImplemented
        logits, targets = contiguous(logits), _indices(targets)
        grad_logits = namespace(logits).empty(logits.shape, logits.dtype)
        share = self._share(logits, targets, reduction, ignore_index)
        self.launch_rows(
            "cross_entropy_backward",
            logits,
            (_cotangent(logits, grad), logits, targets, share, statistics, grad_logits),
            *_sizes(logits),
            np.int64(ignore_index),
            np.bool_(reduction == "none"),
        )
        return grad_logits

    def _check(self, logits: Array, targets: Array, ignore_index: int) -> None:
        if self.settings.checks:
            safe = namespace(logits).where(targets != ignore_index, targets, 0)
            check_indices(safe, logits.shape[1], "cross_entropy: target")

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
        self.launch(function, (1,), 1024, *arguments, **row_macros(logits))


def _sizes(logits: Array) -> tuple[np.int64, np.int32]:
    return np.int64(logits.shape[0]), np.int32(logits.shape[1])


def _statistics(logits: Array) -> list[Array]:
    """Return memory for the losses (N,) and the statistics (N, 2)."""
    rows = len(logits)
    return [namespace(logits).empty(shape, np.float32) for shape in (rows, (rows, 2))]


def _cotangent(logits: Array, grad: Array) -> Array:
    return contiguous(namespace(logits).asarray(grad, np.float32))


def _indices(array: Array) -> Array:
    return contiguous(signed(array)).astype(np.int64, copy=False)
