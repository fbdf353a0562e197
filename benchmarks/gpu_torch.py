"""PyTorch's side of the GPU benchmark: what each part of ours is compared with.

On a machine without a GPU the same code runs on the CPU at the smallest sizes, where it is timed
by the clock and not compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend

from tinygrad_char.benchmarks.gpu_kernels import (
    FULL,
    QUICK,
    SMOKE,
    attention_inputs,
    attention_shapes,
    root_mean_square,
)
from tinygrad_char.benchmarks.gpu_timing import Case, Row, host_seconds, median_of
from tinygrad_char.benchmarks.gpu_training import (
    PRECISIONS,
    VOCABULARY,
    first_batch,
    mean_seconds,
    random_split,
    settings,
    step_count,
)
from tinygrad_char.benchmarks.torch_models import TorchGPT
from tinygrad_char.kernels.cuda.bench import Shape
from tinygrad_char.models.batches import RandomBatches
from tinygrad_char.models.config import TrainConfig
from tinygrad_char.models.gpt import GPT
from tinygrad_char.random import Generator

WARM_UP = 3
ATTENTION = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
STYLES = {"eager, loop over heads": True, "eager, SDPA": False}


def not_compiled(device: str, quick: bool) -> Iterator[Case]:
    """Yield attention, and training steps as PyTorch's users write them."""
    yield from attention(device, quick)
    yield from steps(device, quick)


def attention(device: str, quick: bool) -> Iterator[Case]:
    """Yield causal attention in bfloat16, with each of PyTorch's kernels that may be there."""
    sizes = SMOKE if device == "cpu" else QUICK if quick else FULL
    for shape in attention_shapes(sizes):
        for name in ATTENTION if device == "cuda" else ("flash",):

            def attend(shape: Shape = shape, name: str = name) -> Row:
                return attention_row(device, shape, ATTENTION[name], sizes.rounds)

            yield Case(f"{name} T = {shape.length}", attend)


def attention_row(device: str, shape: Shape, kernel: SDPBackend, rounds: int) -> Row:
    """Return the times of forward, and of forward with backward, repeated from a graph."""
    q, k, v, grad = (
        torch.from_numpy(each).to(device, torch.bfloat16).requires_grad_(i < 3)
        for i, each in enumerate(attention_inputs(shape))
    )

    def forward() -> Any:
        with nn.attention.sdpa_kernel(kernel):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def both() -> Any:
        out = forward()
        return out, *torch.autograd.grad(out, (q, k, v), grad)

    @torch.no_grad()
    def alone() -> Any:
        return forward()

    seconds, forward_seconds = (_seconds(device, each, rounds) for each in (both, alone))
    results = [each.detach().float().cpu().numpy() for each in both()]
    return {
        "shape": list(shape),
        "forward_seconds": forward_seconds,
        "seconds": seconds,
        "sizes": [root_mean_square(each) for each in results],
    }


def _seconds(device: str, compute: Callable[[], Any], rounds: int) -> float:
    if device == "cpu":
        return host_seconds(compute)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            compute()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compute()

    def sample(repeats: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000 / repeats

    return median_of(sample, rounds)


def steps(device: str, quick: bool) -> Iterator[Case]:
    """Yield the mean times of training steps that are not compiled, in each precision."""
    for precision in PRECISIONS:
        for name, loop in STYLES.items():

            def step(precision: str = precision, loop: bool = loop) -> Row:
                return step_row(device, precision, quick, loop=loop)

            yield Case(f"{name} {precision}", step)


def compiled_steps(device: str, quick: bool) -> Iterator[Case]:
    """Yield those of a model that torch.compile has tuned as far as it can, in each precision."""
    for precision in PRECISIONS if device == "cuda" else PRECISIONS[:1]:

        def step(precision: str = precision) -> Row:
            return step_row(device, precision, quick, compiled=True)

        yield Case(f"compiled {precision}", step)


def step_row(
    device: str, precision: str, quick: bool, *, loop: bool = False, compiled: bool = False
) -> Row:
    """Return the mean time of a training step with the precision and fused AdamW."""
    config = settings("cuda" if device == "cuda" else "cuda-on-cpu", precision)
    low = precision == "bf16"
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    split = random_split()
    module = module_of(config, loop).to(device)
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
    model: Any = module
    if compiled:
        tuned = {"mode": "max-autotune"} if device == "cuda" else {"backend": "eager"}
        model = torch.compile(module, **tuned)  # type: ignore[call-overload]
    shape = config.gpt.block_size, config.batch_size
    batches = RandomBatches(split.train, *shape, Generator(config.seed).batches)

    def losses(batch: Any) -> Any:
        x, y = (torch.from_numpy(each).to(device, non_blocking=True) for each in batch)
        with torch.autocast(device, torch.bfloat16, enabled=low):
            return model(x, y)

    def update() -> float:
        loss = losses(*batches.draw())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.clip or math.inf)
        optimizer.step()
        batches.draw_ahead()  # as in our step, while the device computes
        return loss.item()

    row: Row = {"precision": precision}
    if not compiled:  # which would be compiled anew for this
        module.eval()
        with torch.no_grad():
            row["first_loss"] = losses(first_batch(config, split)).item()
        module.train()
    row["seconds"] = mean_seconds(update, step_count(device, quick))
    return row


def module_of(config: TrainConfig, loop: bool) -> TorchGPT:
    """Return the model with our initial weights, on the host."""
    on_host = replace(config, device="cpu", precision="float32")
    module = TorchGPT(on_host.gpt, VOCABULARY, loop=loop)
    module.load(GPT(on_host.gpt, VOCABULARY, generator=Generator(config.seed)))
    return module
