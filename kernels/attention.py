"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762).

The (T, S) weights of a few sequences at a time are made, used and forgotten; for backward only
the logarithm of each row's sum is kept, from which the weights are computed again (Dao et al.
2022, arXiv:2205.14135).
"""

from collections.abc import Iterator

from kernels.array import Array, namespace
from kernels.dropout import DropoutKey, keep_mask, keep_scale
from kernels.softmax import causal_mask

BLOCK = 1 << 18
"""Number of weights that are worked on at once, so that they stay in the processor's cache."""


def forward(
    q: Array,
    k: Array,
    v: Array,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    key: DropoutKey | None = None,
) -> tuple[Array, Array]:
    """Return out (B, H, T, E) and logsumexp (B, H, T).

    Shapes: q (B, H, T, D), k (B, H, S, D), v (B, H, S, E).
    out = dropout(softmax(scale * q k^T)) v. With `causal`, query i sees keys j <= i + S - T; a
    query that sees none gets zeros. out is laid out (B, T, H, E) in memory, so that joining the
    heads copies nothing. Backward needs q, k, v, out and logsumexp.
    """
    xp = namespace(q)
    batch, heads, queries, _ = q.shape
    out = xp.empty((batch, queries, heads, v.shape[-1]), dtype=q.dtype).transpose(0, 2, 1, 3)
    logsumexp = xp.empty((batch, heads, queries), dtype=q.dtype)
    if k.shape[2] == 0:
        out[...] = 0
        logsumexp[...] = xp.inf
        return out, logsumexp
    mask = causal_mask(xp, queries, k.shape[2]) if causal else None
    for block, rows in enumerate(_blocks(batch, heads * queries * k.shape[2])):
        scores = q[rows] @ k[rows].swapaxes(-1, -2)
        scores *= scale
        if mask is not None:
            scores = xp.where(mask, scores, scores.dtype.type(-xp.inf))
        peak = scores.max(axis=-1, keepdims=True)
        peak = xp.where(peak == -xp.inf, scores.dtype.type(0), peak)
        scores -= peak
        xp.exp(scores, out=scores)
        total = scores.sum(axis=-1, keepdims=True)
        # A query that sees no key: its weights are 0 / 1, and exp(scores - inf) is 0 in backward.
        empty = total == 0
        total[empty] = 1
        scores /= total
        logsumexp[rows] = xp.where(empty, scores.dtype.type(xp.inf), xp.log(total) + peak)[..., 0]
        if dropout > 0 and key is not None:
            scores *= keep_mask(xp, scores.shape, dropout, key, block)
            scores *= keep_scale(dropout)
        xp.matmul(scores, v[rows], out=out[rows])
    return out, logsumexp


def backward(
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
    key: DropoutKey | None = None,
) -> None:
    """Write the gradients of q, k and v into the arrays `grads` (which may be views).

    With P the weights, M the dropout mask over 1 - p, and delta = sum(dO * O) of each query:
    dV = (P * M)^T dO,  dS = P * ((dO V^T) * M - delta),  dQ = scale dS K,  dK = scale dS^T Q.
    """
    xp = namespace(q)
    batch, heads, queries, _ = q.shape
    mask = causal_mask(xp, queries, k.shape[2]) if causal else None
    for block, rows in enumerate(_blocks(batch, heads * queries * k.shape[2])):
        weights = q[rows] @ k[rows].swapaxes(-1, -2)
        weights *= scale
        if mask is not None:
            # before exp: a score that was masked may exceed the row's logsumexp and overflow
            weights = xp.where(mask, weights, weights.dtype.type(-xp.inf))
        weights -= logsumexp[rows][..., None]
        xp.exp(weights, out=weights)
        dscores = grad[rows] @ v[rows].swapaxes(-1, -2)
        if dropout > 0 and key is not None:
            kept = keep_mask(xp, weights.shape, dropout, key, block) * weights.dtype.type(
                keep_scale(dropout)
            )
            dscores *= kept
            xp.matmul((weights * kept).swapaxes(-1, -2), grad[rows], out=grads[2][rows])
        else:
            xp.matmul(weights.swapaxes(-1, -2), grad[rows], out=grads[2][rows])
        dscores -= (grad[rows] * out[rows]).sum(axis=-1, keepdims=True)
        dscores *= weights
        dscores *= scale
        xp.matmul(dscores, k[rows], out=grads[0][rows])
        xp.matmul(dscores.swapaxes(-1, -2), q[rows], out=grads[1][rows])


def _blocks(batch: int, weights_per_sequence: int) -> Iterator[slice]:
    step = max(1, BLOCK // max(1, weights_per_sequence))
    return (slice(start, start + step) for start in range(0, batch, step))
