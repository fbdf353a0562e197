"""What the fused kernels do, in PyTorch, from the same operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tinygrad_char.benchmarks.measure import Task
from tinygrad_char.benchmarks.ops import (
    ADAMW,
    COMPARED_STEPS,
    TEMPERATURE,
    TOP_P,
    Dimensions,
    P,
    indices,
    many_weights,
    operands,
)


def prepare_ops(names: list[str], at: Dimensions) -> dict[str, Task]:
    """Return the tasks of some kernels."""
    return {task: found for name in names for task, found in CASES[name](at).items()}


def tensors(**shapes: Any) -> list[torch.Tensor]:
    """Return the operands of benchmarks/ops.py for these shapes."""
    return [torch.from_numpy(each) for each in operands(shapes).values()]


def tasks(
    name: str,
    function: Callable[..., Any],
    inputs: list[Any],
    grad: Any,
    compared: Callable[..., Any] | None = None,
) -> dict[str, Task]:
    """Return forward, and backward alone, of a function of tensors, of all of them.

    Where the function is random, another one is compared.
    """
    for each in inputs:
        each.requires_grad_()

    @torch.no_grad()
    def forward(function: Callable[..., Any]) -> Any:
        return function(*inputs)

    def backward(out: Any) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(out, inputs, grad, retain_graph=True)

    other = compared or function
    return {
        f"{name} forward": Task(lambda: forward(function), lambda: forward(other)),
        f"{name} backward": Task(backward(function(*inputs)), lambda: backward(other(*inputs))()),
    }


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


def adamw(at: Dimensions) -> dict[str, Task]:
    """Return steps on a flat buffer of all parameters."""
    parameter, grad = tensors(parameter=(at.parameters,), grad=(at.parameters,))

    def start() -> tuple[Any, torch.optim.Optimizer]:
        weights = parameter.clone().requires_grad_()
        weights.grad = grad
        return weights, torch.optim.AdamW([weights], fused=True, **ADAMW)

    _, optimizer = start()

    def check() -> Any:
        weights, optimizer = start()
        for _ in range(COMPARED_STEPS):
            optimizer.step()
        return weights.detach()

    return {"adamw": Task(optimizer.step, check)}


def add(at: Dimensions) -> dict[str, Task]:
    """Return the addition of positions to each sequence of characters."""
    shape = (at.batch, at.length, at.channels)
    a, b, grad = tensors(a=shape, b=shape[1:], grad=shape)
    return tasks("add", lambda a, b: a + b, [a, b], grad)


def attention(at: Dimensions) -> dict[str, Task]:
    """Return causal attention, without and with dropout."""
    shape = (at.batch, at.heads, at.length, at.channels // at.heads)
    *qkv, grad = tensors(**dict.fromkeys(("q", "k", "v", "grad"), shape))

    def attend(p: float) -> Callable[..., Any]:
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)

    return {
        **tasks("attention", attend(0.0), qkv, grad),
        **tasks("attention with dropout", attend(P), qkv, grad, attend(0.0)),
    }


def bias_activation(at: Dimensions) -> dict[str, Task]:
    """Return bias and nonlinearity on the wide arrays of the feed-forward network."""
    shape = (at.rows, 4 * at.channels)
    z, grad, bias = tensors(z=shape, grad=shape, bias=shape[1:])
    inputs = [z, bias]
    return {
        **tasks("bias_activation relu", lambda z, bias: F.relu(z + bias), inputs, grad),
        **tasks("bias_activation gelu", lambda z, bias: F.gelu(z + bias), inputs, grad),
    }


def cross_entropy(at: Dimensions) -> dict[str, Task]:
    """Return the loss of logits."""
    logits = tensors(logits=(at.rows, at.classes))[0]
    targets = torch.from_numpy(indices(at.rows, at.classes))
    return tasks(
        "cross_entropy", lambda x: F.cross_entropy(x, targets), [logits], torch.tensor(1.0)
    )


def dropout(at: Dimensions) -> dict[str, Task]:
    """Return dropout of the residual stream; how much the kept elements grow is compared."""
    x = tensors(x=(at.rows, at.channels))[0]
    ones = torch.ones_like(x, requires_grad=True)
    grad = torch.ones_like(x)
    found = tasks("dropout", lambda x: F.dropout(x, P), [x], grad)

    def backward() -> Any:
        return torch.autograd.grad(F.dropout(ones, P), ones, grad)[0].max()

    return {
        "dropout forward": found["dropout forward"]._replace(
            check=lambda: F.dropout(ones.detach(), P).max()
        ),
        "dropout backward": found["dropout backward"]._replace(check=backward),
    }


def embedding(at: Dimensions) -> dict[str, Task]:
    """Return rows of the table of characters."""
    weight, grad = tensors(weight=(at.classes, at.channels), grad=(at.rows, at.channels))
    idx = torch.from_numpy(indices(at.rows, at.classes))
    return tasks("embedding", lambda weight: F.embedding(idx, weight), [weight], grad)


def gelu(at: Dimensions) -> dict[str, Task]:
    """Return the exact nonlinearity on the wide arrays of the feed-forward network."""
    shape = (at.rows, 4 * at.channels)
    x, grad = tensors(x=shape, grad=shape)
    return tasks("gelu", F.gelu, [x], grad)


def global_norm(at: Dimensions) -> dict[str, Task]:
    """Return the norm of the gradients of all parameters, compared in double precision."""
    (grad,) = tensors(grad=(at.parameters,))
    norm = torch.linalg.vector_norm  # which adds up in float32, and is 4e-4 off here
    return {"global_norm": Task(lambda: norm(grad), lambda: norm(grad, dtype=torch.float64))}


def layernorm(at: Dimensions) -> dict[str, Task]:
    """Return normalisation of the residual stream."""
    shape = (at.rows, at.channels)
    x, grad, weight, bias = tensors(x=shape, grad=shape, weight=shape[1:], bias=shape[1:])

    def normalize(x: Any, weight: Any, bias: Any) -> Any:
        return F.layer_norm(x, (at.channels,), weight, bias)

    return tasks("layernorm", normalize, [x, weight, bias], grad)


def linear(at: Dimensions) -> dict[str, Task]:
    """Return the product that widens the channels for the feed-forward network."""
    wide = 4 * at.channels
    *inputs, grad = tensors(
        x=(at.rows, at.channels), weight=(wide, at.channels), bias=(wide,), grad=(at.rows, wide)
    )
    row = inputs[0][:1].detach()
    weights = torch.from_numpy(many_weights(at))

    return {
        **tasks("linear", F.linear, inputs, grad),
        "linear one row": Task(lambda: tuple(F.linear(row, each) for each in weights)),
    }


def residual(at: Dimensions) -> dict[str, Task]:
    """Return bias, dropout and addition to the residual stream; compared without dropout.

    The gradient of the stream is that of the result, which costs neither side anything.
    """
    shape = (at.rows, at.channels)
    z, x, grad, bias = tensors(z=shape, x=shape, grad=shape, bias=shape[1:])

    def add(p: float) -> Callable[..., Any]:
        return lambda z, bias: x + F.dropout(z + bias, p)

    return tasks("residual", add(P), [z, bias], grad, add(0.0))


def running_mean(at: Dimensions) -> dict[str, Task]:
    """Return the mean of all positions so far of the residual stream."""
    shape = (at.batch, at.length, at.channels)
    x, grad = tensors(x=shape, grad=shape)
    counts = torch.arange(1, at.length + 1)[:, None]
    return tasks("running_mean", lambda x: x.cumsum(dim=1) / counts, [x], grad)


def sampling(at: Dimensions) -> dict[str, Task]:
    """Return a character for each row of logits; compared with given uniform numbers."""
    (logits,) = tensors(logits=(at.rows, at.classes))
    uniform = torch.from_numpy(np.random.default_rng(1).random((at.rows, 1)))

    def probabilities(logits: Any, top_p: float) -> Any:
        p = F.softmax(logits / TEMPERATURE, dim=-1)
        if top_p < 1:
            ranked, order = p.sort(dim=-1, descending=True, stable=True)
            ranked[ranked.cumsum(dim=-1) - ranked >= top_p] = 0
            p = torch.zeros_like(p).scatter_(-1, order, ranked)
        return p

    def task(top_p: float) -> Task:
        def check() -> Any:
            sums = probabilities(logits.double(), top_p).cumsum(dim=-1)
            return (sums <= uniform * sums[:, -1:]).sum(dim=-1)

        return Task(lambda: torch.multinomial(probabilities(logits, top_p), 1), check)

    return {"sampling": task(1.0), "sampling top-p": task(TOP_P)}


def log_softmax(at: Dimensions) -> dict[str, Task]:
    """Return the logarithms of the probabilities that logits give."""
    x, grad = tensors(**dict.fromkeys(("x", "grad"), (at.rows, at.classes)))
    return tasks("log_softmax", lambda x: F.log_softmax(x, dim=-1), [x], grad)


def softmax(at: Dimensions) -> dict[str, Task]:
    """Return the weights of attention by its scores, which are scaled: of all, and of the past."""
    shape = (at.batch, at.heads, at.length, at.length)
    x, grad = tensors(**dict.fromkeys(("x", "grad"), shape))
    scale = (at.channels // at.heads) ** -0.5
    later = torch.tril(torch.ones(at.length, at.length)) == 0

    def causal(x: Any) -> Any:
        return F.softmax((x * scale).masked_fill(later, float("-inf")), dim=-1)

    return {
        **tasks("softmax", lambda x: F.softmax(x * scale, dim=-1), [x], grad),
        **tasks("softmax causal", causal, [x], grad),
    }


CASES: dict[str, Callable[[Dimensions], dict[str, Task]]] = {
    "adamw": adamw,
    "add": add,
    "attention": attention,
    "bias_activation": bias_activation,
    "cross_entropy": cross_entropy,
    "dropout": dropout,
    "embedding": embedding,
    "gelu": gelu,
    "global_norm": global_norm,
    "layernorm": layernorm,
    "linear": linear,
    "log_softmax": log_softmax,
    "residual": residual,
    "running_mean": running_mean,
    "sampling": sampling,
    "softmax": softmax,
}
