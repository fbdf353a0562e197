"""Characters per second of one growing text, with random weights, beside PyTorch's.

All contenders have the same weights and forget the older half of a full context, so that the
likeliest characters must be the same; these are compared first, past the end of the context.
Exit code 1 where they differ. Beside the same shape with learned positions and no convolution
(`--plain`), whose text is another, only the number of characters is compared.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import tyro

from tinygrad_char.benchmarks.measure import Contender
from tinygrad_char.benchmarks.report import COLUMNS, Options, Report, Row, parse
from tinygrad_char.kernels.cpu.bench import Task
from tinygrad_char.models.build import build_model
from tinygrad_char.models.config import PRESETS, PresetName, TrainConfig
from tinygrad_char.models.generate import Sampling, generate
from tinygrad_char.models.gpt import GPTConfig
from tinygrad_char.random import Generator, sampling_streams

CONFIGS = {
    "smoke": TrainConfig(gpt=GPTConfig(block_size=8, n_layer=1, n_head=2, n_embd=8)),
    **PRESETS,
}
LENGTH, ROUNDS = 1000, 5
SMOKE_LENGTH, SMOKE_ROUNDS = 20, 2
VOCABULARY_SIZE = 65
PROMPT = np.array([0])
BOUND = 0.0
"""Characters are the same or not."""


@dataclass(frozen=True)
class Generate(Options):
    """Time the generation of text."""

    size: PresetName | Literal["smoke"] = "lecture-full"
    """A preset of `tinygrad-char train`; smoke takes seconds."""
    plain: bool = False
    """Measure the same shape with learned positions and no convolution, instead of PyTorch."""
    length: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Characters to write; otherwise 1,000, and 20 for smoke."""
    temperature: float = 0.8
    """Of the text that is timed; 0 always takes the likeliest character."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length is not None and self.length < 1:
            raise ValueError(f"--length is {self.length}; expected at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"--temperature is {self.temperature}; expected a number from 0")
        if self.plain and self.against:
            raise ValueError(
                "--plain and --against torch: their texts differ; expected one of them"
            )


def prepare(
    config: TrainConfig, length: int, checked: int, temperature: float, counted: bool = False
) -> dict[str, Task]:
    """Return our generation with a cache, of which the text is compared, or how long it is."""
    model = build_model(config, VOCABULARY_SIZE, Generator(config.seed)).eval()

    def write(length: int, temperature: float) -> np.ndarray:
        streams = sampling_streams(config.seed, 1)
        return np.array(list(generate(model, PROMPT, length, Sampling(temperature), streams)))[:, 0]

    def check() -> np.ndarray:
        text = write(checked, 0.0)
        return np.array(len(text)) if counted else text

    return {"text": Task(lambda: write(length, temperature), check)}


def main() -> None:
    """Compare, time, and exit 1 where results differ."""
    options = parse(Generate)
    config = CONFIGS[options.size]
    smoke = options.size == "smoke"
    length = options.length or (SMOKE_LENGTH if smoke else LENGTH)
    size = config.gpt.block_size
    arguments = (config, length, size + size // 4, options.temperature)
    contenders = {"ours": Contender(prepare, (*arguments, options.plain))}
    if options.plain:
        gpt = replace(config.gpt, positions="learned", convolution=0)
        other = (replace(config, gpt=gpt), *arguments[1:], True)
        contenders["ours, plain"] = Contender(prepare, other)
    elif options.against:
        from tinygrad_char.benchmarks.torch_models import prepare_generation

        for name, cached in (("with cache", True), ("without cache", False)):
            contenders[f"PyTorch, {name}"] = Contender(
                prepare_generation, (PROMPT, VOCABULARY_SIZE, *arguments, cached)
            )

    def add_speed(rows: list[Row]) -> None:
        for row in rows:
            row["characters_per_second"] = length / row["seconds"]

    report = Report("generate", options, BOUND)
    report.hold(
        f"{options.size}: {length} characters, context {size}, temperature {options.temperature:g}",
        contenders,
        rounds=SMOKE_ROUNDS if smoke else ROUNDS,
        columns={**COLUMNS, "characters/s": lambda row: f"{row['characters_per_second']:,.0f}"},
        complete=add_speed,
        case={"size": options.size, "length": length},
    )
    sys.exit(report.finish())


if __name__ == "__main__":
    main()
