"""Causal attention, query by query over the keys that it sees: nothing else can reach a result."""

import numpy as np

CASES = {
    "value": [("v", -1, np.inf)],
    "value in the middle": [("v", 0.5, np.nan)],
    "key": [("k", -1, np.inf)],
    "key in the middle": [("k", 0.5, np.nan)],
    "key and value": [("k", -1, -np.inf), ("v", -1, np.inf)],
    "first value": [("v", 0, -np.inf)],
    "query": [("q", 0, np.inf)],
    "query in the middle": [("q", 0.5, np.nan)],
    "gradient": [("grad", 1, np.inf)],
    "gradient in the middle": [("grad", 0.5, np.nan)],
    "all": [("k", 0.5, np.inf), ("v", -1, -np.inf), ("q", 0.6, np.nan), ("grad", 1, np.inf)],
}
"""What is infinite or NaN: which array, at which position, or at which part of its length."""
LENGTHS = [(3, 3), (9, 9), (33, 33), (20, 33), (33, 20), (130, 130)]


def spoiled(case, queries, keys, size=8, dtype=np.float32):
    """Return q, k, v and the gradient of out; the first head has the values of a case."""
    rng = np.random.default_rng([queries, keys])
    lengths = {"q": queries, "k": keys, "v": keys, "grad": queries}
    arrays = {
        name: rng.standard_normal((1, 2, length, size)).astype(dtype)
        for name, length in lengths.items()
    }
    for name, place, value in CASES[case]:
        position = place if isinstance(place, int) else int(place * lengths[name])
        arrays[name][0, 0, position] = value
    return list(arrays.values())


@np.errstate(all="ignore")
def query_by_query(q, k, v, grad, scale):
    """Return out, dq, dk, dv in float64."""
    q, k, v, grad = (each.astype(np.float64) for each in (q, k, v, grad))
    out, dq, dk, dv = (np.zeros_like(each) for each in (grad, q, k, v))
    for *head, i in np.ndindex(q.shape[:3]):
        seen = min(max(i + 1 + k.shape[2] - q.shape[2], 0), k.shape[2])
        if not seen:
            continue
        query, part = (*head, i), (*head, slice(seen))
        scores = scale * k[part] @ q[query]
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        out[query] = weights @ v[part]
        slopes = weights * (v[part] @ grad[query] - grad[query] @ out[query])
        dq[query] = scale * slopes @ k[part]
        dk[part] += scale * slopes[:, None] * q[query]
        dv[part] += weights[:, None] * grad[query]
    return out, dq, dk, dv


def assert_unseen(results, arrays, scale, tolerance=1e-4):
    """Assert that results are finite where the truth is, and near to it; and nowhere else."""
    for mine, truth in zip(results, query_by_query(*arrays, scale), strict=True):
        mine = mine.astype(np.float64)
        np.testing.assert_array_equal(np.isfinite(mine), np.isfinite(truth))
        finite = np.isfinite(truth)
        np.testing.assert_allclose(mine[finite], truth[finite], rtol=tolerance, atol=tolerance)
