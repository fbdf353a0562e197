"""Whole training steps: batch, forward, backward, clipping and AdamW, beside PyTorch's.

Both sides start from the same weights and draw the same batches; their first updates without
dropout must agree in their losses, and the first in the norm of its gradient (later norms tell
less: AdamW makes whole steps of the rounding in gradients near zero). Exit code 1 where not.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import tyro

from tinygrad_char.benchmarks.measure import Contender
from tinygrad_char.benchmarks.report import Options, Report, parse
from tinygrad_char.kernels.cpu.bench import Task
from tinygrad_char.models.batches import Split
from tinygrad_char.models.config import EARLIER_SMALL, PRESETS, PresetName, TrainConfig
from tinygrad_char.models.gpt import GPTConfig
from tinygrad_char.models.memory import keep_freed_memory
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.models.trainer import Trainer

Precision = Literal["float32", "bf16"]
Size = PresetName | Literal["smoke", "earlier-small"]
Style = Literal["sdpa", "heads", "compiled"]
"""Attention by one fused call; a loop over heads, as notebooks write it; the first, compiled."""
Way = Literal["recorded", "tape"]
Arithmetic = Literal["float32", "bf16 autocast", "medium precision"]
"""PyTorch's: as it is; autocast to bfloat16; set_float32_matmul_precision("medium")."""
CONFIGS = {
    "smoke": TrainConfig(
        gpt=GPTConfig(block_size=8, n_layer=1, n_head=2, n_embd=8, dropout=0.2), batch_size=2
    ),
    "earlier-small": EARLIER_SMALL,
    **PRESETS,
}
ROUNDS = {"smoke": 2, "medium": 7, **dict.fromkeys(["full", "lecture-full", "nanogpt-full"], 5)}
MOST_ROUNDS = 15
VOCABULARY = CharTokenizer("".join(map(chr, range(ord(" "), ord(" ") + 65))))
TURN = 0.5
"""Seconds of each side's turn: a processor that has been idle takes a while to come up to speed,
and training does not stop after ten steps."""
CHECKED_UPDATES, CHECKED_BATCH = 6, 4
BOUND = 1e-4
"""Ten times what rounding leaves in the norm of `lecture-full`, and far below what a tenth more
learning rate changes in the losses."""
BOUND_OF_BF16 = 2e-2
"""Some times what rounding to bfloat16 leaves, which PyTorch does with activations, too."""
TORCH_WAYS: dict[Precision, tuple[Arithmetic, ...]] = {
    "float32": ("float32",),
    "bf16": ("bf16 autocast", "medium precision"),
}


@dataclass(frozen=True)
class TrainStep(Options):
    """Time training steps."""

    size: Size = "small"
    """A preset of `tinygrad-char train`, or version 0.1's `small`; smoke takes seconds."""
    batch_size: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Windows of text in a batch, where not the preset's."""
    precision: tuple[Precision, ...] = ("float32",)
    """Of products; bf16 is in PyTorch autocast, and float32 products of medium precision."""
    tape: bool = False
    """Time ours on the tape, too, beside recorded steps."""
    styles: tuple[Style, ...] = ("sdpa", "heads", "compiled")
    """PyTorch's ways: one fused attention call, a loop over heads, the first one compiled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"--batch-size is {self.batch_size}; expected at least 1")


def random_split() -> Split:
    """Return random characters; what they are does not matter to the time of a step."""
    tokens = np.random.default_rng(0).integers(0, len(VOCABULARY), 20_000)
    return Split(tokens[:10_000], tokens[10_000:])


def checked(config: TrainConfig) -> TrainConfig:
    """Return the settings of the updates that are compared."""
    gpt = replace(config.gpt, dropout=0.0)
    return replace(config, gpt=gpt, batch_size=min(config.batch_size, CHECKED_BATCH))


def prepare(config: TrainConfig, way: Way = "recorded") -> dict[str, Task]:
    """Return our updates."""
    keep_freed_memory()
    trainer = Trainer(config, VOCABULARY, random_split())
    if way == "tape":
        trainer.loss.reason = "the tape is what is timed"

    def check() -> tuple[np.ndarray, float]:
        other = Trainer(checked(config), VOCABULARY, random_split())
        updates = [other.update() for _ in range(CHECKED_UPDATES)]
        return np.array([update.loss for update in updates]), updates[0].norm

    return {"step": Task(trainer.update, check)}


def main() -> None:
    """Compare, time, and exit 1 where results differ."""
    options = parse(TrainStep)
    config = CONFIGS[options.size]
    if options.batch_size is not None:
        config = replace(config, batch_size=options.batch_size)
    contenders, gpt = {}, config.gpt
    for precision in options.precision:
        ours = replace(config, precision=precision)
        name = "ours" if precision == "float32" else f"ours, {precision}"
        contenders[name] = Contender(prepare, (ours,))
        if options.tape:
            contenders[f"{name}, on the tape"] = Contender(prepare, (ours, "tape"))
    if options.against:
        from tinygrad_char.benchmarks.torch_models import prepare_training

        common = (CHECKED_UPDATES, len(VOCABULARY), random_split())
        whole = gpt.positions == "rotary" or config.optimizer == "muon"
        for style in options.styles:
            if style == "heads" and whole:
                continue  # neither is written head by head
            for precision in options.precision:
                for way in TORCH_WAYS[precision]:
                    name = f"PyTorch, {style}" + (f", {way}" if way != "float32" else "")
                    arguments = (config, checked(config), *common, style, way)
                    contenders[name] = Contender(prepare_training, arguments)
    bound = BOUND_OF_BF16 if "bf16" in options.precision else BOUND
    report = Report("train_step", options, bound)
    report.hold(
        f"{options.size}: batch {config.batch_size}, T {gpt.block_size}, C {gpt.n_embd}, "
        f"{gpt.n_layer} layers, {gpt.n_head} heads, dropout {gpt.dropout:g}",
        contenders,
        rounds=ROUNDS.get(options.size, MOST_ROUNDS),
        seconds=TURN,
        case={"size": options.size, "batch_size": config.batch_size},
    )
    sys.exit(report.finish())


if __name__ == "__main__":
    main()
