"""Cross-entropy in plain Python, row by row, see reference.py."""

from math import exp, log, nan

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.plain import in_python
from tinygrad_char.kernels.cross_entropy.reference import Saved
from tinygrad_char.kernels.embedding import check_indices


@in_python
def forward(
    logits: Array, targets: Array, reduction: str = "mean", ignore_index: int = -100
) -> tuple[Array, Array]:
    check_indices(
        np.where(targets != ignore_index, targets, 0),
        logits.shape[1],
        "cross_entropy: target",
    )
    losses, statistics = [], np.empty((len(logits), 2), logits.dtype)
    for i, (row, target) in enumerate(zip(logits.tolist(), targets.tolist(), strict=True)):
        peak = max(row)
        total = sum(exp(logit - peak) for logit in row)
        losses.append(0.0 if target == ignore_index else log(total) + (peak - row[target]))
        statistics[i] = peak, total
    if reduction == "none":
        return np.array(losses, logits.dtype), statistics
    loss = sum(losses)
    if reduction == "mean":
        count = counted(targets, ignore_index)
        loss = loss / count if count else nan
    return logits.dtype.type(loss), statistics


@in_python
def backward(grad: Array, saved: Saved, reduction: str = "mean", ignore_index: int = -100) -> Array:
    logits, targets, statistics = saved
    dlogits = np.zeros_like(logits)
    count = max(counted(targets, ignore_index), 1) if reduction == "mean" else 1
    rows = zip(logits.tolist(), targets.tolist(), statistics.tolist(), strict=True)
    for i, (row, target, (peak, total)) in enumerate(rows):
        if target == ignore_index:
            continue
        slope = float(grad[i] if reduction == "none" else grad) / count
        for j, logit in enumerate(row):
            probability = exp(logit - peak) / total
            dlogits[i, j] = (probability - (j == target)) * slope
    return dlogits


def counted(targets: Array, ignore_index: int) -> int:
    return sum(target != ignore_index for target in targets.tolist())
