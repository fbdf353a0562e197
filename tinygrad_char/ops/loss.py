"""Losses: of each element, or of each row of logits; what reduces them stands above.

A factor that is 0 (a weight, a probability) adds exactly 0, whatever it multiplies: a logit of
-infinity costs nothing where nothing is asked of it.
"""

from typing import Any

from tinygrad_char.autograd import Function
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.embedding import check_indices
from tinygrad_char.kernels.reduce import total
from tinygrad_char.ops.activation import sigmoid, softplus

LOG_FLOOR = -100.0
"""The smallest logarithm of a probability in binary_cross_entropy, as in PyTorch."""


def gated(xp: Any, gate: Array, value: Array) -> Array:
    """Return gate * value, and 0 where the gate is 0 whatever the value is."""
    return xp.where(gate == 0, value.dtype.type(0), gate * value)


class PairLoss(Function):
    """A loss of each pair (input, target): loss(x, y), and the slopes by both."""

    upcasts = True

    def forward(self, x: Array, y: Array, **options: Any) -> Array:
        self.saved = (x, y)
        self.options = options
        return self.loss(self.backend.xp, x, y, **options)

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        xp = self.backend.xp
        x, y = self.saved
        slopes = self.slopes(xp, x, y, self.needs, **self.options)
        by_x, by_y = (None if each is None else gated(xp, each, grad) for each in slopes)
        return by_x, by_y

    def loss(self, xp: Any, x: Array, y: Array, **options: Any) -> Array:
        """Return the loss of each pair, of the shape of x."""
        raise NotImplementedError

    def slopes(
        self, xp: Any, x: Array, y: Array, needs: tuple[bool, ...], **options: Any
    ) -> tuple[Array | None, Array | None]:
        """Return dloss/dx and dloss/dy, None where not needed."""
        raise NotImplementedError


class _DifferenceLoss(PairLoss):
    """A loss of x - y alone: the slopes are opposite."""

    def slopes(
        self, xp: Any, x: Array, y: Array, needs: tuple[bool, ...], **options: Any
    ) -> tuple[Array | None, Array | None]:
        slope = self.slope(xp, x - y, **options)
        return slope if needs[0] else None, -slope if needs[1] else None

    def slope(self, xp: Any, difference: Array, **options: Any) -> Array:
        raise NotImplementedError


class SquaredError(_DifferenceLoss):
    """d^2 of d = x - y: the slope is 2 d."""

    def loss(self, xp: Any, x: Array, y: Array) -> Array:  # type: ignore[override]
        difference = x - y
        return difference * difference

    def slope(self, xp: Any, difference: Array) -> Array:  # type: ignore[override]
        return 2 * difference


class AbsoluteError(_DifferenceLoss):
    """|d| of d = x - y: the slope is the sign of d, 0 where they are equal or NaN."""

    def loss(self, xp: Any, x: Array, y: Array) -> Array:  # type: ignore[override]
        return abs(x - y)

    def slope(self, xp: Any, difference: Array) -> Array:  # type: ignore[override]
        return xp.where(abs(difference) > 0, xp.sign(difference), difference.dtype.type(0))


class SmoothAbsoluteError(_DifferenceLoss):
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, of d = x - y; times `factor`.

    The slope is d / beta there, else the sign of d. Girshick 2015, arXiv:1504.08083; with factor =
    beta, Huber 1964.
    """

    def loss(  # type: ignore[override]
        self, xp: Any, x: Array, y: Array, *, beta: float, factor: float
    ) -> Array:
        size = abs(x - y)
        near = size < beta
        square = xp.where(near, size, size.dtype.type(0))
        return factor * xp.where(near, square * square * (0.5 / (beta or 1)), size - beta / 2)

    def slope(  # type: ignore[override]
        self, xp: Any, difference: Array, *, beta: float, factor: float
    ) -> Array:
        near = abs(difference) < beta
        return factor * xp.where(near, difference / (beta or 1), xp.sign(difference))


class BinaryCrossEntropy(PairLoss):
    """-(y log(p) + (1 - y) log(1 - p)) of a probability p, logarithms not below LOG_FLOOR."""

    def forward(self, x: Array, y: Array, **options: Any) -> Array:
        """Return the loss of each pair; ValueError for a p or y outside [0, 1]."""
        for what, values in (("input", x), ("target", y)):
            outside = (values < 0) | (values > 1)
            if bool(outside.any()):
                raise ValueError(
                    f"binary_cross_entropy: {what} holds {float(values[outside][0]):g}, expected "
                    "probabilities from 0 to 1; for logits take binary_cross_entropy_with_logits"
                )
        return super().forward(x, y, **options)

    def loss(self, xp: Any, x: Array, y: Array) -> Array:  # type: ignore[override]
        """Return the loss of each pair; log(1 - p) as log1p(-p), which keeps its digits."""
        log, log_rest = self._logarithms(xp, x)
        return -(y * log + (1 - y) * log_rest)

    def slopes(  # type: ignore[override]
        self, xp: Any, x: Array, y: Array, needs: tuple[bool, ...]
    ) -> tuple[Array | None, Array | None]:
        """Return (p - y) / (p (1 - p)), its divisor not below 1e-12; log(1 - p) - log(p)."""
        by_y = None
        if needs[1]:
            log, log_rest = self._logarithms(xp, x)
            by_y = log_rest - log
        return (x - y) / xp.maximum(x * (1 - x), 1e-12) if needs[0] else None, by_y

    def _logarithms(self, xp: Any, x: Array) -> tuple[Array, Array]:
        floor = x.dtype.type(LOG_FLOOR)
        return xp.maximum(xp.log(x), floor), xp.maximum(xp.log1p(-x), floor)


class BinaryCrossEntropyWithLogits(Function):
    """pos_weight y softplus(-x) + (1 - y) softplus(x): no logit is too large, no digit lost."""

    upcasts = True

    def forward(self, x: Array, y: Array, pos_weight: Array | None) -> Array:
        self.saved = (x, y, pos_weight)
        xp, positive = self.backend.xp, 1 if pos_weight is None else pos_weight
        return gated(xp, positive * y, softplus(xp, -x)) + gated(xp, 1 - y, softplus(xp, x))

    def backward(self, grad: Array) -> tuple[Array | None, Array | None, None]:
        """Return dloss ((1 - y) s(x) - w y s(-x)), dloss (w softplus(-x) - softplus(x)), None.

        w is pos_weight and s the sigmoid. Each term has its own digits: s(x) - y would lose those
        of a certain answer.
        """
        xp = self.backend.xp
        x, y, pos_weight = self.saved
        positive = x.dtype.type(1) if pos_weight is None else pos_weight
        by_x = by_y = None
        if self.needs[0]:
            slope = (1 - y) * sigmoid(xp, x) - positive * y * sigmoid(xp, -x)
            by_x = gated(xp, slope, grad)
        if self.needs[1]:  # softplus(x) = x + softplus(-x): infinities do not meet
            slope = gated(xp, positive - 1, softplus(xp, -x)) - x
            by_y = gated(xp, slope, grad)
        return by_x, by_y, None


class NegativeLogLikelihood(Function):
    """-weight[t] logp[t] of each row of logp (N, C), with integer targets t (N,).

    0 where the target is `ignore_index`. dlogp = -dloss weight[t] at the target, else 0.
    """

    upcasts = True

    def forward(
        self, logp: Array, targets: Array, weight: Array | None, *, ignore_index: int
    ) -> Array:
        xp = self.backend.xp
        self.source = logp.shape
        counted, safe = counted_targets(xp, "nll_loss", targets, logp.shape[1], ignore_index)
        factor = target_weights(xp, counted, safe, weight, logp.dtype)
        self.saved = (safe, factor)
        return gated(xp, factor, -logp[xp.arange(len(safe)), safe])

    def backward(self, grad: Array) -> tuple[Array, None, None]:
        xp = self.backend.xp
        safe, factor = self.saved
        dlogp = xp.zeros(self.source, grad.dtype)
        dlogp[xp.arange(len(safe)), safe] = -gated(xp, factor, grad)
        return dlogp, None, None


class SoftCrossEntropy(Function):
    """-sum_c q_c log(softmax(x))_c of each row of logits x (N, C), for any q (N, C).

    dx = dloss (softmax(x) sum(q) - q), dq = -dloss log(softmax(x)).
    """

    upcasts = True

    def forward(self, logits: Array, q: Array) -> Array:
        xp = self.backend.xp
        self.saved = (logits, q)
        return total(gated(xp, q, -self._log_softmax(xp, logits)), (1,))

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        xp = self.backend.xp
        logits, q = self.saved
        grad = grad[:, None]
        by_logits = by_q = None
        logp = self._log_softmax(xp, logits)
        if self.needs[0]:
            slope = xp.exp(logp) * total(q, (1,), True) - q
            idle = (q == 0).all(axis=1, keepdims=True)  # a row of which nothing is asked
            by_logits = gated(xp, xp.where(idle, q.dtype.type(0), slope), grad)
        if self.needs[1]:
            by_q = gated(xp, grad, -logp)
        return by_logits, by_q

    def _log_softmax(self, xp: Any, logits: Array) -> Array:
        if logits.size == 0:
            return logits
        logp = logits - logits.max(axis=1, keepdims=True)
        return logp - xp.log(total(xp.exp(logp), (1,), True))


def counted_targets(
    xp: Any, name: str, targets: Array, classes: int, ignore_index: int
) -> tuple[Array, Array]:
    """Return which targets count, and the targets with 0 for the others.

    Raises
    ------
    IndexError
        A target that counts lies outside [0, classes).
    """
    counted = targets != ignore_index
    safe = xp.where(counted, targets, 0)
    if bool(counted.any()):
        check_indices(safe, classes, f"{name}: target")
    return counted, safe


def target_weights(xp: Any, counted: Array, safe: Array, weight: Array | None, dtype: Any) -> Array:
    """Return weight[t] of each target, 1 without weights, and 0 for those that do not count."""
    if weight is None or weight.size == 0:
        return counted.astype(dtype)
    return xp.where(counted, weight[safe], weight.dtype.type(0)).astype(dtype, copy=False)
