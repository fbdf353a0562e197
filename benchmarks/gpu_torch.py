"""PyTorch's side of the GPU benchmark."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_models import TorchGPT
from models.batches import random_batch
from models.config import TrainConfig
from models.gpt import GPT
from tinygrad_char.random import Generator

WARM_UP = 3


def attention_seconds(host: list[np.ndarray], rounds: int) -> float:
    """Return the median time of flash attention, forward and backward, replayed from a graph."""
    q, k, v, grad = (
        torch.from_numpy(each).to("cuda", torch.bfloat16).requires_grad_(i < 3)
        for i, each in enumerate(host)
    )

    def both() -> Any:
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.FLASH_ATTENTION):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return torch.autograd.grad(out, (q, k, v), grad)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            both()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        both()
    graph.replay()
    samples = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end) / 1000)
    return statistics.median(samples)


def step_seconds(
    config: TrainConfig, vocab_size: int, tokens: np.ndarray, steps: int, *, compiled: bool
) -> float:
    """Return the mean time of a training step with the settings' precision and fused AdamW."""
    low = config.precision == "bf16"
    torch.backends.cuda.matmul.allow_tf32 = config.precision == "tf32"
    generator = Generator(config.seed)
    module = TorchGPT(config.gpt, vocab_size)
    module.load(GPT(config.gpt, vocab_size, generator=generator))
    module.to("cuda")
    parameters = list(module.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        fused=True,
    )
    model: Any = torch.compile(module, mode="max-autotune") if compiled else module
    shape = config.gpt.block_size, config.batch_size

    def update() -> float:
        batch = random_batch(tokens, *shape, generator.batches)
        x, y = (torch.from_numpy(each).to("cuda", non_blocking=True) for each in batch)
        with torch.autocast("cuda", torch.bfloat16, enabled=low):
            loss = model(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.clip or math.inf)
        optimizer.step()
        return loss.item()

    return mean_seconds(update, steps)


def mean_seconds(update: Callable[[], Any], steps: int) -> float:
    """Return the mean time of a step, which ends by reading its loss, after a few others."""
    for _ in range(WARM_UP):
        update()
    started = time.perf_counter()
    for _ in range(steps):
        update()
    return (time.perf_counter() - started) / steps
