"""Muon in PyTorch: the products of all matrices of one shape as batches, on Gram matrices."""

from __future__ import annotations

from typing import Any

import torch

from tinygrad_char.kernels.muon.bench import torch_orthogonalize


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
                update = torch_orthogonalize(torch, grads.lerp(average, group["momentum"]))
                decay = 1 - group["lr"] * group["weight_decay"]
                scale = group["lr"] * max(1.0, shape[1] / columns) ** 0.5
                for each, part in zip(members, update.chunk(len(members)), strict=True):
                    each.mul_(decay).sub_(part.reshape(each.shape), alpha=scale)
