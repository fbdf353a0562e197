"""Time of importing all of tinygrad_char beside `import numpy`, in fresh processes, in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass

import tyro

IMPORTS = {"numpy": "import numpy", "tinygrad_char": "from tinygrad_char import *"}
"""How modules are imported; ours loads names when they are used, which `*` does."""
PROGRAM = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


@dataclass(frozen=True)
class ImportTime:
    """Measure the imports."""

    repeat: int = 15
    """Processes for each module."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        if self.repeat < 1:
            raise ValueError(f"--repeat is {self.repeat}; expected at least 1")


def measure(module: str) -> float:
    """Return the seconds that a fresh process takes to import a module."""
    return run(PROGRAM.format(IMPORTS[module]))


def run(program: str) -> float:
    """Return the number that a program prints in a fresh process, which may keep what it compiles.

    As processes may, unless the environment forbids it: an import that compiles each module each
    time would measure the compiler.
    """
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    """Print the median, and the spread, of each import in milliseconds, and their ratio."""
    options = tyro.cli(
        ImportTime,
        prog="python -m tinygrad_char.benchmarks.import_time",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    for module in IMPORTS:
        measure(module)  # so that files are in memory and compiled
    seconds: dict[str, list[float]] = {module: [] for module in IMPORTS}
    for _ in range(options.repeat):
        for module in IMPORTS:
            seconds[module].append(measure(module))
    medians = {module: statistics.median(times) for module, times in seconds.items()}
    ratio = medians["tinygrad_char"] / medians["numpy"]
    if options.json:
        print(json.dumps({"seconds": seconds, "medians": medians, "ratio": ratio}))
        return
    for module, times in seconds.items():
        print(
            f"{IMPORTS[module]:28} {medians[module] * 1e3:7.1f} ms "
            f"({min(times) * 1e3:.1f} to {max(times) * 1e3:.1f})"
        )
    print(f"ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
