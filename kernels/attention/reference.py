"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762).

The (T, S) weights of a few sequences at a time are made, used and forgotten; for backward only
each row's peak and sum are kept, from which the weights are computed again (Dao et al. 2022,
arXiv:2205.14135).

With `bf16`, the operands of products, where they are float32, are rounded to bfloat16 first; sums,
statistics and results stay float32.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from tinygrad_char.kernels.array import Array, namespace, to_bfloat16
from tinygrad_char.kernels.dropout import MaskSource, keep_mask
from tinygrad_char.kernels.softmax import causal_mask, exponentials, split_scale

BLOCK = 1 << 18
"""How many weights are worked on at once, so that they stay in the processor's cache."""

Gradients = tuple[Array, Array, Array]
"""Where backward writes those of q, k and v."""


class Options(NamedTuple):
    """How queries weigh keys.

    With `causal`, query i sees keys j <= i + S - T. Weights are dropped with the probability
    `dropout`, by masks of a key.
    """

    causal: bool
    scale: float
    dropout: float = 0.0
    key: MaskSource | None = None


class Saved(NamedTuple):
    """The inputs and the results of forward, which backward needs.

    `statistics` (B, H, T, 2) are of each query's scores s = q k^T the peak = max(s) and the total =
    sum(exp(scale * (s - peak))); 0 and 1 of a query that sees no key. Their one number, logsumexp,
    is rounded to the size of the scores, which the weights would inherit; so would they if scores
    were scaled, and rounded, before the peak is subtracted. For a negative scale, s = -q k^T.
    """

    q: Array
    k: Array
    v: Array
    out: Array
    statistics: Array


class Cache(NamedTuple):
    """Room for keys (B, H, capacity, D) and values (B, H, capacity, E) of later positions, too.

    The first length[0] positions are filled: an int64 array of one element on the host.
    """

    keys: Array
    values: Array
    length: np.ndarray


Attend = Callable[[Array, Array, Array, Options], tuple[Array, Array]]


def forward(
    q: Array, k: Array, v: Array, options: Options, bf16: bool = False
) -> tuple[Array, Array]:
    """Return out (B, H, T, E) = dropout(softmax(scale * q k^T)) v and the statistics (B, H, T, 2).

    Shapes: q (B, H, T, D), k (B, H, S, D), v (B, H, S, E). A query that sees no key gets zeros, and
    what it does not see does not reach it, infinities and NaN included. out is laid out
    (B, T, H, E) in memory, so that joining the heads copies nothing.
    """
    xp, (causal, scale, dropout, key) = namespace(q), options
    if bf16:
        q, k, v = (to_bfloat16(each) for each in (q, k, v))
    batch, heads, queries, _ = q.shape
    out = xp.empty((batch, queries, heads, v.shape[-1]), dtype=q.dtype).transpose(0, 2, 1, 3)
    statistics = xp.empty((batch, heads, queries, 2), dtype=q.dtype)
    if k.shape[2] == 0:
        out[...] = 0
        statistics[..., 0], statistics[..., 1] = 0, 1
        return out, statistics
    signed, magnitude = split_scale(q, scale)
    seen, limit = _causal_limit(q, k) if causal else (None, None)
    for rows in blocks(batch, heads * queries * k.shape[2]):
        weights = signed[rows] @ k[rows].swapaxes(-1, -2)
        if limit is not None:
            xp.fmin(weights, limit, out=weights)
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
            share = weights.dtype.type(key.keep_scale(dropout, weights.dtype) or 1)
            if bf16:  # which is to be rounded as the kernels have it
                weights *= share
            else:
                total /= share
        if bf16:
            weights = to_bfloat16(weights)
        xp.matmul(weights, v[rows], out=out[rows])
        if seen is not None and not _is_finite(out[rows]):
            _multiply_seen(weights, v[rows], seen, out[rows])
        out[rows] /= total
    return out, statistics


def cached(q: Array, k: Array, v: Array, cache: Cache, options: Options, attend: Attend) -> Array:
    """Return out (B, H, T, E) of positions that continue those of a cache, which takes them in.

    k (B, H, T, D) and v (B, H, T, E) are written behind what it has, and its length grows by T. q
    (B, H, T, D) sees all that are filled then. `attend` is the forward function that serves.

    Raises
    ------
    ValueError
        There is no room for them.
    """
    keys, values, length = cache
    start = int(length[0])
    end = start + k.shape[2]
    room = min(keys.shape[2], values.shape[2])
    if not 0 <= start <= end <= room:
        raise ValueError(
            f"attention: a cache of {room} positions, {start} of them filled, cannot take "
            f"{k.shape[2]}"
        )
    keys[:, :, start:end] = k
    values[:, :, start:end] = v
    length[0] = end
    return attend(q, keys[:, :, :end], values[:, :, :end], options)[0]


def backward(
    grad: Array, saved: Saved, grads: Gradients, options: Options, bf16: bool = False
) -> None:
    """Write the gradients of q, k and v into the arrays `grads` (which may be views).

    With P the weights, M the dropout mask over 1 - p, and delta = sum(dO * O) of each query:
    dV = (P * M)^T dO,  dS = P * ((dO V^T) * M - delta),  dQ = scale dS K,  dK = scale dS^T Q.
    Nothing goes between a query and a key that it does not see, infinities and NaN included.
    """
    q, k = saved.q, saved.k
    rounded = to_bfloat16 if bf16 else _as_it_is
    batch, heads, queries, _ = q.shape
    limits = _causal_limit(q, k) if options.causal else (None, None)
    for rows in blocks(batch, heads * queries * k.shape[2]):
        some = Saved(*(each[rows] for each in saved))
        grad_q, grad_k, grad_v = (each[rows] for each in grads)
        parts = grad_q, grad_k, grad_v
        # where nobody waits to see whether it needs be
        careful = options.causal and namespace(q) is not np
        _backward(grad[rows], some, parts, options, limits, rows.start, careful, rounded)
        if options.causal and not careful and not all(map(_is_finite, parts)):
            _backward(grad[rows], some, parts, options, limits, rows.start, True, rounded)


def _backward(
    grad: Array,
    saved: Saved,
    grads: Gradients,
    options: Options,
    limits: tuple[Array | None, Array | None],
    start: int,
    careful: bool,
    rounded: Callable[[Array], Array],
) -> None:
    """Write the gradients of some sequences; `careful`, where what is not seen may be infinite.

    Operands of products are `rounded`.
    """
    q, k, v = (rounded(each) for each in saved[:3])
    out, statistics = saved.out, saved.statistics
    _, scale, dropout, key = options
    grad_q, grad_k, grad_v = grads
    seen, limit = limits
    xp = namespace(q)
    signed, magnitude = split_scale(q, scale)
    # The same product as in forward, to the last bit: a peak of 1e30 leaves none to differ in.
    weights = signed @ k.swapaxes(-1, -2)
    if limit is not None:
        xp.fmin(weights, limit, out=weights)
    weights -= statistics[..., :1]
    exponentials(weights, magnitude)
    weights /= statistics[..., 1:]
    delta = xp.einsum("bhte,bhte->bht", grad, out)
    grad = rounded(grad)
    dscores = grad @ v.swapaxes(-1, -2)
    zero = weights.dtype.type(0)
    if careful:
        weights, dscores = xp.where(seen, weights, zero), xp.where(seen, dscores, zero)
    used = weights
    if dropout > 0 and key is not None:
        kept = keep_mask(xp, weights.shape, dropout, key, start * weights[0].size)
        kept = kept * weights.dtype.type(key.keep_scale(dropout, weights.dtype))
        dscores *= kept
        used = weights * kept
    used = rounded(used)
    xp.matmul(used.swapaxes(-1, -2), grad, out=grad_v)
    dscores -= delta[..., None]
    dscores *= weights
    if careful:
        dscores = xp.where(seen, dscores, zero)
    dscores = rounded(dscores)
    xp.matmul(dscores, k, out=grad_q)
    xp.matmul(dscores.swapaxes(-1, -2), q * scale, out=grad_k)
    if careful and seen is not None:
        _multiply_seen(used.swapaxes(-1, -2), grad, seen.T, grad_v)
        _multiply_seen(dscores, k, seen, grad_q)
        _multiply_seen(dscores.swapaxes(-1, -2), q * scale, seen.T, grad_k)
    grad_q *= scale


def _as_it_is(array: Array) -> Array:
    return array


def _is_finite(array: Array) -> bool:
    """Return whether all elements are finite; False on a device, which nobody waits for."""
    return namespace(array) is np and bool(np.isfinite(array).all())


def _multiply_seen(weights: Array, values: Array, seen: Array, out: Array) -> None:
    """Write weights @ values without what is not seen, where weights are 0 and 0 * inf is NaN.

    The finite values are multiplied as ever. Then each sum becomes infinite, or NaN, by the values
    that are not finite: how many of what sign it has is counted by products of signs.
    """
    xp, dtype = namespace(weights), weights.dtype
    finite, infinite = xp.isfinite(values), xp.isinf(values)
    zero, infinity = dtype.type(0), dtype.type(xp.inf)
    xp.matmul(weights, xp.where(finite, values, zero), out=out)
    signs = (weights > 0).astype(dtype) - (weights < 0).astype(dtype)
    net = signs @ xp.where(infinite, xp.sign(values), zero)
    both = abs(signs) @ infinite.astype(dtype)
    every = seen.astype(dtype) @ (~finite).astype(dtype)
    out += xp.where(both + net > 0, infinity, zero)
    out -= xp.where(both - net > 0, infinity, zero)
    out += xp.where(every > both, dtype.type(xp.nan), zero)


def _causal_limit(q: Array, k: Array) -> tuple[Array, Array]:
    """Return which keys a query sees, and a limit for `fmin`: -inf for the others, NaN for none."""
    xp = namespace(q)
    seen = causal_mask(xp, q.shape[2], k.shape[2])
    return seen, xp.where(seen, q.dtype.type(xp.nan), q.dtype.type(-xp.inf))


def blocks(batch: int, weights_per_sequence: int) -> Iterator[slice]:
    """Yield ranges of sequences that have together about BLOCK weights."""
    step = max(1, BLOCK // max(1, weights_per_sequence))
    return (slice(start, start + step) for start in range(0, batch, step))
