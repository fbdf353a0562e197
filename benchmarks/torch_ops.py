"""What the fused kernels do, in PyTorch, from the same operands."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tinygrad_char.kernels.cpu.bench import Dimensions, Task
from tinygrad_char.kernels.operations import benches


def prepare_ops(names: list[str], at: Dimensions) -> dict[str, Task]:
    """Return the tasks of some kernels."""
    cases = benches("torch_cases")
    return {task: found for name in names for task, found in cases[name](torch, at).items()}


def prepare_averaging(array: Any, way: str) -> dict[str, Task]:
    """Return the mean of all positions so far (B, T, C), in one of three ways."""
    x = torch.from_numpy(array)
    length = x.shape[1]

    def cumsum() -> Any:
        return x.cumsum(dim=1) / torch.arange(1, length + 1)[:, None]

    def product() -> Any:
        weights = torch.tril(torch.ones(length, length))
        return weights / weights.sum(dim=1, keepdim=True) @ x

    def softmax() -> Any:
        later = torch.tril(torch.ones(length, length)) == 0
        scores = torch.zeros(length, length).masked_fill(later, float("-inf"))
        return F.softmax(scores, dim=-1) @ x

    return {"mean": Task({"cumsum": cumsum, "product": product, "softmax": softmax}[way])}
