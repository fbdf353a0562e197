"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from tinygrad_char.kernels import adamw
from tinygrad_char.kernels.array import Array
from tinygrad_char.optimizer import Optimizer
from tinygrad_char.param_groups import Group
from tinygrad_char.tensor import Tensor


class Adam(Optimizer):
    """Adam, with weight decay as an addition to the gradient, see kernels/adamw/reference.py."""

    slots = ("exp_avg", "exp_avg_sq")
    recordable = True
    decoupled: ClassVar[bool] = False

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, span: slice, step: int, options: dict[str, Any], scale: float) -> None:
        """Update a range of the flat buffer."""
        self.backend.chosen().kernels[adamw.update](
            self.flat[span],
            self.flat_grad[span],
            self.state["exp_avg"][span],
            self.state["exp_avg_sq"][span],
            step=step,
            lr=options["lr"],
            grad_scale=scale,
            **self.rule(options),
        )

    def update_recorded(self, group: Group, factors: Array) -> None:
        """Update a group's range of the flat buffer."""
        averages = (self.state[slot] for slot in self.slots)
        parts = (each[self._span(group)] for each in (self.flat, self.flat_grad, *averages))
        parameter, grad, exp_avg, exp_avg_sq = parts
        self.backend.chosen().kernels[adamw.update_recorded](
            parameter, grad, exp_avg, exp_avg_sq, factors, self.rule(group.options)
        )

    def rule(self, options: dict[str, Any]) -> adamw.Rule:
        """Return what the options say of Adam, or of AdamW."""
        return adamw.Rule(
            betas=options["betas"],
            eps=options["eps"],
            weight_decay=options["weight_decay"],
            decoupled=self.decoupled,
        )


class AdamW(Adam):
    """Adam with weight decay taken from the parameters directly, see kernels/adamw/reference.py."""

    decoupled = True

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)
