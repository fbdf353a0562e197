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
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from models.batches import Split, split_corpus
from models.corpus import load_corpus
from models.ladder import LADDER
from models.lecture import walk
from models.replay import RECIPES, replay_rung, sample_published
from models.tokenizer import CharTokenizer
from tinygrad_char.optim import Adam, AdamW
from tinygrad_char.torch_random import Build

PRINTED = 1e-4  # losses were printed with four decimals; one more is rounding of halves
BOUNDS: dict[str, tuple[tuple[int, float], ...]] = {
    "ffn": ((1000, 5e-4), (5000, 3e-3)),
    "blocks3": ((200, 1e-4), (5000, 6e-2)),
    "resid": ((200, 3e-4), (5000, 1e-2)),
    "lnorm": ((200, 3e-4), (5000, 1e-2)),
}
"""For each rung that drifts: up to this step, this difference."""


@dataclass(frozen=True)
class Replay:
    """Replay published runs and compare."""

    stage: tuple[str, ...] = tuple(LADDER)
    """Rungs of the ladder."""
    steps: int | None = None
    """Fewer steps than published."""
    seed: int = 1337
    """1337 is the published one; with another there is nothing to compare with."""
    data: str | None = None
    """Text: a file, "shakespeare" or "pydoc"."""
    without_final_newline: bool = False
    """Leave the text's last character out, as some notebooks' corpus has it."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """Of the notebook's bigram."""
    build: Build = "default"
    """Which PyTorch's choices the notebook follows."""
    against: Annotated[str | None, tyro.conf.arg(metavar="torch")] = None
    """"torch": train each rung in PyTorch too, as notebooks write it and batched, and compare."""
    notebook: bool = False
    """Show the lecture's results in order instead."""
    json: Path | None = None
    """File for the results."""


def main() -> None:
    """Replay, print a table for each rung, and exit 1 beyond the bounds."""
    options = tyro.cli(Replay)
    unknown = [name for name in options.stage if name not in LADDER]
    if unknown or options.against not in (None, "torch"):
        sys.stderr.write(
            f"error: {unknown[0] if unknown else options.against!r}: stages are "
            f"{', '.join(LADDER)}; --against takes torch\n"
        )
        sys.exit(2)
    text = load_corpus(options.data, lambda note: print(note, file=sys.stderr)).text
    if options.without_final_newline:
        text = text.removesuffix("\n")
    if options.notebook:
        walk(
            text,
            seed=options.seed,
            build=options.build,
            optimizer=Adam if options.optimizer == "adam" else AdamW,
            steps=options.steps or 10_000,
        )
        return
    tokenizer = CharTokenizer.from_text(text)
    split = split_corpus(tokenizer.encode(text), 8)
    published = json.loads(resources.files("benchmarks").joinpath("published.json").read_text())
    # Products this small are slower on several threads, and much slower on a busy machine.
    with threadpool_limits(1, "blas"):
        results = [
            compare(name, published["rungs"][name], options, split, tokenizer)
            for name in options.stage
        ]
    ok = all(result["within_bounds"] for result in results) and check_order(results)
    if options.json:
        options.json.write_text(json.dumps({"within_bounds": ok, "rungs": results}, indent=1))
    total = sum(result["seconds"] for result in results)
    verdict = "all within bounds" if ok else "NOT WITHIN BOUNDS"
    print(f"{len(results)} rungs in {total:.1f} s: {verdict}")
    sys.exit(0 if ok else 1)


def compare(
    name: str, published: dict[str, Any], options: Replay, split: Split, tokenizer: CharTokenizer
) -> dict[str, Any]:
    """Replay one rung, print its table, and return what was found."""
    recipe = RECIPES[name]
    if options.steps is not None:
        recipe = replace(recipe, steps=min(options.steps, recipe.steps))
    started = time.perf_counter()
    model, rows = replay_rung(name, split, len(tokenizer), seed=options.seed, recipe=recipe)
    seconds = time.perf_counter() - started
    # Rows of a shortened run are the published ones up to its last step.
    known = {step: losses for step, *losses in published["rows"]} if options.seed == 1337 else {}
    table = Table(title=f"{name}, {model.num_parameters():,} parameters", title_justify="left")
    for column in ("step", "published", "ours", "difference", "bound"):
        table.add_column(column, justify="right")
    worst = 0.0
    for row in rows:
        ours = f"{row.train:.4f} {row.validation:.4f}"
        if row.step not in known:
            table.add_row(str(row.step), "", ours, "", "")
            continue
        train, validation = known[row.step]
        difference = max(abs(row.train - train), abs(row.validation - validation))
        bound = bound_of(name, row.step)
        worst = max(worst, difference / bound)
        table.add_row(
            str(row.step), f"{train:.4f} {validation:.4f}", ours, f"{difference:.5f}", f"{bound:g}"
        )
    Console().print(table)
    result = {
        "rung": name,
        "seconds": seconds,
        "published_seconds": published["seconds"],
        "within_bounds": worst <= 1,
        "largest_part_of_bound": worst,
        "rows": [asdict(row) for row in rows],
    }
    note = f"; published {published['seconds']} s on a GPU machine" if published["seconds"] else ""
    print(f"{seconds:.1f} s{note}")
    if published["sample"] and options.seed == 1337 and recipe == RECIPES[name]:
        text = tokenizer.decode(sample_published(model))
        result["sample_equal"] = text.split() == published["sample"].split()
        result["within_bounds"] = result["within_bounds"] and result["sample_equal"]
        print("sample of 500 characters:", "equal" if result["sample_equal"] else "DIFFERENT")
    if options.against:
        against_torch(result, split, len(tokenizer), options.seed, recipe)
    print(flush=True)
    return result


def bound_of(name: str, step: int) -> float:
    """Return the difference allowed at a step of a rung; step 0 is always exact."""
    if step == 0 or name not in BOUNDS:
        return PRINTED
    return next(bound for last, bound in BOUNDS[name] if step <= last)


def against_torch(
    result: dict[str, Any], split: Split, vocab_size: int, seed: int, recipe: Any
) -> None:
    """Time PyTorch on the same run, both ways, and print the ratios."""
    from benchmarks.torch_ladder import replay_in_torch

    for style in ("notebook", "batched"):
        started = time.perf_counter()
        rows = replay_in_torch(
            result["rung"], split, vocab_size, seed, recipe, batched=style == "batched"
        )
        seconds = time.perf_counter() - started
        apart = abs(rows[0][2] - result["rows"][0]["validation"])
        if apart > PRINTED:
            raise SystemExit(f"{result['rung']}: PyTorch starts {apart} apart from ours")
        ratio = seconds / result["seconds"]
        result[f"torch_{style}_seconds"] = seconds
        print(f"PyTorch, {style:8}  {seconds:6.1f} s  {ratio:.2f} times ours")


def check_order(results: list[dict[str, Any]]) -> bool:
    """Return whether the final validation losses of a whole ladder order the rungs as published."""
    if [each["rung"] for each in results] != list(LADDER):
        return True
    published = json.loads(resources.files("benchmarks").joinpath("published.json").read_text())
    if any(each["rows"][-1]["step"] != RECIPES[each["rung"]].steps - 1 for each in results):
        return True

    def order(final: dict[str, float]) -> list[str]:
        return sorted(final, key=lambda name: final[name])

    ours = order({each["rung"]: each["rows"][-1]["validation"] for each in results})
    theirs = order({name: rung["rows"][-1][2] for name, rung in published["rungs"].items()})
    print(f"final validation losses from best to worst: {', '.join(ours)}")
    return ours == theirs


if __name__ == "__main__":
    main()
