"""The fused kernels for the CPU, in the place of the references that they equal.

Each has its reference's signature and saved values. They serve contiguous float32 arrays; for
anything else they hand over to the reference. `TABLE` holds what this installation has: nothing
where the extension was not built (no C compiler), or with TINYGRAD_CHAR_KERNELS=reference.
"""

import math
import os
from types import SimpleNamespace
from typing import Any

import numpy as np

from kernels import adamw, attention, cross_entropy, dropout, layernorm
from kernels.array import Array
from kernels.dropout import DropoutKey, MaskSource
from kernels.embedding import check_indices

try:
    from kernels import _fused as compiled  # type: ignore[attr-defined]
except ImportError:
    compiled = None

VARIABLE = "TINYGRAD_CHAR_KERNELS"
FEWEST_QUERIES = 4
"""Below this many queries, attention is memory traffic alone, and BLAS reads memory as fast."""


def _fits(*arrays: Array | None) -> bool:
    return all(
        each is None or (each.dtype == np.float32 and each.flags.c_contiguous) for each in arrays
    )


def layernorm_forward(
    x: Array, weight: Array | None, bias: Array | None, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """See layernorm.forward."""
    if not _fits(x, weight, bias):
        return layernorm.forward(x, weight, bias, eps)
    y = np.empty_like(x)
    mean, rstd = (np.empty((*x.shape[:-1], 1), np.float32) for _ in range(2))
    compiled.layernorm_forward(x, weight, bias, y, mean, rstd, mean.size, x.shape[-1], eps)
    return y, mean, rstd


def layernorm_backward(
    grad: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    rstd: Array,
    needs: tuple[bool, bool, bool],
) -> tuple[Array | None, Array | None, Array | None]:
    """See layernorm.backward."""
    if not _fits(grad, x, weight):
        return layernorm.backward(grad, x, weight, mean, rstd, needs)
    channels = x.shape[-1]
    grad_x = np.empty_like(x) if needs[0] else None
    grad_weight = np.zeros(channels, np.float32) if needs[1] else None
    grad_bias = np.zeros(channels, np.float32) if needs[2] else None
    compiled.layernorm_backward(
        grad, x, weight, mean, rstd, grad_x, grad_weight, grad_bias, mean.size, channels
    )
    return grad_x, grad_weight, grad_bias


def attention_forward(
    q: Array,
    k: Array,
    v: Array,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    key: MaskSource | None = None,
) -> tuple[Array, Array]:
    """See attention.forward."""
    if not _fits_attention(q, k, v, dropout, key):
        return attention.forward(q, k, v, causal, scale, dropout, key)
    batch, heads, queries, _ = q.shape
    out = np.empty((batch, queries, heads, v.shape[-1]), np.float32).transpose(0, 2, 1, 3)
    logsumexp = np.empty((batch, heads, queries), np.float32)
    mask = _dropout_arguments(dropout, key)
    compiled.attention_forward(q, k, v, out, logsumexp, causal, scale, *mask, 0, batch * heads)
    return out, logsumexp


def attention_backward(
    grad: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    logsumexp: Array,
    grads: tuple[Array, Array, Array],
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    key: MaskSource | None = None,
) -> None:
    """See attention.backward."""
    if not _fits_attention(q, k, v, dropout, key) or not _rows_fit(grad, out, *grads):
        attention.backward(grad, q, k, v, out, logsumexp, grads, causal, scale, dropout, key)
        return
    mask = _dropout_arguments(dropout, key)
    heads = q.shape[0] * q.shape[1]
    compiled.attention_backward(
        q, k, v, out, logsumexp, causal, scale, *mask, 0, heads, grad, *grads
    )


def _fits_attention(q: Array, k: Array, v: Array, dropout: float, key: MaskSource | None) -> bool:
    """Return whether the fused kernel serves; for a few queries the products of BLAS are faster."""
    drawn = dropout == 0 or isinstance(key, DropoutKey)
    return drawn and q.shape[2] >= FEWEST_QUERIES and _rows_fit(q, k, v)


def _rows_fit(*arrays: Array) -> bool:
    return all(
        each.dtype == np.float32 and (each.strides[-1] == 4 or each.shape[-1] == 1)
        for each in arrays
    )


def _dropout_arguments(p: float, key: Any) -> tuple[bool, int, int, int, float]:
    if p == 0:
        return False, 0, 0, 0, 0.0
    return True, key.seed, key.call, dropout.threshold(p), dropout.keep_scale(p)


def dropout_masked(x: Array, p: float, key: MaskSource) -> Array:
    """See dropout.forward and dropout.backward; masks of other sources are the reference's."""
    if not isinstance(key, DropoutKey) or not _fits(x):
        return dropout.forward(x, p, key)
    y = np.empty_like(x)
    threshold, scale = dropout.threshold(p), dropout.keep_scale(p)
    compiled.dropout_masked(x, y, x.size, key.seed, key.call, threshold, scale)
    return y


def cross_entropy_forward(
    logits: Array, targets: Array, reduction: str = "mean", ignore_index: int = -100
) -> tuple[Array, Array]:
    """See cross_entropy.forward."""
    if not _fits(logits):
        return cross_entropy.forward(logits, targets, reduction, ignore_index)
    counted, marked = _mark_ignored(targets, ignore_index, logits.shape[1])
    losses, logsumexp = (np.empty(len(targets), np.float32) for _ in range(2))
    compiled.cross_entropy_forward(logits, marked, losses, logsumexp, *logits.shape)
    if reduction == "none":
        return losses, logsumexp
    total = losses.sum()
    if reduction == "mean":
        total = total / np.float32(counted) if counted else total * np.float32(np.nan)
    return total, logsumexp


def cross_entropy_backward(
    grad: Array,
    logits: Array,
    targets: Array,
    logsumexp: Array,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Array:
    """See cross_entropy.backward; without a reduction the reference serves."""
    if reduction == "none" or not _fits(logits):
        return cross_entropy.backward(grad, logits, targets, logsumexp, reduction, ignore_index)
    counted, marked = _mark_ignored(targets, ignore_index, logits.shape[1])
    scale = float(grad) / (max(counted, 1) if reduction == "mean" else 1)
    dlogits = np.empty_like(logits)
    compiled.cross_entropy_backward(logits, marked, logsumexp, dlogits, *logits.shape, scale)
    return dlogits


def _mark_ignored(targets: Array, ignore_index: int, classes: int) -> tuple[int, Array]:
    """Return how many targets count, and the targets as int64 with -1 for the others."""
    targets = np.ascontiguousarray(targets, np.int64)
    ignored = targets == ignore_index
    if not ignored.any():
        check_indices(targets, classes, "cross_entropy: target")
        return targets.size, targets
    check_indices(np.where(ignored, 0, targets), classes, "cross_entropy: target")
    return targets.size - int(ignored.sum()), np.where(ignored, -1, targets)


def adamw_update(
    parameter: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    grad_scale: float = 1.0,
) -> None:
    """See adamw.update."""
    if not _fits(parameter, grad, exp_avg, exp_avg_sq):
        adamw.update(
            parameter,
            grad,
            exp_avg,
            exp_avg_sq,
            step=step,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled=decoupled,
            grad_scale=grad_scale,
        )
        return
    beta1, beta2 = betas
    compiled.adamw_update(
        parameter,
        grad,
        exp_avg,
        exp_avg_sq,
        parameter.size,
        grad_scale,
        1 - lr * weight_decay if decoupled else 1.0,
        0.0 if decoupled else weight_decay,
        1 - beta1,
        beta2,
        1 - beta2,
        math.sqrt(1 - beta2**step),
        eps,
        lr / (1 - beta1**step),
    )


def _table() -> dict[str, Any]:
    if compiled is None or os.environ.get(VARIABLE) == "reference":
        return {}
    return {
        "adamw": SimpleNamespace(update=adamw_update),
        "attention": SimpleNamespace(forward=attention_forward, backward=attention_backward),
        "cross_entropy": SimpleNamespace(
            forward=cross_entropy_forward, backward=cross_entropy_backward
        ),
        "dropout": SimpleNamespace(forward=dropout_masked, backward=dropout_masked),
        "layernorm": SimpleNamespace(forward=layernorm_forward, backward=layernorm_backward),
    }


TABLE = _table()
"""The fused kernels of this installation, by operation."""


def status() -> str:
    """Say in words which kernels serve the CPU, and why."""
    if TABLE:
        return "fused in C: " + ", ".join(sorted(TABLE))
    if compiled is not None:
        return f"references in NumPy, as {VARIABLE}=reference asks"
    return "references in NumPy: the C extension is not built (no compiler at installation?)"
