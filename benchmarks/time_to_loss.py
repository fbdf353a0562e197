"""How long training takes to a loss: presets from several seeds, and PyTorch beside them.

Each run is a process of its own. At fixed steps, the same ones for all seeds, the loss over the
whole validation split is measured: every character once, in windows that do not overlap, so that
context is at most T characters and half of that on average. A loss counts as reached at the first
such step at or below it. Two clocks run: that of training alone, which stops while losses are
measured, and that of training with its measurements. Neither counts what is done once before the
first step: imports, the first weights, and in PyTorch compiling and three updates that are
forgotten, where ours records its step on the clock.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from tinygrad_char.benchmarks.measure import limit_threads
from tinygrad_char.benchmarks.report import WIDTH, machine, without_folder
from tinygrad_char.kernels.muon.bench import operations
from tinygrad_char.models.batches import Split, split_corpus
from tinygrad_char.models.config import PRESETS, PresetName, TrainConfig
from tinygrad_char.models.corpus import Corpus, load_corpus
from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.precision import check_precision, resolved
from tinygrad_char.models.tokenizer import CharTokenizer

THRESHOLDS = (1.88, 1.77, 1.70, 1.60, 1.56, 1.53, 1.50, 1.4697, 1.45, 1.42)
PUBLISHED = {"nanoGPT, CPU recipe": 1.88, "nanoGPT, 10.8 M on an A100": 1.4697}
"""What nanoGPT's README prints: its own estimates, from windows that it samples."""
PROGRAM = "python -m tinygrad_char.benchmarks.time_to_loss"
Part = Literal["validation", "held-out"]


@dataclass(frozen=True)
class TimeToLoss:
    """Train, and print the seconds to each loss.

    All other options are those of `tinygrad-char train`, such as --steps or --lr, for all presets.
    """

    presets: tuple[PresetName, ...] = ("small",)
    """Settings to train with."""
    seeds: tuple[int, ...] = (1337, 42, 7)
    """One run of each preset for each."""
    against: Annotated[Literal["torch"] | None, tyro.conf.arg(metavar="torch")] = None
    """Train with the same settings in PyTorch, too, and with nanoGPT's for the CPU."""
    grid: float = 1.0
    """Percent of the steps between two measurements of the loss."""
    part: Part = "validation"
    """Measure on the validation split; or train on nine tenths of the training split and measure on
    its last tenth, as settings are chosen."""
    strided: bool = False
    """Measure the last weights a second time, with at least half a window before each character."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Processors for each run; otherwise all."""
    data: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Text to learn, if not Shakespeare's."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File for the results."""
    chart: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """File for a picture of losses over seconds."""

    def __post_init__(self) -> None:
        for name in ("presets", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is empty; expected at least one")
        if not 0 < self.grid <= 100:
            raise ValueError(f"--grid is {self.grid}; expected percent above 0, up to 100")
        for path in (self.json, self.chart):
            if path and not path.parent.is_dir():
                raise ValueError(f"there is no folder {path.parent} for {path.name}; make it first")
        if self.chart and self.chart.suffix != ".png":
            raise ValueError(f"--chart is {self.chart}; expected a name that ends in .png")


@dataclass(frozen=True)
class Point:
    """A measurement: after how many steps, seconds of training alone and of all, and the loss."""

    step: int
    seconds: float
    all_seconds: float
    loss: float


@dataclass(frozen=True)
class Curve:
    """One run."""

    contender: str
    seed: int
    points: list[Point]
    parameters: int
    characters: int
    """Of a step."""
    operations: float
    """Of floating point in a step's products; a multiplication and an addition are two."""
    strided: float | None = None

    def reached(self, loss: float) -> Point | None:
        """Return the first measurement at or below a loss, None if there is none."""
        return next((each for each in self.points if each.loss <= loss), None)

    @property
    def best(self) -> Point:
        """The measurement of the lowest loss."""
        return min(self.points, key=lambda each: each.loss)


@dataclass(frozen=True)
class Run:
    """What a process trains and measures."""

    contender: str
    config: TrainConfig
    split: Split
    tokenizer: CharTokenizer
    grid: float
    strided: bool
    threads: int | None
    in_torch: bool


def follow(run: Run) -> Curve:
    """Train and measure, in a process of its own."""
    side = _theirs if run.in_torch else _ours
    update, loss, strided, parameters = side(run)
    config = run.config
    every = max(1, int(config.steps * run.grid / 100))
    points, training, begun = [], 0.0, time.perf_counter()
    for first in range(0, config.steps, every):
        last = min(first + every, config.steps)
        started = time.perf_counter()
        for _ in range(first, last):
            update()
        training += time.perf_counter() - started
        measured = loss()
        points.append(Point(last, training, time.perf_counter() - begun, measured))
        if (last // every) % 10 == 0 or last == config.steps:
            print(
                f"{run.contender}, seed {config.seed}: step {last:,} of {config.steps:,}, "
                f"{training:.1f} s, {measured:.4f}",
                file=sys.stderr,
                flush=True,
            )
    characters = config.batch_size * config.accumulate * config.gpt.block_size
    counted = arithmetic(config, len(run.tokenizer))
    found = strided() if run.strided else None
    return Curve(run.contender, config.seed, points, parameters, characters, counted, found)


Side = tuple[Callable[[], object], Callable[[], float], Callable[[], float], int]
"""An update, the loss on the split, the same with half a window before each character, and the
number of parameters."""


def _ours(run: Run) -> Side:
    limit_threads(run.threads)
    from tinygrad_char.models.evaluate import Loss, strided_loss, whole_split_loss
    from tinygrad_char.models.memory import keep_freed_memory
    from tinygrad_char.models.trainer import Trainer

    keep_freed_memory()
    trainer = Trainer(run.config, run.tokenizer, run.split)

    def measured(loss: Callable[..., Loss]) -> float:
        with trainer.averaged():
            return loss(trainer.model, run.split.validation, workers=trainer.workers).nats

    return (
        trainer.update,
        lambda: measured(whole_split_loss),
        lambda: measured(strided_loss),
        trainer.model.num_parameters(),
    )


def _theirs(run: Run) -> Side:
    from tinygrad_char.benchmarks.torch_models import TorchTrainer, fastest, split_loss

    limit_threads(run.threads)
    settings = (run.config, len(run.tokenizer), run.split)
    style = fastest(*settings)
    print(f"{run.contender}: {style} is faster", file=sys.stderr)
    trainer = TorchTrainer(*settings, style)
    trainer.warm_up()

    def measured(strided: bool) -> float:
        with trainer.averaged():
            return split_loss(trainer.plain, run.split.validation, strided=strided)

    return (
        trainer.update,
        lambda: measured(False),
        lambda: measured(True),
        sum(each.numel() for each in trainer.plain.parameters()),
    )


def arithmetic(config: TrainConfig, vocabulary: int) -> float:
    """Return the operations of a step's products: 6 for each weight and character, and attention's.

    Forward and backward together multiply each weight of a matrix three times with each character;
    causal attention has half of 12 T C operations a character and layer. Muon's products are
    counted as kernels/muon/bench.py does.
    """
    shape = config.gpt
    characters = config.batch_size * config.accumulate * shape.block_size
    width = shape.n_embd
    matrices = shape.n_layer * 12 * width * width + vocabulary * width
    attention = 6.0 * shape.n_layer * shape.block_size * width
    return characters * (6.0 * matrices + attention) + _of_muon(config)


def _of_muon(config: TrainConfig) -> float:
    """Return the operations of Muon's products: in each layer four squares, and two 4 C by C."""
    if config.optimizer != "muon":
        return 0.0
    width = config.gpt.n_embd
    wide = operations((4 * width, width))
    return config.gpt.n_layer * (4 * operations((width, width)) + 2 * wide)


def show(curves: Sequence[Curve]) -> None:
    """Print the seconds to each loss, and where each contender ends, over its seeds."""
    contenders = list(dict.fromkeys(each.contender for each in curves))
    groups = {name: [each for each in curves if each.contender == name] for name in contenders}
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    print("seconds of training to a loss: median, fewest to most")
    table = Table()
    table.add_column("nats")
    for name in contenders:
        table.add_column(name, justify="right")
    for loss in THRESHOLDS:
        cells = [_seconds_to(loss, group) for group in groups.values()]
        if any(cells):
            table.add_row(f"{loss:g}", *cells)
    console.print(table)
    print("at the end")
    table = Table()
    for heading in ("", *contenders):
        table.add_column(heading, justify="right" if heading else "left")
    for label, value in _ENDS.items():
        table.add_row(label, *(value(group) for group in groups.values()))
    console.print(table)


def _seconds_to(loss: float, group: Sequence[Curve]) -> str:
    """Return the seconds of all seeds to a loss, and of how many where not all reach it."""
    reached = [each.reached(loss) for each in group]
    seconds = sorted(each.seconds for each in reached if each)
    if not seconds:
        return ""
    some = "" if len(seconds) == len(group) else f" ({len(seconds)} of {len(group)})"
    return f"{statistics.median(seconds):.1f}, {seconds[0]:.1f} to {seconds[-1]:.1f}{some}"


def _mean(values: Sequence[float]) -> str:
    around = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{around}"


_ENDS: dict[str, Callable[[list[Curve]], str]] = {
    "last loss": lambda group: _mean([each.points[-1].loss for each in group]),
    "lowest loss": lambda group: _mean([each.best.loss for each in group]),
    "strided, last": lambda group: (
        "" if group[0].strided is None else _mean([each.strided or 0.0 for each in group])
    ),
    "seconds of training": lambda group: (
        f"{statistics.median(each.points[-1].seconds for each in group):.1f}"
    ),
    "with measurements": lambda group: (
        f"{statistics.median(each.points[-1].all_seconds for each in group):.1f}"
    ),
    "steps": lambda group: f"{group[0].points[-1].step:,}",
    "characters": lambda group: f"{group[0].points[-1].step * group[0].characters / 1e6:.2f} M",
    "parameters": lambda group: f"{group[0].parameters / 1e6:.3f} M",
    "operations": lambda group: f"{group[0].points[-1].step * group[0].operations / 1e12:.2f} T",
}


def draw(path: Path, curves: Sequence[Curve]) -> None:
    """Draw losses over seconds of training: a line for each run, and what nanoGPT prints."""
    from tinygrad_char.models import picture

    with picture.drawing(path, lambda said: print(said, file=sys.stderr)):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        contenders = list(dict.fromkeys(each.contender for each in curves))
        for number, name in enumerate(contenders):
            for place, each in enumerate(x for x in curves if x.contender == name):
                seconds = [point.seconds for point in each.points]
                losses = [point.loss for point in each.points]
                label = None if place else name
                axes.plot(seconds, losses, color=f"C{number}", linewidth=1.2, label=label)
        lowest = min(*(each.best.loss for each in curves), *PUBLISHED.values())
        for name, loss in PUBLISHED.items():
            axes.axhline(loss, color="0.5", linestyle="--", linewidth=0.8)
            axes.annotate(
                f"{name}: {loss:g}",
                (1, loss),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8,
                color="0.4",
            )
        axes.set(xscale="log", xlabel="seconds of training", ylabel="validation loss (nats)")
        axes.set_ylim(math.floor(lowest * 20) / 20 - 0.05, 2.5)
        axes.grid(alpha=0.3, which="both")
        axes.legend()
        path.write_bytes(picture.png(figure))


def contenders(options: TimeToLoss, rest: list[str]) -> dict[str, tuple[TrainConfig, bool]]:
    """Return what is trained: settings, and whether in PyTorch; UsageError where it cannot be."""

    def settings(name: PresetName) -> TrainConfig:
        plain = (tyro.conf.OmitArgPrefixes,)
        parsed = tyro.cli(TrainConfig, args=rest, default=PRESETS[name], prog=PROGRAM, config=plain)
        config = resolved(parsed)
        check_precision(config)
        if options.against and (config.accumulate > 1 or config.precision != "float32"):
            raise UsageError(
                f"--against torch with accumulate {config.accumulate} and precision "
                f"{config.precision}; expected 1 and float32, which is what is written in PyTorch"
            )
        return config

    found = {}
    for name in options.presets:
        found[str(name)] = settings(name), False
        if options.against:
            found[f"{name}, PyTorch"] = settings(name), True
    if options.against and "nanogpt" not in options.presets:
        found["nanogpt, PyTorch"] = settings("nanogpt"), True
    return found


def parts(tokens: np.ndarray, block_size: int, part: Part) -> Split:
    """Return what is trained on, and what is measured on."""
    split = split_corpus(tokens, block_size)
    return split if part == "validation" else split_corpus(split.train, block_size)


def main() -> None:
    """Train all, and print, write and draw what came of it."""
    options, rest = tyro.cli(
        TimeToLoss,
        prog=PROGRAM,
        config=(tyro.conf.FlagCreatePairsOff,),
        return_unknown_args=True,
    )
    try:
        chosen = contenders(options, rest)
        corpus = load_corpus(options.data, lambda said: print(said, file=sys.stderr))
        tokenizer = CharTokenizer(corpus.content.characters)
        _train(options, chosen, corpus, tokenizer)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _train(
    options: TimeToLoss,
    chosen: dict[str, tuple[TrainConfig, bool]],
    corpus: Corpus,
    tokenizer: CharTokenizer,
) -> None:
    curves: list[Curve] = []
    for name, (config, in_torch) in chosen.items():
        split = parts(tokenizer.encode(corpus.content), config.gpt.block_size, options.part)
        for seed in options.seeds:
            seeded = replace(config, seed=seed)
            measured = (options.grid, options.strided, options.threads, in_torch)
            run = Run(name, seeded, split, tokenizer, *measured)
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as process:
                curves.append(process.submit(follow, run).result())
    found = machine()
    print(f"{found['processor']}, {found['processors']} processors; {found['python']}")
    show(curves)
    if options.json:
        values = {
            "benchmark": "time_to_loss",
            "arguments": [without_folder(each) for each in sys.argv[1:]],
            "machine": found,
            "part": options.part,
            "curves": [asdict(each) for each in curves],
        }
        options.json.write_text(json.dumps(values, indent=1) + "\n")
    if options.chart:
        draw(options.chart, curves)


if __name__ == "__main__":
    main()
