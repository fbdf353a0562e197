"""Cross-entropy from logits and integer targets."""

from kernels.array import Array, namespace
from kernels.embedding import check_indices


def forward(
    logits: Array, targets: Array, reduction: str = "mean", ignore_index: int = -100
) -> tuple[Array, Array]:
    """Return the loss and logsumexp (N,), which backward needs, for logits (N, V), targets (N,).

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
    log_total = xp.log(xp.exp(logits - peak[:, None]).sum(axis=1))
    # log_total + (peak - logit) keeps the digits that logsumexp - logit loses to a large peak
    losses = log_total + (peak - logits[xp.arange(len(targets)), safe])
    losses[~counted] = 0
    logsumexp = log_total + peak
    if reduction == "none":
        return losses, logsumexp
    total = losses.sum()
    if reduction == "mean":
        count = int(counted.sum())
        total = total / count if count else total * xp.nan
    return total, logsumexp


def backward(
    grad: Array,
    logits: Array,
    targets: Array,
    logsumexp: Array,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Array:
    """Return dlogits (N, V) = (softmax(logits) - onehot(targets)) * dloss.

    dloss is a scalar, divided by the number of counted targets for the mean, or (N,) for "none".
    """
    xp = namespace(logits)
    counted = targets != ignore_index
    dlogits = logits - logsumexp[:, None]
    xp.exp(dlogits, out=dlogits)
    dlogits[xp.arange(len(targets)), xp.where(counted, targets, 0)] -= 1
    if reduction == "mean":
        grad = grad / max(int(counted.sum()), 1)
    scale = grad[:, None] if reduction == "none" else grad
    dlogits *= scale
    if not bool(counted.all()):
        dlogits[~counted] = 0
    return dlogits
