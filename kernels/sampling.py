"""One token for each row of logits, by a uniform number each."""

from kernels.array import Array, namespace


def forward(
    logits: Array, uniform: Array, temperature: float = 1.0, top_k: int | None = None
) -> Array:
    """Return tokens (N,), int64, for logits (N, V) and numbers (N,) uniform in [0, 1).

    Token i is the first class at which the running sum of exp(logit / temperature), over the
    `top_k` largest logits and their equals, exceeds uniform_i times the total. Temperature 0
    takes the first of the largest logits.
    """
    xp = namespace(logits)
    if temperature == 0:
        return logits.argmax(axis=1)
    below = logits.astype(xp.float64)
    below -= below.max(axis=1, keepdims=True)
    if top_k is not None and top_k < below.shape[1]:
        least = xp.partition(below, -top_k, axis=1)[:, -top_k, None]
        below[below < least] = -xp.inf
    sums = xp.exp(below / temperature).cumsum(axis=1)
    threshold = uniform.astype(xp.float64)[:, None] * sums[:, -1:]
    return (sums <= threshold).sum(axis=1)
