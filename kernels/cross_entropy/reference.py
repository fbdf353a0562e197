"""Cross-entropy from logits and integer targets."""

from typing import NamedTuple

from tinygrad_char.kernels import reduce
from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.embedding import check_indices


class Saved(NamedTuple):
    """The inputs of forward, and the statistics (N, 2) of its rows, which backward needs.

    Each row's peak = max(logits_i), and total = sum(exp(logits_i - peak)). Their one number,
    logsumexp_i = log(total) + peak, is rounded to the size of the peak, and a probability
    exp(logits_i - logsumexp_i) inherits that.
    """

    logits: Array
    targets: Array
    statistics: Array


def forward(
    logits: Array, targets: Array, reduction: str = "mean", ignore_index: int = -100
) -> tuple[Array, Array]:
    """Return the loss and the statistics (N, 2), for logits (N, V) and targets (N,).

    loss_i = logsumexp(logits_i) - logits_i[target_i], and 0 where target_i is `ignore_index`.
    `reduction` is "none" (N,), "sum", or "mean" over the targets that are not ignored (NaN if
    there are none).

    Raises
    ------
    IndexError
        A target that is not `ignore_index` lies outside [0, V).
    """
    xp = namespace(logits)
    counted = targets != ignore_index
    safe = xp.where(counted, targets, 0)
    check_indices(safe, logits.shape[1], "cross_entropy: target")
    peak = logits.max(axis=1)
    total = reduce.total(xp.exp(logits - peak[:, None]), (1,))
    losses = xp.log(total) + (peak - logits[xp.arange(len(targets)), safe])
    losses[~counted] = 0
    statistics = xp.stack([peak, total], axis=1)
    if reduction == "none":
        return losses, statistics
    loss = reduce.total(losses, (0,))
    if reduction == "mean":
        count = int(counted.sum())
        loss = loss / count if count else loss * xp.nan
    return loss, statistics


def backward(grad: Array, saved: Saved, reduction: str = "mean", ignore_index: int = -100) -> Array:
    """Return dlogits (N, V) = (softmax(logits) - onehot(targets)) * dloss.

    softmax(logits_i) = exp(logits_i - peak) / total. dloss is a scalar, divided by the number of
    counted targets for the mean, or (N,) for "none".
    """
    logits, targets, statistics = saved
    xp = namespace(logits)
    counted = targets != ignore_index
    dlogits = logits - statistics[:, :1]
    xp.exp(dlogits, out=dlogits)
    dlogits /= statistics[:, 1:]
    dlogits[xp.arange(len(targets)), xp.where(counted, targets, 0)] -= 1
    if reduction == "mean":
        grad = grad / max(int(counted.sum()), 1)
    scale = grad[:, None] if reduction == "none" else grad
    dlogits *= scale
    if not bool(counted.all()):
        dlogits[~counted] = 0
    return dlogits


def one_pass(
    logits: Array, targets: Array, reduction: str = "mean", ignore_index: int = -100
) -> tuple[Array, Array, Array]:
    """Return what forward returns, and what backward does for a cotangent of ones.

    For versions that have both without reading the logits twice; `rescale` makes of this gradient
    (N, V) that for another cotangent. Any other version returns NotImplemented, as here: then
    forward and backward have to be called.
    """
    return NotImplemented


def rescale(grad: Array, grad_logits: Array) -> Array:
    """Multiply a gradient of `one_pass` by the cotangent, a scalar or (N,), in its place."""
    grad_logits *= grad[:, None] if grad.ndim else grad
    return grad_logits
