"""What `tinygrad-char train` reaches as it is: validation loss and time over several seeds."""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class DefaultRun:
    """Train with each seed, in a process of its own.

    All other options are those of `tinygrad-char train`, such as --steps or --lr.
    """

    seeds: tuple[int, ...] = (1337, 42, 7)
    """One run for each."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("--seeds is empty; expected at least one integer")


def run(seed: int, options: list[str]) -> dict[str, float]:
    """Train in a temporary folder and return what the command prints as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "tinygrad_char.models",
            "train",
            f"--seed={seed}",
            "--json",
            *options,
        ]
        command += ["--out", str(Path(folder) / "run")]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def main() -> None:
    """Print each seed's loss over the whole validation split and its time, and the means."""
    arguments, options = tyro.cli(
        DefaultRun,
        prog="python -m tinygrad_char.benchmarks.default_run",
        config=(tyro.conf.FlagCreatePairsOff,),
        return_unknown_args=True,
    )
    results = []
    for seed in arguments.seeds:
        results.append({"seed": seed, **run(seed, options)})
        if not arguments.json:
            print(
                f"seed {seed:5d}  validation {results[-1]['validation_loss']:.4f} nats per "
                f"character  {results[-1]['seconds']:.1f} s",
                flush=True,
            )
    loss = statistics.mean(each["validation_loss"] for each in results)
    seconds = statistics.mean(each["seconds"] for each in results)
    if arguments.json:
        print(json.dumps({"runs": results, "validation_loss": loss, "seconds": seconds}))
    else:
        print(f"mean of {len(results)}   validation {loss:.4f}  {seconds:.1f} s")


if __name__ == "__main__":
    main()
