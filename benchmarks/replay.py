"""Published PyTorch runs replayed: their losses beside ours, row by row.

Exit code 1 where a row differs by more than rounding can explain. The rungs without ReLU are
replayed to the four printed decimals. A ReLU whose input lies within rounding of zero turns the
other way on another machine, so those rungs drift apart, within the bounds below: about the
largest distance between equally valid roundings of the same run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from tinygrad_char.kernels.cpu.cores import available_cores
from tinygrad_char.models.batches import Split, split_corpus
from tinygrad_char.models.console import PlainConsole
from tinygrad_char.models.corpus import load_corpus
from tinygrad_char.models.errors import RunError, UsageError
from tinygrad_char.models.escape import write
from tinygrad_char.models.ladder import LADDER
from tinygrad_char.models.lecture import Choices, walk
from tinygrad_char.models.replay import RECIPES, Recipe, replay_run, sample, sample_published
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.optim import Adam, AdamW
from tinygrad_char.parallel import Workers
from tinygrad_char.torch_random import Build, TorchGenerator

PRINTED = 1e-4  # losses were printed with four decimals; one more is rounding of halves
BOUNDS: dict[str, tuple[tuple[int, float], ...]] = {
    "ffn": ((1000, 5e-4), (5000, 3e-3)),
    "blocks3": ((200, 1e-4), (5000, 6e-2)),
    "resid": ((200, 3e-4), (5000, 1e-2)),
    "lnorm": ((200, 3e-4), (5000, 1e-2)),
    "last": ((200, 3e-4), (5000, 1e-2)),
}
"""For each run that drifts: up to this step, this difference."""
STYLES = ("notebook", "batched")
OPTIMIZERS = {"adamw": AdamW, "adam": Adam}


@dataclass(frozen=True)
class Replay:
    """Replay published runs and compare."""

    stage: tuple[str, ...] = tuple(LADDER)
    """Rungs of the ladder, "last" (the end of the lecture's notebook), or "scaled"."""
    steps: tuple[int, ...] = ()
    """Fewer steps than published; of the notebook, one or several lengths of training."""
    seed: int = 1337
    """1337 is the published one; with another there is nothing to compare with."""
    data: str | None = None
    """Text: a file, "shakespeare" or "pydoc"."""
    without_final_newline: bool = False
    """Leave the text's last character out, as some notebooks' corpus has it."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """Adam is that without weight decay."""
    lr: tuple[float, ...] = ()
    """Learning rate; of the notebook, one, or one for each length."""
    build: Build | None = None
    """Which PyTorch draws the text: by default "cuda" after a rung, "default" in the notebook."""
    samples: tuple[int, int] = (100, 500)
    """Characters that the notebook draws before and after training."""
    jobs: int = available_cores()
    """Runs at the same time; with --against one."""
    against: Annotated[str | None, tyro.conf.arg(metavar="torch")] = None
    """"torch": train each rung in PyTorch too, as notebooks write it and batched, and compare."""
    notebook: bool = False
    """Show the lecture's results in order instead."""
    json: Path | None = None
    """File for the results."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.stage if name not in RECIPES]
        if unknown:
            raise UsageError(f"no stage {unknown[0]!r}; there are {', '.join(RECIPES)}")
        if self.against not in (None, "torch"):
            raise UsageError(f"--against {self.against}; expected torch")
        if self.against and not set(self.stage) <= set(LADDER):
            raise UsageError(f"--against torch has {', '.join(LADDER)}; choose with --stage")
        if min((self.jobs, *self.steps)) < 1:
            raise UsageError(f"--jobs {self.jobs} --steps {self.steps}; expected at least 1")
        if not self.notebook and max(len(self.steps), len(self.lr)) > 1:
            raise UsageError("several --steps or --lr are for --notebook")
        if len(self.lr) > 1 and len(self.lr) != len(self.steps):
            raise UsageError(f"--lr {self.lr} --steps {self.steps}; expected as many, or one --lr")

    @property
    def processes(self) -> int:
        """How many runs there are at the same time."""
        return 1 if self.against else min(self.jobs, len(self.stage))


def main() -> None:
    """Replay, print a table for each run, and exit 1 beyond the bounds."""
    try:
        within_bounds = run(tyro.cli(Replay))
    except (UsageError, RunError) as error:
        write(sys.stderr, f"error: {error}\n")
        sys.exit(2 if isinstance(error, UsageError) else 1)
    sys.exit(0 if within_bounds else 1)


def run(options: Replay) -> bool:
    """Do what the options say and return whether everything is within its bounds."""
    text = load_corpus(options.data, PlainConsole(stderr=True).note).text
    if options.without_final_newline:
        text = text.removesuffix("\n")
    if options.notebook:
        walk(text, choices_of(options), show_text)
        return True
    started = time.perf_counter()
    results = []
    for result in replayed(options, text):
        show(result)
        results.append(result)
    results.sort(key=lambda result: options.stage.index(result["rung"]))
    ok = all(result["within_bounds"] for result in results) and check_order(results)
    if options.json:
        options.json.write_text(json.dumps({"within_bounds": ok, "rungs": results}, indent=1))
    compared = sum("published" in row for result in results for row in result["rows"])
    verdict = f"{compared} published rows, " + ("all within bounds" if ok else "NOT WITHIN BOUNDS")
    if not compared:
        verdict = "nothing was published to compare with"
    print(f"{len(results)} runs in {time.perf_counter() - started:.1f} s: {verdict}")
    return ok


def choices_of(options: Replay) -> Choices:
    """Return what the options say of the notebook."""
    default = Choices()
    return Choices(
        seed=options.seed,
        build=options.build or default.build,
        optimizer=OPTIMIZERS[options.optimizer],
        lengths=options.steps or default.lengths,
        rates=options.lr or default.rates,
        samples=options.samples,
    )


def show_text(*values: Any) -> None:
    """Print values as `print` does; a text's control characters reach no terminal."""
    write(sys.stdout, " ".join(map(str, values)) + "\n")


def replayed(options: Replay, text: str) -> Iterator[dict[str, Any]]:
    """Yield the results of all stages; of several at a time, that of the largest first."""
    if options.processes == 1:
        yield from (compare(name, options, text) for name in options.stage)
        return
    # So that no process is left alone with the largest at the end.
    stages = sorted(options.stage, key=list(RECIPES).index, reverse=True)
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        yield from pool.map(compare, stages, repeat(options), repeat(text))


@cache
def published() -> dict[str, Any]:
    """Return the published numbers."""
    return json.loads(
        resources.files("tinygrad_char.benchmarks").joinpath("published.json").read_text()
    )


def compare(name: str, options: Replay, text: str) -> dict[str, Any]:
    """Replay one run and return what was found."""
    recipe = RECIPES[name]
    if options.steps:
        recipe = replace(recipe, steps=min(*options.steps, recipe.steps))
    if options.lr:
        recipe = replace(recipe, lr=options.lr[0])
    tokenizer = CharTokenizer.from_text(text)
    split = split_corpus(tokenizer.encode(text), recipe.sizes.block_size)
    generator = TorchGenerator(options.seed, options.build or "cuda")
    optimizer = OPTIMIZERS[options.optimizer]
    workers = Workers(max(1, available_cores() // options.processes))
    # Products this small are slower on several threads, and much slower on a busy machine.
    with threadpool_limits(1, "blas"):
        started = time.perf_counter()
        model, rows = replay_run(
            name,
            split,
            len(tokenizer),
            generator,
            recipe=recipe,
            optimizer=optimizer,
            workers=workers,
        )
        seconds = time.perf_counter() - started
        if generator.build == "cuda":
            drawn = sample_published(model, seed=options.seed)
        else:
            drawn = sample(model, 500, generator)
    result = {
        "rung": name,
        "parameters": model.num_parameters(),
        "seconds": seconds,
        "rows": [asdict(row) for row in rows],
        "sample": tokenizer.decode(drawn),
        "within_bounds": True,
    }
    if (
        options.seed == 1337
        and optimizer is AdamW
        and recipe.lr == RECIPES[name].lr
        and len(text) == published()["characters"]
    ):
        whole = recipe == RECIPES[name] and generator.build == "cuda"
        add_differences(result, whole)
    if options.against:
        add_torch(result, split, len(tokenizer), options.seed, recipe)
    return result


def add_differences(result: dict[str, Any], whole: bool) -> None:
    """Compare a result with what was published; its sample only after the `whole` run."""
    known = published()["rungs"][result["rung"]]
    losses = {step: pair for step, *pair in known["rows"]}
    worst = 0.0
    for row in result["rows"]:
        if row["step"] in losses:
            train, validation = row["published"] = losses[row["step"]]
            row["difference"] = max(abs(row["train"] - train), abs(row["validation"] - validation))
            row["bound"] = bound_of(result["rung"], row["step"])
            worst = max(worst, row["difference"] / row["bound"])
    result["published_seconds"] = known["seconds"]
    result["largest_part_of_bound"] = worst
    result["within_bounds"] = worst <= 1
    if whole and known["sample"]:
        # Blank lines were lost where the samples were published.
        result["sample_equal"] = result["sample"].split() == known["sample"].split()
        result["within_bounds"] &= result["sample_equal"]


def show(result: dict[str, Any]) -> None:
    """Print the table of one run."""
    title = f"{result['rung']}, {result['parameters']:,} parameters"
    table = Table(title=title, title_justify="left")
    for column in ("step", "published", "ours", "difference", "bound"):
        table.add_column(column, justify="right")
    for row in result["rows"]:
        cells = [str(row["step"]), "", f"{row['train']:.4f} {row['validation']:.4f}", "", ""]
        if "published" in row:
            cells[1] = "{:.4f} {:.4f}".format(*row["published"])
            cells[3:] = f"{row['difference']:.5f}", f"{row['bound']:g}"
        table.add_row(*cells)
    Console().print(table)
    there = result.get("published_seconds")
    note = f"; published {there} s on a GPU machine" if there else ""
    print(f"{result['seconds']:.1f} s{note}")
    if "sample_equal" in result:
        print("sample of 500 characters:", "equal" if result["sample_equal"] else "DIFFERENT")
    for style in STYLES:
        if f"torch_{style}_seconds" in result:
            seconds = result[f"torch_{style}_seconds"]
            ratio = seconds / result["seconds"]
            print(f"PyTorch, {style:8}  {seconds:6.1f} s  {ratio:.2f} times ours")
    print(flush=True)


def bound_of(name: str, step: int) -> float:
    """Return the difference allowed at a step of a run; step 0 is exact, to the printed digits."""
    if name == "scaled":
        return 6e-4  # printed with three decimals
    if step == 0 or name not in BOUNDS:
        return PRINTED
    return next(bound for last, bound in BOUNDS[name] if step <= last)


def add_torch(
    result: dict[str, Any], split: Split, vocab_size: int, seed: int, recipe: Recipe
) -> None:
    """Time PyTorch on the same run, both ways."""
    from tinygrad_char.benchmarks.torch_ladder import replay_in_torch

    for style in STYLES:
        started = time.perf_counter()
        rows = replay_in_torch(
            result["rung"], split, vocab_size, seed, recipe, batched=style == "batched"
        )
        result[f"torch_{style}_seconds"] = time.perf_counter() - started
        apart = abs(rows[0][2] - result["rows"][0]["validation"])
        if apart > PRINTED:
            raise SystemExit(f"{result['rung']}: PyTorch starts {apart} apart from ours")


def check_order(results: list[dict[str, Any]]) -> bool:
    """Return whether the final validation losses of a whole ladder order the rungs as published."""
    if [each["rung"] for each in results] != list(LADDER):
        return True
    if any(each["rows"][-1]["step"] != RECIPES[each["rung"]].steps - 1 for each in results):
        return True

    def order(final: dict[str, float]) -> list[str]:
        return sorted(final, key=lambda name: final[name])

    ours = order({each["rung"]: each["rows"][-1]["validation"] for each in results})
    theirs = order({name: published()["rungs"][name]["rows"][-1][2] for name in LADDER})
    print(f"final validation losses from best to worst: {', '.join(ours)}")
    return ours == theirs


if __name__ == "__main__":
    main()
