"""The GPT, its training and its generation in PyTorch, as good engineers write them there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tinygrad_char.benchmarks.torch_muon import TorchMuon
from tinygrad_char.kernels.cpu.bench import Task
from tinygrad_char.kernels.rotary import EPS, angles
from tinygrad_char.models.batches import OverlappingWindows, Split, random_batch, whole_split
from tinygrad_char.models.build import build_model
from tinygrad_char.models.config import TrainConfig
from tinygrad_char.models.evaluate import WHOLE_SPLIT_CHARACTERS
from tinygrad_char.models.gpt import GPTConfig
from tinygrad_char.models.optimizers import BLOCKS, FUSED, learning_rates
from tinygrad_char.random import Generator

if TYPE_CHECKING:  # its options need a package that a machine with a GPU may not have
    from tinygrad_char.benchmarks.train_step import Arithmetic, Style


class FusedAttention(nn.Module):
    """All heads from one product, in one call of PyTorch's fused attention."""

    table: torch.Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        size = config.n_embd
        self.n_head, self.p = config.n_head, config.dropout
        self.attention_p = config.dropout if config.attention_dropout else 0.0
        self.normalized, self.turned = config.qk_norm, config.positions == "rotary"
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.projection = nn.Linear(size, size, bias=config.bias)
        if self.turned:
            table = torch.from_numpy(angles(config.block_size, size // self.n_head)).float()
            self.register_buffer("table", table, persistent=False)

    def forward(self, x: Any, cache: Cache | None = None) -> Any:
        """Return the attended x (B, T, C)."""
        batch, length, size = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.n_head, size // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        causal = length > 1
        if self.normalized:
            q, k = (F.rms_norm(each, each.shape[-1:], eps=EPS) for each in (q, k))
        if self.turned:
            start = cache.length if cache is not None else 0
            cosines, sines = self.table[start : start + length].chunk(2, dim=-1)
            q, k = (turn(each, cosines, sines) for each in (q, k))
        if cache is not None:
            k, v = cache.append(k, v)
        p = self.attention_p if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal, dropout_p=p)
        y = self.projection(y.transpose(1, 2).reshape(batch, length, size))
        return F.dropout(y, self.p, self.training)


def turn(x: Any, cosines: Any, sines: Any) -> Any:
    """Return x (B, H, T, D) with the pairs (i, i + D/2) turned: rotary positions."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, first * sines + second * cosines), dim=-1)


class Convolution(nn.Module):
    """Causal depthwise convolution, beside a connection around it."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(taps, channels))

    def forward(self, x: Any, cache: Cache | None = None) -> Any:
        """Return x (B, T, C) mixed with the positions before."""
        taps, channels = self.weight.shape
        before = F.pad(x.transpose(1, 2), (taps - 1, 0))
        if cache is not None:
            before = cache.shift(x.transpose(1, 2), taps - 1)
        weight = self.weight.flip(0).T.unsqueeze(1)
        return x + F.conv1d(before, weight, groups=channels).transpose(1, 2)


class Head(nn.Module):
    """One head, as notebooks write it."""

    tril: torch.Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        size = config.n_embd // config.n_head
        self.query, self.key, self.value = (
            nn.Linear(config.n_embd, size, bias=False) for _ in range(3)
        )
        self.register_buffer(
            "tril", torch.tril(torch.ones(config.block_size, config.block_size)), persistent=False
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Any) -> Any:
        """Return what each position attends to (B, T, D)."""
        length = x.shape[1]
        k, q = self.key(x), self.query(x)
        scores = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5
        scores = scores.masked_fill(self.tril[:length, :length] == 0, float("-inf"))
        return self.dropout(F.softmax(scores, dim=-1)) @ self.value(x)


class LoopAttention(nn.Module):
    """The heads one after the other."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(config) for _ in range(config.n_head))
        self.projection = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Any, cache: None = None) -> Any:
        """Return the attended x (B, T, C)."""
        return self.dropout(self.projection(torch.cat([head(x) for head in self.heads], dim=-1)))


class FeedForward(nn.Module):
    """Two linear layers with a nonlinearity between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.expand = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.contract = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Any) -> Any:
        """Return the transformed x (B, T, C)."""
        x = self.expand(x)
        if self.activation == "relu":
            x = F.relu(x)
        else:
            x = F.gelu(x, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        return self.dropout(self.contract(x))


def norm(config: GPTConfig) -> nn.Module:
    """Return what rows are normalised by, as models/gpt.py has it."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.n_embd, eps=1e-5)
    return nn.LayerNorm(config.n_embd, bias=config.bias)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: GPTConfig, attention: type[nn.Module]) -> None:
        super().__init__()
        self.attention_norm = norm(config)
        self.attention = attention(config)
        self.feed_forward_norm = norm(config)
        taps = config.convolution
        self.convolution = Convolution(config.n_embd, taps) if taps else None
        self.feed_forward = FeedForward(config)

    def forward(self, x: Any, cache: Cache | None = None) -> Any:
        """Return x (B, T, C) after this block."""
        x = x + self.attention(self.attention_norm(x), cache)
        normalized = self.feed_forward_norm(x)
        if self.convolution is not None:
            normalized = self.convolution(normalized, cache)
        return x + self.feed_forward(normalized)


class TorchGPT(nn.Module):
    """The model of models/gpt.py, its weights under the same names."""

    def __init__(self, config: GPTConfig, vocab_size: int, *, loop: bool = False) -> None:
        super().__init__()
        self.config = config
        attention = LoopAttention if loop else FusedAttention
        self.token_embedding = nn.Embedding(vocab_size, config.n_embd)
        learned = config.positions == "learned"
        self.position_embedding = (
            nn.Embedding(config.block_size, config.n_embd) if learned else None
        )
        self.blocks = nn.ModuleList(Block(config, attention) for _ in range(config.n_layer))
        self.norm = norm(config)
        self.head = None if config.tied else nn.Linear(config.n_embd, vocab_size, bias=config.bias)

    def forward(self, idx: Any, targets: Any = None, cache: list[Cache] | None = None) -> Any:
        """Return the loss where targets (B, T) are given, else the logits (B, T, V)."""
        x = self.token_embedding(idx)
        if self.position_embedding is not None:
            start = cache[0].length if cache else 0
            x = x + self.position_embedding.weight[start : start + idx.shape[1]]
        for position, block in enumerate(self.blocks):
            x = block(x, cache[position] if cache else None)
        x = self.norm(x)
        weight = self.token_embedding.weight
        logits = F.linear(x, weight) if self.head is None else self.head(x)
        if targets is None:
            return logits
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    def load(self, model: Any) -> None:
        """Take the weights of models/gpt.py's GPT."""
        weights = {name: each.array for name, each in model.state_dict().items()}
        if self.blocks and isinstance(self.blocks[0].attention, LoopAttention):
            weights = split_heads(weights, self.config.n_head)
        self.load_state_dict(
            {name: torch.from_numpy(np.array(each)) for name, each in weights.items()}
        )


def split_heads(weights: dict[str, np.ndarray], n_head: int) -> dict[str, np.ndarray]:
    """Return the weights with each `qkv` (3C, C) cut into one matrix for each head and use."""
    result = {}
    for name, weight in weights.items():
        if not name.endswith("qkv.weight"):
            result[name] = weight
            continue
        layer = name.removesuffix("qkv.weight")
        parts = weight.reshape(3, n_head, -1, weight.shape[1])  # (3, H, D, C)
        for kind, heads in zip(("query", "key", "value"), parts, strict=True):
            for number, part in enumerate(heads):
                result[f"{layer}heads.{number}.{kind}.weight"] = part
    return result


class TorchTrainer:
    """The updates of models/trainer.py's Trainer: same weights, batches, optimizer and schedule.

    `plain` is the model as it was written, `model` what is called in training. Of the settings,
    precision and `accumulate` are not followed: products are as `arithmetic` says.
    """

    def __init__(
        self,
        config: TrainConfig,
        vocab_size: int,
        split: Split,
        style: Style,
        arithmetic: Arithmetic = "float32",
    ) -> None:
        self.config, self.split = config, split
        self.low = arithmetic == "bf16 autocast"
        torch.set_float32_matmul_precision(
            "medium" if arithmetic == "medium precision" else "highest"
        )
        generator = Generator(config.seed)
        self.stream = generator.batches
        self.plain = TorchGPT(config.gpt, vocab_size, loop=style == "heads")
        self.plain.load(build_model(config, vocab_size, generator))
        self.parameters: list[torch.Tensor] = list(self.plain.parameters())
        self.optimizers = self._optimizers()
        self.mean = [each.detach().clone() for each in self.parameters] if config.ema else []
        self.schedules = [learning_rates(config), learning_rates(config, config.muon_lr)]
        self.step = 0
        compiled = style == "compiled"
        self.model: Any = torch.compile(self.plain, dynamic=False) if compiled else self.plain

    def _optimizers(self) -> list[Any]:
        """Return AdamW, and Muon for the linear layers of the blocks where the settings say so."""
        config = self.config
        linear = {
            f"{name}.weight": 3 if name.endswith(FUSED) else 1
            for name, each in self.plain.named_modules()
            if name.startswith(BLOCKS) and isinstance(each, nn.Linear)
        }
        muon = linear if config.optimizer == "muon" else {}
        groups: dict[str | int, list[Any]] = {"decayed": [], "others": [], 1: [], 3: []}
        for name, each in self.plain.named_parameters():
            inside = config.decayed == "embeddings" and name.startswith(BLOCKS)
            plain = "decayed" if each.ndim >= 2 and not inside else "others"
            groups[muon.get(name, plain)].append(each)
        adamw = [
            {"params": groups["decayed"], "weight_decay": config.weight_decay},
            {"params": groups["others"], "weight_decay": 0.0},
        ]
        betas = config.beta1, config.beta2
        found: list[Any] = [torch.optim.AdamW(adamw, lr=config.lr, betas=betas, fused=True)]
        if muon:
            split = [{"params": groups[1]}, {"params": groups[3], "splits": 3}]
            rates = (config.muon_lr, config.muon_momentum, config.muon_weight_decay)
            found.append(TorchMuon(split, *rates))
        return found

    def update(self) -> tuple[float, float]:
        """Make one update and return the loss and the norm of the gradient."""
        shape = self.config.gpt.block_size, self.config.batch_size
        x, y = map(torch.from_numpy, random_batch(self.split.train, *shape, self.stream))
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = schedule(self.step)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.low):
            loss = self.model(x, y)
        for each in self.parameters:
            each.grad = None
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip or math.inf)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        if self.mean:
            share = 1 - min(self.config.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.mean, self.parameters, share)
        return loss.item(), norm.item()

    @contextmanager
    @torch.no_grad()
    def averaged(self) -> Iterator[None]:
        """Have the mean of the weights in the model, if there is one, while the context lasts."""
        weights = [each.clone() for each in self.parameters]
        if self.mean:
            torch._foreach_copy_(self.parameters, self.mean)
        try:
            yield
        finally:
            torch._foreach_copy_(self.parameters, weights)

    def warm_up(self, updates: int = 3) -> None:
        """Make some updates, so that all is compiled, and forget them."""
        weights = {name: each.clone() for name, each in self.plain.state_dict().items()}
        before = self.stream.get_state()
        for _ in range(updates):
            self.update()
        self.plain.load_state_dict(weights)
        self.stream.set_state(before)
        self.optimizers, self.step = self._optimizers(), 0
        for mean, each in zip(self.mean, self.parameters, strict=False):
            mean.copy_(each.detach())


@torch.inference_mode()
def split_loss(model: TorchGPT, tokens: np.ndarray, *, strided: bool = False) -> float:
    """Return the loss over every target of a split, by the windows of models/evaluate.py."""
    size = model.config.block_size
    walk = OverlappingWindows if strided else whole_split
    total, count = 0.0, 0
    model.eval()
    for x, y, *context in walk(tokens, size, max(1, WHOLE_SPLIT_CHARACTERS // size)):
        first = context[0] if context else 0
        logits = model(torch.from_numpy(x))[:, first:]
        counted = torch.from_numpy(y)[:, first:]
        total += F.cross_entropy(logits.flatten(0, 1), counted.flatten(), reduction="sum").item()
        count += counted.numel()
    model.train()
    return total / count


def fastest(config: TrainConfig, vocab_size: int, split: Split, updates: int = 20) -> Style:
    """Return the way that makes some updates in the least time here, once all is compiled.

    Each makes them three times, in turn. Head by head nobody has written the recipe.
    """
    styles: list[Style] = ["sdpa", "compiled"]
    if config.gpt.positions == "learned" and config.optimizer == "adamw":
        styles.append("heads")
    trainers = {style: TorchTrainer(config, vocab_size, split, style) for style in styles}
    for trainer in trainers.values():
        trainer.warm_up()
    seconds = dict.fromkeys(styles, math.inf)
    for style in styles * 3:
        started = time.perf_counter()
        for _ in range(updates):
            trainers[style].update()
        seconds[style] = min(seconds[style], time.perf_counter() - started)
    return min(styles, key=lambda style: seconds[style])


def prepare_training(
    config: TrainConfig,
    checked: TrainConfig,
    updates: int,
    vocab_size: int,
    split: Split,
    style: Style,
    arithmetic: Arithmetic = "float32",
) -> dict[str, Task]:
    """Return updates to time, and the first ones with the settings `checked` to compare."""
    trainer = TorchTrainer(config, vocab_size, split, style, arithmetic)

    def check() -> tuple[np.ndarray, float]:
        other = TorchTrainer(checked, vocab_size, split, style, arithmetic)
        found = [other.update() for _ in range(updates)]
        return np.array([loss for loss, _ in found]), found[0][1]

    return {"step": Task(trainer.update, check)}


def prepare_training_steps(
    configs: Mapping[str, tuple[TrainConfig, TrainConfig]],
    updates: int,
    vocab_size: int,
    split: Split,
) -> dict[str, Task]:
    """Return updates with each of some settings; the second ones are for what is compared."""
    return {
        name: prepare_training(config, checked, updates, vocab_size, split, "sdpa")["step"]
        for name, (config, checked) in configs.items()
    }


class Cache:
    """The keys and values of one block so far, and its convolution's last inputs."""

    def __init__(self, config: GPTConfig, batch: int) -> None:
        shape = (2, batch, config.n_head, config.block_size, config.n_embd // config.n_head)
        self.memory = torch.empty(shape)
        self.length = 0
        self.last = torch.zeros(batch, config.n_embd, 0)

    def append(self, k: Any, v: Any) -> tuple[Any, Any]:
        """Add keys and values (B, H, T, D) and return all so far."""
        start, self.length = self.length, self.length + k.shape[2]
        self.memory[0, :, :, start : self.length] = k
        self.memory[1, :, :, start : self.length] = v
        keys, values = self.memory[:, :, :, : self.length]
        return keys, values

    def shift(self, x: Any, room: int) -> Any:
        """Return x (B, C, T) after the last `room` inputs, zeros before the first."""
        whole = torch.cat((F.pad(self.last, (room - self.last.shape[2], 0)), x), dim=2)
        self.last = whole[:, :, whole.shape[2] - room :]
        return whole


def prepare_generation(
    prompt: np.ndarray,
    vocab_size: int,
    config: TrainConfig,
    length: int,
    checked: int,
    temperature: float,
    cached: bool,
) -> dict[str, Task]:
    """Return text to time, and the likeliest characters to compare."""
    model = TorchGPT(config.gpt, vocab_size)
    model.load(build_model(config, vocab_size, Generator(config.seed)))
    model.eval()
    return {
        "text": Task(
            lambda: write(model, prompt, length, temperature, cached),
            lambda: write(model, prompt, checked, 0.0, cached),
        )
    }


@torch.inference_mode()
def write(
    model: TorchGPT, prompt: np.ndarray, length: int, temperature: float, cached: bool
) -> Any:
    """Return a continuation (length,) of prompt (T,).

    When the context is full, its older half is forgotten, as in models/generate.py.
    """
    size = model.config.block_size

    def empty() -> list[Cache] | None:
        return [Cache(model.config, 1) for _ in model.blocks] if cached else None

    window = torch.from_numpy(prompt[-size:].astype(np.int64))[None]  # (1, T)
    unread, cache = window, empty()
    written = []
    for _ in range(length):
        logits = model(unread if cached else window, cache=cache)[:, -1]
        if temperature == 0:
            token = logits.argmax(dim=-1, keepdim=True)
        else:
            token = torch.multinomial(F.softmax(logits / temperature, dim=-1), 1)
        written.append(token)
        if window.shape[1] < size:
            window, unread = torch.cat([window, token], dim=1), token
        else:
            window = torch.cat([window[:, size - size // 2 :], token], dim=1)
            unread, cache = window, empty()
    return torch.cat(written, dim=1)[0]


def prepare_attention(operands: Callable[[Any], list[np.ndarray]], shape: Any) -> dict[str, Task]:
    """Return PyTorch's fused causal attention."""
    *leaves, grad = map(torch.from_numpy, operands(shape))
    q, k, v = (each.requires_grad_() for each in leaves)

    @torch.no_grad()
    def forward() -> Any:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def both() -> tuple[Any, ...]:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out.detach(), *torch.autograd.grad(out, leaves, grad)

    return {"forward": Task(forward), "forward and backward": Task(both)}
