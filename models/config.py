"""How a model is trained: every setting with its meaning, and the presets."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from tinygrad_char.kernels.devices import DEVICES
from tinygrad_char.kernels.words import shorten
from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.gpt import GPTConfig

ModelName = Literal["gpt", "bigram"]
Device = Literal["cpu", "cuda", "cuda-on-cpu"]
Precision = Literal["float32", "tf32", "bf16", "auto"]
OptimizerName = Literal["adamw", "muon"]
Decayed = Literal["matrices", "embeddings"]
ScheduleName = Literal["cosine", "linear", "wsd", "wsd-sqrt"]
PresetName = Literal[
    "tiny", "small", "medium", "full", "lecture", "lecture-full", "nanogpt", "nanogpt-full"
]


@dataclass(frozen=True)
class TrainConfig:
    """What a run computes: two runs of equal settings on equal text give equal weights.

    Unless they are not `deterministic`.
    """

    model: ModelName = "gpt"
    """What to train."""
    gpt: GPTConfig = field(default_factory=GPTConfig)
    """The GPT's shape; a bigram takes only block_size from it."""
    steps: int = 2000
    """Updates of the weights."""
    batch_size: int = 12
    """Windows of text in a batch (B)."""
    accumulate: int = 1
    """Batches whose gradients are averaged for one update."""
    shards: int = 1
    """Parts of a batch that are computed side by side, each on a core; a GPU takes it whole."""
    optimizer: OptimizerName = "adamw"
    """What updates the weights; muon those of the linear layers in the blocks, AdamW the others."""
    lr: float = 1e-3
    """Peak learning rate, of AdamW."""
    muon_lr: float = 0.01
    """Peak learning rate of Muon."""
    min_lr: float = 0.1
    """Learning rates at the last step, as a part of the peak."""
    warmup: int = 100
    """Steps over which the learning rates rise to their peak."""
    schedule: ScheduleName = "cosine"
    """How rates fall after the warm-up: on a cosine, a line, or at the end only (wsd)."""
    cooldown: float = 0.2
    """The last part of the steps, in which rates of wsd fall: on a line, or by a square root."""
    beta1: float = 0.9
    """AdamW's memory of the gradient."""
    beta2: float = 0.99
    """AdamW's memory of the squared gradient."""
    muon_momentum: float = 0.95
    """Muon's memory of the gradient."""
    weight_decay: float = 0.1
    """AdamW's weight decay."""
    muon_weight_decay: float = 0.0
    """Muon's weight decay."""
    decayed: Decayed = "matrices"
    """What AdamW's falls on: all that has two axes, or of that only what is outside the blocks."""
    ema: float = 0.0
    """Memory of a mean of weights, as 0.998, which is evaluated and kept as the model; 0: none."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 for no limit."""
    eval_every: int = 250
    """Steps between evaluations, each followed by a checkpoint."""
    eval_batches: int = 20
    """Batches of each split in an evaluation, the same ones each time."""
    log_every: int = 10
    """Steps between lines of the training loss in metrics.jsonl."""
    sample_every: int = 500
    """Steps between samples of text; 0 for none."""
    seed: int = 1337
    """Of the initial weights, the batches, dropout and the samples."""
    device: Device = "cpu"
    """Where to compute; cuda-on-cpu runs the CUDA kernels on the CPU, slowly."""
    precision: Precision = "float32"
    """Of the operands of products: bf16 on the CPU where it has AVX512_BF16, and on CUDA devices,
    which then keep activations so, too; tf32 on these alone. auto is bf16 where that is fast, else
    float32. Weights are float32."""
    deterministic: bool = True
    """Add up gradients in an order that never changes; without, CUDA devices add in whatever order
    is fastest, and equal runs differ in their last digits."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{name} is {shorten(value)}; expected an integer from {least}")
            bits = 64 if name == "seed" else 63
            if value >= 1 << bits:
                raise UsageError(f"{name} is {shorten(value)}; expected an integer below 2^{bits}")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            number = isinstance(value, float | int) and not isinstance(value, bool)
            if not number or not low <= value <= min(high, sys.float_info.max):
                limits = f"from {low:g}" + (f" to {high:g}" if high != math.inf else "")
                raise UsageError(f"{name} is {shorten(value)}; expected a finite number {limits}")
        if self.lr == 0:
            raise UsageError("lr is 0, with which nothing is learned; expected a number above 0")
        if self.optimizer == "muon" and self.muon_lr == 0:
            raise UsageError(
                "muon_lr is 0, with which the blocks learn nothing; expected a number above 0"
            )
        for name in ("beta1", "beta2", "muon_momentum", "ema"):
            if getattr(self, name) == 1:
                raise UsageError(f"{name} is 1; expected a number from 0 to below 1")
        if self.muon_momentum == 0:
            raise UsageError("muon_momentum is 0; expected a number above 0, and below 1")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} is {shorten(getattr(self, name))}; expected one of {', '.join(known)}"
                )
        if not isinstance(self.gpt, GPTConfig):
            raise UsageError(f"gpt is {shorten(self.gpt)}; expected a GPTConfig")
        if self.model not in ("gpt", "bigram"):
            raise UsageError(f"model is {shorten(self.model)}; expected gpt or bigram")
        if self.device not in DEVICES:
            raise UsageError(
                f"device is {shorten(self.device)}; expected one of {', '.join(DEVICES)}"
            )
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"precision is {shorten(self.precision)}; expected one of {', '.join(PRECISIONS)}"
            )
        if not isinstance(self.deterministic, bool):
            raise UsageError(
                f"deterministic is {shorten(self.deterministic)}; expected True or False"
            )
        if self.precision == "tf32" and self.device == "cpu":
            raise UsageError(
                "precision tf32 is for CUDA devices; expected float32, bf16 or auto on device cpu"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values, the GPT's under "gpt"."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> TrainConfig:
        """Return the settings that `to_json` gave; UsageError that names an unknown or bad one."""
        _check_names("setting", values, cls)
        shape = values.get("gpt", {})
        _check_names("gpt setting", shape, GPTConfig)
        if values.get("precision") == "auto":
            raise UsageError("precision is 'auto', which is settled when a run begins")
        return cls(**{**values, "gpt": GPTConfig(**shape)})


PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bf16", "auto")
_LEAST = {
    "steps": 1,
    "batch_size": 1,
    "accumulate": 1,
    "shards": 1,
    "warmup": 0,
    "eval_every": 1,
    "eval_batches": 1,
    "log_every": 1,
    "sample_every": 0,
    "seed": 0,
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": get_args(OptimizerName),
    "decayed": get_args(Decayed),
    "schedule": get_args(ScheduleName),
}
_RANGES = (
    ("lr", 0.0, math.inf),
    ("muon_lr", 0.0, math.inf),
    ("min_lr", 0.0, 1.0),
    ("cooldown", 0.0, 1.0),
    ("beta1", 0.0, 1.0),
    ("beta2", 0.0, 1.0),
    ("muon_momentum", 0.0, 1.0),
    ("weight_decay", 0.0, math.inf),
    ("muon_weight_decay", 0.0, math.inf),
    ("ema", 0.0, 1.0),
    ("clip", 0.0, math.inf),
)


def _check_names(what: str, values: Any, cls: type) -> None:
    if not isinstance(values, dict):
        raise UsageError(f"the {what}s are {shorten(values)}; expected an object")
    known = {each.name for each in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UsageError(
            f"unknown {what} {shorten(unknown[0])}; known are {', '.join(sorted(known))}"
        )


SMALL = TrainConfig(
    gpt=GPTConfig(
        block_size=64,
        n_layer=4,
        n_head=3,
        n_embd=96,
        bias=False,
        tied=True,
        positions="rotary",
        convolution=4,
    ),
    steps=2800,
    shards=2,
    optimizer="muon",
    lr=4e-3,
    muon_lr=0.01,
    decayed="embeddings",
    ema=0.998,
)
"""The recipe, see docs/recipe.md, in a shape that two cores train in half a minute."""
EARLIER_SMALL = TrainConfig(
    gpt=GPTConfig(block_size=64, n_layer=4, n_head=4, n_embd=128, bias=False, tied=True),
    lr=4e-3,
    shards=2,
)
"""nanoGPT's shape for the CPU, with ReLU and a higher rate: `small` in version 0.1."""
_NANOGPT = replace(EARLIER_SMALL.gpt, activation="gelu")
_FULL: dict[str, Any] = {
    "block_size": 256,
    "n_layer": 6,
    "n_head": 6,
    "n_embd": 384,
    "dropout": 0.2,
}
_ON_A_GPU: dict[str, Any] = {"steps": 5000, "batch_size": 64, "shards": 16, "eval_batches": 4}
PRESETS: dict[str, TrainConfig] = {
    "tiny": replace(
        SMALL,
        gpt=replace(SMALL.gpt, block_size=32, n_layer=3, n_head=2, n_embd=48),
        steps=2000,
        batch_size=16,
        shards=1,
        eval_every=500,
        sample_every=1000,
    ),
    "small": SMALL,
    "medium": replace(
        SMALL,
        gpt=replace(
            SMALL.gpt,
            block_size=512,
            n_layer=6,
            n_head=4,
            n_embd=128,
            dropout=0.1,
            attention_dropout=False,
        ),
        steps=4000,
        batch_size=4,
        eval_batches=8,
    ),
    "full": replace(
        SMALL,
        gpt=replace(SMALL.gpt, attention_dropout=False, **_FULL),
        lr=2e-3,
        **_ON_A_GPU,
    ),
    "lecture": replace(
        EARLIER_SMALL,
        gpt=GPTConfig(block_size=8, n_layer=3, n_head=4, n_embd=32),
        steps=5000,
        batch_size=32,
        shards=1,
        lr=3e-3,
        eval_every=500,
        sample_every=2500,
    ),
    "lecture-full": replace(EARLIER_SMALL, gpt=GPTConfig(**_FULL), lr=1e-3, **_ON_A_GPU),
    "nanogpt": replace(EARLIER_SMALL, gpt=_NANOGPT, lr=1e-3),
    "nanogpt-full": replace(EARLIER_SMALL, gpt=replace(_NANOGPT, **_FULL), lr=1e-3, **_ON_A_GPU),
}
"""tiny takes seconds, small (the default) half a minute, medium some minutes, full hours without a
GPU. The others are the models of the lecture "Let's build GPT" and of nanoGPT, at the size for a
CPU and at the size for a GPU."""
