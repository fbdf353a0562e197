"""One token for each row of logits, by a uniform number each."""

from typing import NamedTuple

import numpy as np

from tinygrad_char.kernels.array import Array, namespace


class Options(NamedTuple):
    """What the weights of classes depend on besides their logits, see `weights`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None


PLAIN = Options()
"""Probabilities as they are."""


def forward(logits: Array, uniform: Array, options: Options = PLAIN) -> Array:
    """Return tokens (N,), int64, for logits (N, V) and numbers (N,) uniform in [0, 1).

    Token i is the first class at which the running sum of the row's weights, see `weights`, exceeds
    uniform_i times the total. Temperature 0 takes the first of the largest logits, and no notice of
    the uniform numbers. A row of which the largest logit is not a finite number, or that has a NaN,
    gives no probabilities: its token is -1.
    """
    xp = namespace(logits)
    if options.temperature == 0:
        return xp.where(xp.isfinite(logits.max(axis=1)), logits.argmax(axis=1), -1)
    sums = weights(logits, options).cumsum(axis=1)
    total = sums[:, -1:]
    tokens = (sums <= uniform.astype(xp.float64)[:, None] * total).sum(axis=1)
    return xp.where(total[:, 0] > 0, tokens, -1)


def weights(logits: Array, options: Options) -> Array:
    """Return exp((logit - max) / temperature) (N, V), float64: probabilities times a number.

    The weight is 0 of all but the `top_k` largest logits and their equals; then of all but those
    before which, likeliest first and the first of equals first, less than `top_p` of the total was
    reached (Holtzman et al. 2020, arXiv:1904.09751). The temperature is above 0.
    """
    xp, (temperature, top_k, top_p) = namespace(logits), options
    with np.errstate(over="ignore", invalid="ignore"):
        below = logits.astype(xp.float64)
        below -= below.max(axis=1, keepdims=True)
        if top_k is not None and top_k < below.shape[1]:
            least = xp.partition(below, -top_k, axis=1)[:, -top_k, None]
            below[below < least] = -xp.inf
        result = xp.exp(below / temperature)
    if top_p is not None and top_p < 1:
        order = xp.argsort(-result, axis=1, kind="stable")
        ranked = xp.take_along_axis(result, order, axis=1)
        reached = (ranked / result.cumsum(axis=1)[:, -1:]).cumsum(axis=1)
        before = xp.concatenate([xp.zeros_like(reached[:, :1]), reached[:, :-1]], axis=1)
        kept = xp.take_along_axis(before < top_p, order.argsort(axis=1), axis=1)
        result *= kept
    return result
