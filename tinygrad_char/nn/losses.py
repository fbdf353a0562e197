"""Losses as modules; the functions of the same names in `functional` say what they compute."""

from __future__ import annotations

from typing import Any

from tinygrad_char import functional as F
from tinygrad_char.nn.module import Module
from tinygrad_char.spelling import spelled
from tinygrad_char.tensor import Tensor


class _Loss(Module):
    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in F.REDUCTIONS:
            raise ValueError(
                f"{type(self).__name__}: reduction={reduction!r}, expected one of {F.REDUCTIONS}"
            )
        self.reduction = reduction

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"

    def _constant(self, name: str, value: Any) -> None:
        """Set a buffer, which moves with the module, or None."""
        if value is None:
            setattr(self, name, None)
        else:
            self.register_buffer(name, Tensor(value))


class MSELoss(_Loss):
    """The mean, sum, or each ("none") of (x - target)^2."""

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return F.mse_loss(x, target, self.reduction)


class L1Loss(_Loss):
    """The mean, sum, or each ("none") of |x - target|."""

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return F.l1_loss(x, target, self.reduction)


class SmoothL1Loss(_Loss):
    """d^2 / (2 beta) where d = |x - target| < beta, else d - beta / 2 (Girshick 2015)."""

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = beta

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return F.smooth_l1_loss(x, target, self.reduction, beta=self.beta)


class HuberLoss(_Loss):
    """d^2 / 2 where d = |x - target| < delta, else delta (d - delta / 2) (Huber 1964)."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = delta

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return F.huber_loss(x, target, self.reduction, delta=self.delta)


class CrossEntropyLoss(_Loss):
    """log(sum_c exp(x_c)) - x_t of logits x and target t, or -sum_c q_c log(softmax(x))_c.

    See functional.cross_entropy. The classes lie along `axis` (or `dim`), the last one unless said
    otherwise; for PyTorch's layout (N, C, d1, ...) say axis=1. `weight` is a buffer.
    """

    weight: Tensor | None

    @spelled
    def __init__(
        self,
        weight: Any = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        axis: int = -1,
    ) -> None:
        super().__init__(reduction)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(
                f"CrossEntropyLoss: label_smoothing={label_smoothing}, expected a number in [0, 1]"
            )
        self.ignore_index, self.label_smoothing, self.axis = ignore_index, label_smoothing, axis
        self._constant("weight", weight)

    def forward(self, logits: Tensor, targets: Any) -> Tensor:
        return F.cross_entropy(
            logits,
            targets,
            self.reduction,
            self.ignore_index,
            weight=self.weight,
            label_smoothing=self.label_smoothing,
            axis=self.axis,
        )


class NLLLoss(_Loss):
    """-w_t x_t of log-probabilities x and target t, see functional.nll_loss; w is a buffer."""

    weight: Tensor | None

    @spelled
    def __init__(
        self,
        weight: Any = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        axis: int = -1,
    ) -> None:
        super().__init__(reduction)
        self.ignore_index, self.axis = ignore_index, axis
        self._constant("weight", weight)

    def forward(self, log_probabilities: Tensor, targets: Any) -> Tensor:
        return F.nll_loss(
            log_probabilities,
            targets,
            self.reduction,
            self.ignore_index,
            weight=self.weight,
            axis=self.axis,
        )


class BCELoss(_Loss):
    """-(t log p + (1 - t) log(1 - p)) of probabilities p and targets t."""

    weight: Tensor | None

    def __init__(self, weight: Any = None, *, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self._constant("weight", weight)

    def forward(self, x: Tensor, target: Any) -> Tensor:
        return F.binary_cross_entropy(x, target, self.reduction, weight=self.weight)


class BCEWithLogitsLoss(_Loss):
    """log(1 + exp(x)) - t x of logits x and targets t: binary cross-entropy of sigmoid(x)."""

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None
    ) -> None:
        super().__init__(reduction)
        self._constant("weight", weight)
        self._constant("pos_weight", pos_weight)

    def forward(self, logits: Tensor, target: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            logits, target, self.reduction, weight=self.weight, pos_weight=self.pos_weight
        )
