"""Softmax along one axis, of scaled elements, with an optional mask."""

from tinygrad_char.kernels import reduce
from tinygrad_char.kernels.array import Array, namespace


def causal_mask(xp: object, rows: int, columns: int) -> Array:
    """Return the boolean (rows, columns) mask in which row i sees column j <= i + columns - rows.

    With as many rows as columns this is the lower triangle; with fewer rows they are the last
    ones, as when new positions attend to cached ones.
    """
    return xp.tri(rows, columns, columns - rows, dtype=bool)  # type: ignore[attr-defined]


def with_causal(mask: Array | None, x: Array) -> Array:
    """Return which elements of x a causal mask, and another one, let take part."""
    visible = causal_mask(namespace(x), *x.shape[-2:])
    return visible if mask is None else visible & mask


def split_scale(x: Array, scale: float) -> tuple[Array, float]:
    """Return x times the scale's sign, and what is left of the scale, which is positive."""
    if scale > 0:
        return x, scale
    return (-x, -scale) if scale < 0 else (x * x.dtype.type(scale), 1.0)


def exponentials(below: Array, magnitude: float) -> None:
    """Turn what lies below a peak into exp(magnitude * below), in its place."""
    if magnitude != 1:
        below *= below.dtype.type(magnitude)
    namespace(below).exp(below, out=below)


def forward(
    x: Array, mask: Array | None = None, axis: int = -1, causal: bool = False, scale: float = 1.0
) -> Array:
    """Return y = softmax(scale * x) along `axis`; backward needs y.

    y = exp(scale * (x - peak)) / sum(exp(scale * (x - peak))), where peak is the x of the largest
    scale * x. To scale first would round x before the peak is subtracted, to the size of the peak.

    Where the boolean `mask` (broadcast against x) is False, y is 0 and x is ignored. So it is with
    `causal` for element (i, j) of the last two axes where j > i + columns - rows, see causal_mask;
    with both, an element takes part if both let it. A row in which nothing is left to sum over
    gives zeros, not NaN. A row in which a NaN or +infinity takes part is all NaN.
    """
    xp = namespace(x)
    if x.shape[axis] == 0:
        return x.copy()
    x, magnitude = split_scale(x, scale)
    if causal:
        mask = with_causal(mask, x)
    if mask is not None:
        x = xp.where(mask, x, x.dtype.type(-xp.inf))
    peak = x.max(axis=axis, keepdims=True)
    if mask is not None:
        peak = xp.where(peak == -xp.inf, x.dtype.type(0), peak)
    y = x - peak
    exponentials(y, magnitude)
    total = reduce.total(y, (axis % y.ndim,), True)
    if mask is not None:
        total = xp.where(total == 0, x.dtype.type(1), total)
    y /= total
    return y


def backward(
    grad: Array, y: Array, axis: int = -1, causal: bool = False, scale: float = 1.0
) -> Array:
    """Return dx = scale * y * (dy - sum(dy * y)) along `axis`.

    What a causal mask hides of dy is ignored.
    """
    if causal:
        grad = namespace(y).where(with_causal(None, y), grad, y.dtype.type(0))
    dx = grad * y
    dx -= y * reduce.total(dx, (axis % y.ndim,), True)
    if scale != 1:
        dx *= dx.dtype.type(scale)
    return dx
