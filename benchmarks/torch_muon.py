"""Muon in PyTorch: the products of all matrices of one shape as batches, on Gram matrices."""

from __future__ import annotations

from typing import Any

import torch

from tinygrad_char.kernels.muon import COEFFICIENTS

STEPS = 3
"""Of Newton and Schulz, as ours."""


class TorchMuon(torch.optim.Optimizer):
    """Updates W -= lr sqrt(max(1, R / C)) orthogonalize(u) with Nesterov's momentum u.

    As tinygrad_char.optim.Muon. A group may have "splits": each matrix is so many, one above the
    other.
    """

    def __init__(
        self, parameters: Any, lr: float, momentum: float, weight_decay: float = 0.0
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "splits": 1}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all that have a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Any]] = {}
            for each in group["params"]:
                if each.grad is not None:
                    shapes.setdefault(each.shape, []).append(each)
            for (rows, columns), members in shapes.items():
                shape = (-1, rows // group["splits"], columns)
                grads = torch.cat([each.grad.view(shape) for each in members])
                state = self.state.setdefault(members[0], {})
                average = state.setdefault("exp_avg", torch.zeros_like(grads))
                average.lerp_(grads, 1 - group["momentum"])
                update = orthogonalize(grads.lerp(average, group["momentum"]))
                decay = 1 - group["lr"] * group["weight_decay"]
                scale = group["lr"] * max(1.0, shape[1] / columns) ** 0.5
                for each, part in zip(members, update.chunk(len(members)), strict=True):
                    each.mul_(decay).sub_(part.reshape(each.shape), alpha=scale)


def orthogonalize(x: Any) -> Any:
    """Return x (N, R, C), matrix by matrix, with its singular values brought near to 1."""
    x = x / x.flatten(1).norm(dim=1).clamp_min(1e-30)[:, None, None]
    tall = x.shape[1] >= x.shape[2]
    gram = x.mT @ x if tall else x @ x.mT
    one = torch.eye(gram.shape[1])
    total = None
    for number, (a, b, c) in enumerate(COEFFICIENTS[STEPS], start=1):
        factor = torch.baddbmm(b * gram + a * one, gram, gram, alpha=c)
        if number < STEPS:
            gram = gram @ factor @ factor
        total = factor if total is None else total @ factor
    return x @ total if tall else total @ x
