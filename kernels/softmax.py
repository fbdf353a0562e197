"""Softmax along one axis, with an optional mask."""

from kernels.array import Array, namespace


def causal_mask(xp: object, rows: int, columns: int) -> Array:
    """Return the boolean (rows, columns) mask in which row i sees column j <= i + columns - rows.

    With as many rows as columns this is the lower triangle; with fewer rows they are the last
    ones, as when new positions attend to cached ones.
    """
    return xp.tri(rows, columns, columns - rows, dtype=bool)  # type: ignore[attr-defined]


def forward(x: Array, mask: Array | None = None, axis: int = -1) -> Array:
    """Return y = exp(x - max) / sum(exp(x - max)) along `axis`; backward needs y.

    Where the boolean `mask` (broadcast against x) is False, y is 0 and x is ignored. A row in
    which nothing is left to sum over gives zeros, not NaN.
    """
    xp = namespace(x)
    if x.shape[axis] == 0:
        return x.copy()
    if mask is not None:
        x = xp.where(mask, x, x.dtype.type(-xp.inf))
    peak = x.max(axis=axis, keepdims=True)
    if mask is not None:
        peak = xp.where(peak == -xp.inf, x.dtype.type(0), peak)
    y = xp.exp(x - peak)
    total = y.sum(axis=axis, keepdims=True)
    if mask is not None:
        total = xp.where(total == 0, x.dtype.type(1), total)
    y /= total
    return y


def backward(grad: Array, y: Array, axis: int = -1) -> Array:
    """Return dx = y * (dy - sum(dy * y)) along `axis`."""
    dx = grad * y
    dx -= y * dx.sum(axis=axis, keepdims=True)
    return dx
