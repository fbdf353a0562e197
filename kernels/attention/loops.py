"""Attention in plain Python, query by query over the keys that it sees, see reference.py.

Dropout is not served: its masks are arrays of random bits. Nor is bfloat16.
"""

from math import exp, inf
from types import NotImplementedType

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.attention.reference import Gradients, Options, Saved
from tinygrad_char.kernels.cpu.plain import in_python

Vector = list[float]


@in_python
def forward(
    q: Array, k: Array, v: Array, options: Options, bf16: bool = False
) -> tuple[Array, Array]:
    if options.dropout > 0 or bf16:
        return NotImplemented
    batch, heads, queries, _ = q.shape
    out = np.empty((batch, queries, heads, v.shape[-1]), q.dtype).transpose(0, 2, 1, 3)
    statistics = np.empty((batch, heads, queries, 2), q.dtype)
    for head in np.ndindex(batch, heads):
        keys, values = k[head].tolist(), v[head].tolist()
        for i, query in enumerate(q[head].tolist()):
            seen = keys_seen(i, queries, len(keys), options.causal)
            weights, peak, total = weigh(query, keys[:seen], options.scale)
            out[(*head, i)] = [
                sum(weight * value[e] for weight, value in zip(weights, values, strict=False))
                for e in range(v.shape[-1])
            ]
            statistics[(*head, i)] = peak, total
    return out, statistics


@in_python
def backward(
    grad: Array, saved: Saved, grads: Gradients, options: Options, bf16: bool = False
) -> NotImplementedType | None:
    """Make each query's weights again from its scores, which are not rounded as the peak is."""
    if options.dropout > 0 or bf16:
        return NotImplemented
    q, k, v, out, _ = saved
    batch, heads, queries, _ = q.shape
    results = [np.zeros(each.shape) for each in (q, k, v)]
    for head in np.ndindex(batch, heads):
        keys, values = k[head].tolist(), v[head].tolist()
        dq, dk, dv = (each[head] for each in results)
        rows = zip(q[head].tolist(), grad[head].tolist(), out[head].tolist(), strict=True)
        for i, (query, slopes, row) in enumerate(rows):
            seen = keys_seen(i, queries, len(keys), options.causal)
            weights, _, _ = weigh(query, keys[:seen], options.scale)
            delta = dot(slopes, row)
            for j, weight in enumerate(weights):
                dscore = options.scale * weight * (dot(slopes, values[j]) - delta)
                for d, (a, b) in enumerate(zip(query, keys[j], strict=True)):
                    dq[i, d] += dscore * b
                    dk[j, d] += dscore * a
                for e, slope in enumerate(slopes):
                    dv[j, e] += weight * slope
    for target, result in zip(grads, results, strict=True):
        target[...] = result
    return None


def keys_seen(query: int, queries: int, keys: int, causal: bool) -> int:
    """Return how many keys, the first ones, a query sees: with `causal`, none that is later."""
    return min(max(query + 1 + keys - queries, 0), keys) if causal else keys


def weigh(query: Vector, keys: list[Vector], scale: float) -> tuple[Vector, float, float]:
    """Return w_j = exp(scale (s_j - peak)) / total, with s_j = query . key_j, peak and total.

    For a negative scale, s_j = -query . key_j and the scale is its magnitude.
    """
    if scale < 0:
        query, scale = [-each for each in query], -scale
    scores = [dot(query, key) for key in keys]
    peak = max(scores, default=0.0)
    if peak == -inf:
        peak = 0.0
    weights = [exp(scale * (score - peak)) for score in scores]
    total = sum(weights) or 1.0
    return [each / total for each in weights], peak, total


def dot(a: Vector, b: Vector) -> float:
    """Return a_0 b_0 + a_1 b_1 + ..."""
    return sum((x * y for x, y in zip(a, b, strict=True)), 0.0)
