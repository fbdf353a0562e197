"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762).

The (T, S) weights of a few sequences at a time are made, used and forgotten; for backward only
each row's peak and sum are kept, from which the weights are computed again (Dao et al. 2022,
arXiv:2205.14135).
"""

from collections.abc import Iterator

from kernels.array import Array, namespace
from kernels.dropout import MaskSource, keep_mask
from kernels.softmax import causal_mask, exponentials, split_scale

BLOCK = 1 << 18
"""Number of weights that are worked on at once, so that they stay in the processor's cache."""


def forward(
    q: Array,
    k: Array,
    v: Array,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    key: MaskSource | None = None,
) -> tuple[Array, Array]:
    """Return out (B, H, T, E) and the statistics (B, H, T, 2).

    Shapes: q (B, H, T, D), k (B, H, S, D), v (B, H, S, E).
    out = dropout(softmax(scale * q k^T)) v. With `causal`, query i sees keys j <= i + S - T; a
    query that sees none gets zeros. out is laid out (B, T, H, E) in memory, so that joining the
    heads copies nothing.

    Backward needs q, k, v, out and the statistics: of each query's scores s = q k^T the peak =
    max(s) and the total = sum(exp(scale * (s - peak))); 0 and 1 of a query that sees no key. Their
    one number, logsumexp, is rounded to the size of the scores, which the weights would inherit;
    so would they if scores were scaled, and rounded, before the peak is subtracted. For a negative
    scale, s = -q k^T.
    """
    xp = namespace(q)
    batch, heads, queries, _ = q.shape
    out = xp.empty((batch, queries, heads, v.shape[-1]), dtype=q.dtype).transpose(0, 2, 1, 3)
    statistics = xp.empty((batch, heads, queries, 2), dtype=q.dtype)
    if k.shape[2] == 0:
        out[...] = 0
        statistics[..., 0], statistics[..., 1] = 0, 1
        return out, statistics
    signed, magnitude = split_scale(q, scale)
    limit = _causal_limit(q, k) if causal else None
    for rows in blocks(batch, heads * queries * k.shape[2]):
        weights = signed[rows] @ k[rows].swapaxes(-1, -2)
        if limit is not None:
            xp.minimum(weights, limit, out=weights)
        peak = weights.max(axis=-1, keepdims=True)
        peak[peak == -xp.inf] = 0
        weights -= peak
        exponentials(weights, magnitude)
        total = weights.sum(axis=-1, keepdims=True)
        total[total == 0] = 1
        statistics[rows] = xp.concatenate([peak, total], axis=-1)
        if dropout > 0 and key is not None:
            weights *= keep_mask(xp, weights.shape, dropout, key, rows.start * weights[0].size)
            # Where nothing is kept the weights are zeros already.
            total /= key.keep_scale(dropout, weights.dtype) or 1
        xp.matmul(weights, v[rows], out=out[rows])
        out[rows] /= total
    return out, statistics


def backward(
    grad: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    statistics: Array,
    grads: tuple[Array, Array, Array],
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    key: MaskSource | None = None,
) -> None:
    """Write the gradients of q, k and v into the arrays `grads` (which may be views).

    With P the weights, M the dropout mask over 1 - p, and delta = sum(dO * O) of each query:
    dV = (P * M)^T dO,  dS = P * ((dO V^T) * M - delta),  dQ = scale dS K,  dK = scale dS^T Q.
    """
    xp = namespace(q)
    batch, heads, queries, _ = q.shape
    signed, magnitude = split_scale(q, scale)
    limit = _causal_limit(q, k) if causal else None
    grad_q, grad_k, grad_v = grads
    for rows in blocks(batch, heads * queries * k.shape[2]):
        # The same product as in forward, to the last bit: a peak of 1e30 leaves none to differ in.
        weights = signed[rows] @ k[rows].swapaxes(-1, -2)
        if limit is not None:
            xp.minimum(weights, limit, out=weights)
        weights -= statistics[rows][..., :1]
        exponentials(weights, magnitude)
        weights /= statistics[rows][..., 1:]
        dscores = grad[rows] @ v[rows].swapaxes(-1, -2)
        used = weights
        if dropout > 0 and key is not None:
            start = rows.start * weights[0].size
            kept = keep_mask(xp, weights.shape, dropout, key, start)
            kept = kept * weights.dtype.type(key.keep_scale(dropout, weights.dtype))
            dscores *= kept
            used = weights * kept
        xp.matmul(used.swapaxes(-1, -2), grad[rows], out=grad_v[rows])
        dscores -= xp.einsum("bhte,bhte->bht", grad[rows], out[rows])[..., None]
        dscores *= weights
        xp.matmul(dscores, k[rows], out=grad_q[rows])
        grad_q[rows] *= scale
        xp.matmul(dscores.swapaxes(-1, -2), q[rows] * scale, out=grad_k[rows])


def _causal_limit(q: Array, k: Array) -> Array:
    """Return what scores are limited to: -inf where a query must not see a key, else +inf."""
    xp = namespace(q)
    mask = causal_mask(xp, q.shape[2], k.shape[2])
    return xp.where(mask, q.dtype.type(xp.inf), q.dtype.type(-xp.inf))


def blocks(batch: int, weights_per_sequence: int) -> Iterator[slice]:
    """Yield ranges of sequences that have together about BLOCK weights."""
    step = max(1, BLOCK // max(1, weights_per_sequence))
    return (slice(start, start + step) for start in range(0, batch, step))
