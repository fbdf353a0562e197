"""Loss functions: each pair or row has a loss, and `reduction` is "mean", "sum" or "none"."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_char.autograd import TensorBase
from tinygrad_char.coerce import broadcasts_to, floating, tensor_like
from tinygrad_char.kernels.array import Array, is_floating
from tinygrad_char.kernels.words import shorten
from tinygrad_char.modes import is_grad_enabled
from tinygrad_char.ops import loss, neural
from tinygrad_char.ops.reduction import normalize_axis
from tinygrad_char.spelling import spelled
from tinygrad_char.tensor import Tensor

REDUCTIONS = ("mean", "sum", "none")


@spelled
def cross_entropy(
    logits: Tensor,
    targets: Any,
    reduction: str = "mean",
    ignore_index: int = -100,
    *,
    weight: Any = None,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Tensor:
    """Return the mean, sum, or each ("none") of -sum_c weight_c q_c log(softmax(logits)_c).

    The classes lie along `axis`, the last one unless said otherwise: logits are (..., C). For
    PyTorch's layout (N, C, d1, ...) say axis=1.

    Parameters
    ----------
    logits
        Any real values. Those of -infinity are classes that cannot be.
    targets
        Integers of the logits' shape without `axis`, then q is one-hot; or floats of the logits'
        shape, the probabilities q themselves, which may need a gradient.
    reduction
        The mean over integer targets divides by the sum of their weights, and is NaN where that
        is 0; the mean over probabilities divides by the number of rows.
    ignore_index
        Integer targets of this value count nothing.
    weight
        A constant for each class, (C,).
    label_smoothing
        The share s of q that is spread evenly: q becomes (1 - s) q + s / C (Szegedy et al. 2015,
        arXiv:1512.00567).

    Raises
    ------
    ValueError
        Shapes that do not fit, an unknown reduction, or label_smoothing outside [0, 1].
    IndexError
        A target that is not `ignore_index` lies outside [0, C).
    TypeError
        Targets that are neither integers nor of the logits' dtype.
    """
    name = "cross_entropy"
    _check_reduction(name, reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(
            f"{name}: label_smoothing={shorten(label_smoothing)}, expected a number in [0, 1]"
        )
    logits = _classes_last(name, "logits", floating(logits), axis)
    if not isinstance(targets, TensorBase):
        targets = Tensor(targets, device=logits.device)
    if is_floating(targets.array.dtype):
        return _soft_cross_entropy(logits, targets, reduction, weight, label_smoothing, axis)
    targets = integers(name, "targets", targets, logits)
    _check_targets(name, logits, targets)
    if weight is None and label_smoothing == 0:
        return neural.CrossEntropy.apply(
            logits, targets, reduction=reduction, ignore_index=ignore_index
        )
    return _smooth_cross_entropy(logits, targets, reduction, ignore_index, weight, label_smoothing)


def _smooth_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    reduction: str,
    ignore_index: int,
    weight: Any,
    label_smoothing: float,
) -> Tensor:
    """Return the loss of integer targets with weights or smoothing: logits (..., C)."""
    name, classes = "cross_entropy", logits.shape[-1]
    xp, dtype = logits.backend.xp, logits.dtype
    weights = _class_weights(name, weight, logits)
    flat = targets.array.reshape(-1)
    counted, safe = loss.counted_targets(xp, name, flat, classes, ignore_index)
    of_target = loss.target_weights(xp, counted, safe, weights, dtype)
    q = xp.zeros((len(safe), classes), dtype)
    if label_smoothing > 0:
        share = xp.ones(classes, dtype) if weights is None else weights
        q += counted[:, None] * (share * dtype.type(label_smoothing / classes))
    if classes:
        q[xp.arange(len(safe)), safe] += of_target * dtype.type(1 - label_smoothing)
    losses = loss.SoftCrossEntropy.apply(logits.reshape(len(safe), classes), logits._result(q))
    return _weighted(losses.reshape(targets.shape), reduction, of_target)


def _soft_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    reduction: str,
    weight: Any,
    label_smoothing: float,
    axis: int,
) -> Tensor:
    """Return the loss of probabilities as targets: logits (..., C)."""
    name = "cross_entropy"
    if targets.ndim != logits.ndim:
        raise ValueError(
            f"{name}: logits {logits.shape} (classes last) and targets {targets.dtype} "
            f"{targets.shape}; expected integers {logits.shape[:-1]}, or probabilities of equal "
            "shapes"
        )
    targets = _classes_last(name, "targets", targets, axis)
    if targets.shape != logits.shape:
        raise ValueError(
            f"{name}: logits {logits.shape} and probabilities {targets.shape} (classes last); "
            "expected equal shapes, or integers as targets"
        )
    if targets.dtype != logits.dtype:
        raise TypeError(
            f"{name}: logits are {logits.dtype} and probabilities {targets.dtype}; expected one "
            "dtype"
        )
    classes = logits.shape[-1]
    if label_smoothing > 0:
        targets = targets * (1 - label_smoothing) + label_smoothing / max(classes, 1)
    weights = _class_weights(name, weight, logits)
    if weights is not None:
        targets = targets * logits._result(weights)
    count = logits.size // classes if classes else 0
    rows = (count, classes)
    losses = loss.SoftCrossEntropy.apply(logits.reshape(*rows), targets.reshape(*rows))
    return _reduced(losses.reshape(logits.shape[:-1]), reduction)


@spelled
def nll_loss(
    log_probabilities: Tensor,
    targets: Any,
    reduction: str = "mean",
    ignore_index: int = -100,
    *,
    weight: Any = None,
    axis: int = -1,
) -> Tensor:
    """Return the mean, sum, or each ("none") of -weight[t] logp[t] of integer targets t.

    Shapes, `weight`, `ignore_index`, `axis` and the mean are those of `cross_entropy`, which is
    this loss of `log_softmax(logits)`.

    Raises
    ------
    ValueError
        Shapes that do not fit, or an unknown reduction.
    IndexError
        A target that is not `ignore_index` lies outside [0, C).
    TypeError
        Targets that are not integers.
    """
    name = "nll_loss"
    _check_reduction(name, reduction)
    logp = _classes_last(name, "log_probabilities", floating(log_probabilities), axis)
    targets = integers(name, "targets", targets, logp)
    _check_targets(name, logp, targets)
    classes = logp.shape[-1]
    weights = _class_weights(name, weight, logp)
    losses = loss.NegativeLogLikelihood.apply(
        logp.reshape(targets.size, classes),
        targets.reshape(-1),
        None if weights is None else logp._result(weights),
        ignore_index=ignore_index,
    )
    xp, flat = logp.backend.xp, targets.array.reshape(-1)
    counted, safe = loss.counted_targets(xp, name, flat, classes, ignore_index)
    of_target = loss.target_weights(xp, counted, safe, weights, logp.dtype)
    return _weighted(losses.reshape(targets.shape), reduction, of_target)


def mse_loss(x: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """Return the mean, sum, or each ("none") of (x - target)^2, of equal shapes.

    Raises
    ------
    ValueError
        The shapes differ: broadcasting would compare each x with each target.
    """
    return _pairs("mse_loss", loss.SquaredError, x, target, reduction)


def l1_loss(x: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """Return the mean, sum, or each ("none") of |x - target|, of equal shapes.

    The gradient where both are equal is 0.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    return _pairs("l1_loss", loss.AbsoluteError, x, target, reduction)


def smooth_l1_loss(x: Tensor, target: Any, reduction: str = "mean", *, beta: float = 1.0) -> Tensor:
    """Return the mean, sum, or each of d^2 / (2 beta) where |d| < beta, else |d| - beta / 2.

    d is x - target, of equal shapes (Girshick 2015, arXiv:1504.08083).

    Raises
    ------
    ValueError
        The shapes differ, or beta is negative.
    """
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss: beta={beta}, expected a number of at least 0")
    options = {"beta": float(beta), "factor": 1.0}
    return _pairs("smooth_l1_loss", loss.SmoothAbsoluteError, x, target, reduction, **options)


def huber_loss(x: Tensor, target: Any, reduction: str = "mean", *, delta: float = 1.0) -> Tensor:
    """Return the mean, sum, or each of d^2 / 2 where |d| < delta, else delta (|d| - delta / 2).

    d is x - target, of equal shapes (Huber 1964).

    Raises
    ------
    ValueError
        The shapes differ, or delta is not above 0.
    """
    if not delta > 0:
        raise ValueError(f"huber_loss: delta={delta}, expected a number above 0")
    options = {"beta": float(delta), "factor": float(delta)}
    return _pairs("huber_loss", loss.SmoothAbsoluteError, x, target, reduction, **options)


def binary_cross_entropy(
    x: Tensor, target: Any, reduction: str = "mean", *, weight: Any = None
) -> Tensor:
    """Return the mean, sum, or each of -weight (t log(x) + (1 - t) log(1 - x)).

    x and the targets t are probabilities, of equal shapes; `weight` is a constant that broadcasts
    to them. Logarithms below -100 are taken as -100, so that no loss is infinite.
    `binary_cross_entropy_with_logits` keeps more digits.

    Raises
    ------
    ValueError
        The shapes do not fit, or x or a target lies outside [0, 1].
    """
    losses = _pairs("binary_cross_entropy", loss.BinaryCrossEntropy, x, target, "none")
    return _reduced(_times("binary_cross_entropy", losses, weight), reduction)


def binary_cross_entropy_with_logits(
    logits: Tensor,
    target: Any,
    reduction: str = "mean",
    *,
    weight: Any = None,
    pos_weight: Any = None,
) -> Tensor:
    """Return the mean, sum, or each of weight (pos_weight t softplus(-x) + (1 - t) softplus(x)).

    That is the binary cross-entropy of sigmoid(x) with targets t, of the logits' shape; no logit
    is too large. `weight` and `pos_weight` are constants that broadcast to the logits.

    Raises
    ------
    ValueError
        The shapes do not fit, or the reduction is unknown.
    """
    name = "binary_cross_entropy_with_logits"
    _check_reduction(name, reduction)
    x, y = _same_shape(name, logits, target)
    positive = None if pos_weight is None else _constant(name, "pos_weight", pos_weight, x)
    losses = loss.BinaryCrossEntropyWithLogits.apply(x, y, positive)
    return _reduced(_times(name, losses, weight), reduction)


def integers(name: str, what: str, values: Any, like: Tensor) -> Tensor:
    """Return the values as a tensor on the device of `like`; TypeError unless they are integers."""
    if not isinstance(values, TensorBase):
        values = Tensor(values, device=like.device)
    if values.array.dtype.kind not in "iu":
        raise TypeError(f"{name}: {what} are {values.array.dtype}, expected integers")
    return values


def _check_reduction(name: str, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{name}: reduction={reduction!r}, expected one of {REDUCTIONS}")


def _classes_last(name: str, what: str, x: Tensor, axis: int) -> Tensor:
    if x.ndim == 0:
        raise ValueError(f"{name}: {what} without axes; expected (..., classes)")
    axis = normalize_axis(name, axis, x.ndim)
    if axis == x.ndim - 1:
        return x
    return x.permute(*(i for i in range(x.ndim) if i != axis), axis)


def _check_targets(name: str, logits: Tensor, targets: Tensor) -> None:
    expected = logits.shape[:-1]
    if targets.shape != expected:
        hint = ""
        if logits.ndim > 2 and targets.shape == (logits.shape[0], *logits.shape[2:]):
            hint = "; for classes along the second axis say axis=1"
        raise ValueError(
            f"{name}: logits {logits.shape} (classes last) and targets {targets.shape}; expected "
            f"targets {expected}{hint}"
        )


def _class_weights(name: str, weight: Any, logits: Tensor) -> Array | None:
    """Return the weights of the classes as an array of the logits' dtype, or None."""
    if weight is None:
        return None
    array = _constant(name, "weight", weight, logits, broadcast=False).array
    if array.shape != logits.shape[-1:]:
        raise ValueError(
            f"{name}: weight {array.shape} for {logits.shape[-1]} classes; expected one for each"
        )
    return array


def _constant(name: str, what: str, value: Any, x: Tensor, broadcast: bool = True) -> Tensor:
    """Return what has no gradient as a tensor of the dtype of x, which it broadcasts to."""
    if not isinstance(value, TensorBase):
        value = tensor_like(name, value, x)
    if value.requires_grad or (value.derived and is_grad_enabled()):
        raise ValueError(
            f"{name}: no gradient is computed by {what}; pass {what}.detach(), or multiply the "
            'losses of reduction="none" by it'
        )
    if broadcast and not broadcasts_to(value.shape, x.shape):
        raise ValueError(f"{name}: {what} {value.shape} does not broadcast to {x.shape}")
    return value._result(value.array.astype(x.dtype, copy=False))


def _same_shape(name: str, x: Tensor, target: Any) -> tuple[Tensor, Tensor]:
    """Return both as floating tensors of one dtype and shape; a target number is for all."""
    if not isinstance(x, TensorBase):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    x = floating(x)
    number = isinstance(target, int | float)
    if isinstance(target, list | tuple):
        target = Tensor(target, x.dtype, device=x.device)
    target = tensor_like(name, target, x)
    if not is_floating(target.dtype):
        target = target.astype(x.dtype)
    if target.dtype != x.dtype:
        raise TypeError(f"{name}: input is {x.dtype} and target {target.dtype}; expected one dtype")
    if number:
        target = target.broadcast_to(x.shape)
    if target.shape != x.shape:
        raise ValueError(
            f"{name}: input {x.shape} and target {target.shape}; expected equal shapes, reshape "
            "one of them"
        )
    return x, target


def _pairs(
    name: str,
    operation: type[loss.PairLoss],
    x: Tensor,
    target: Any,
    reduction: str,
    **options: Any,
) -> Tensor:
    _check_reduction(name, reduction)
    return _reduced(operation.apply(*_same_shape(name, x, target), **options), reduction)


def _times(name: str, losses: Tensor, weight: Any) -> Tensor:
    return losses if weight is None else losses * _constant(name, "weight", weight, losses)


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.mean() if losses.size else losses.sum() * float("nan")


def _weighted(losses: Tensor, reduction: str, weights: Array) -> Tensor:
    """Return the losses reduced, the mean as a share of the weights' sum (NaN of none)."""
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    divisor = float(weights.sum(dtype=np.float64))
    return total / divisor if divisor else total * float("nan")
