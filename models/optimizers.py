"""The optimizer of a run, and the learning rate of each of its steps."""

from __future__ import annotations

from typing import Any

from tinygrad_char.models.config import TrainConfig
from tinygrad_char.nn import Linear, Module
from tinygrad_char.optim import Adam, AdamW, MuonAdamW, Optimizer
from tinygrad_char.schedules import (
    Schedule,
    warmup_cosine,
    warmup_linear,
    warmup_stable_decay,
)
from tinygrad_char.tensor import Tensor

BLOCKS, FUSED = "blocks.", ".qkv"
"""In names of modules: what all those in a GPT's blocks begin with, and what one ends with whose
weight is three, of queries, keys and values."""


def build_optimizer(config: TrainConfig, model: Module) -> Adam | MuonAdamW:
    """Return the optimizer of the settings: AdamW, beside Muon for linear layers in blocks."""
    groups = _groups(config, model)
    betas = config.beta1, config.beta2
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.lr, betas=betas)
    return MuonAdamW(groups, lr=config.lr, betas=betas, momentum=config.muon_momentum)


def _groups(config: TrainConfig, model: Module) -> list[dict[str, Any]]:
    """Return the parameters by what happens to them, Muon's last."""
    in_blocks: set[int] = set()
    fused: list[Tensor] = []
    layers: list[Tensor] = []
    for name, module in model.named_modules():
        if name.startswith(BLOCKS):
            in_blocks.update(map(id, module.parameters()))
            if config.optimizer == "muon" and isinstance(module, Linear):
                (fused if name.endswith(FUSED) else layers).append(module.weight)
    of_muon = set(map(id, fused + layers))
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for each in model.parameters():
        if id(each) not in of_muon:
            inside = config.decayed == "embeddings" and id(each) in in_blocks
            (decayed if each.ndim >= 2 and not inside else others).append(each)
    muon = {"muon": True, "lr": config.muon_lr, "weight_decay": config.muon_weight_decay}
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
        {"params": fused, "splits": 3, **muon},
        {"params": layers, **muon},
    ]
    return [each for each in groups if each["params"]]


def set_rates(optimizer: Optimizer, lr: float, muon_lr: float = 0.0) -> None:
    """Set the learning rates of what AdamW updates, and of what Muon does, if anything."""
    for group in optimizer.groups:
        group["lr"] = muon_lr if group.options.get("muon") else lr


def learning_rates(config: TrainConfig, peak: float | None = None) -> Schedule:
    """Return the learning rate of each step: a linear warm-up, then the schedule to its floor.

    The peak is AdamW's unless another one is given.
    """
    peak = config.lr if peak is None else peak
    steps = config.warmup, config.steps, peak * config.min_lr
    if config.schedule == "cosine":
        return warmup_cosine(peak, *steps)
    if config.schedule == "linear":
        return warmup_linear(peak, *steps)
    cooldown = round(config.cooldown * config.steps)
    return warmup_stable_decay(peak, *steps, cooldown, sqrt=config.schedule == "wsd-sqrt")
