"""Everything that a machine with a GPU can tell, in one command.

    python -m benchmarks.gpu --json gpu.json

First every kernel is checked on the device against its reference. Then come timings: kernels that
only move memory as parts of the measured copy bandwidth, attention beside PyTorch's flash
attention, training steps of the preset `full` beside PyTorch's; and at last `full` is trained to
its end on tiny Shakespeare, from the folder that TINYGRAD_CHAR_DATA names. Sections that fail say
why and the others go on. Exit code 1 where one failed, a check did not pass, or there is no GPU.

Needs NumPy, CuPy and ml_dtypes; PyTorch where it is to be compared with.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import gpu_checks, gpu_kernels, gpu_training
from kernels.backend import Backend, DeviceError, get_backend
from models.batches import split_corpus
from models.config import PRECISIONS, PRESETS, TrainConfig
from models.corpus import load_corpus
from models.tokenizer import CharTokenizer

SECTIONS = ("checks", "memory", "attention", "steps", "training")
PACKAGES = ("numpy", "cupy-cuda13x", "cupy-cuda12x", "ml_dtypes", "torch", "nvidia-cublas")
VOCABULARY = 65
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Run the sections and return the exit code."""
    options = _options(arguments)
    try:
        backend = get_backend(options.device)
    except DeviceError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    results: Row = {"machine": describe(backend), "quick": options.quick, "sections": {}}
    for name, value in results["machine"].items():
        print(f"{name:12} {value}")
    failed = []
    for name in options.sections:
        section, problem = run_section(name, backend, options.quick)
        results["sections"][name] = section
        if problem:
            failed.append(name)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall sections are done")
    return 1 if failed else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the results")
    parser.add_argument("--quick", action="store_true", help="fewer sizes, rounds and steps")
    parser.add_argument(
        "--device",
        default="cuda",
        choices=("cuda", "cuda-on-cpu"),
        help="cuda-on-cpu tries out the benchmark itself, at the smallest sizes",
    )
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, default=SECTIONS, help="only these"
    )
    return parser.parse_args(arguments)


def describe(backend: Backend) -> Row:
    """Return what the figures were measured on."""
    found: Row = {"device": backend.name, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if backend.name == "cuda":
        runtime = backend.xp.cuda.runtime
        properties = runtime.getDeviceProperties(runtime.getDevice())
        found["gpu"] = properties["name"].decode()
        found["memory"] = f"{properties['totalGlobalMem'] >> 20} MiB"
        found["driver"], found["runtime"] = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    else:
        found["gpu"] = "none: CUDA kernels on the CPU, whose times say nothing of any GPU"
    return found


def run_section(name: str, backend: Backend, quick: bool) -> tuple[Row, bool]:
    """Run one section; return its rows and time, and whether anything failed."""
    print(f"\n{name}")
    started = time.perf_counter()
    rows: list[Row] = []
    section: Row = {"rows": rows}
    problem = False
    try:
        for row in _SECTIONS[name](backend, quick):
            rows.append(row)
            print("  " + "  ".join(f"{key} {_text(value)}" for key, value in row.items()))
            problem = problem or row.get("passed") is False
    except Exception as error:  # the other sections are still worth their time
        section["error"] = traceback.format_exc()
        print(f"  failed: {type(error).__name__}: {error}")
        problem = True
    section["seconds"] = time.perf_counter() - started
    return section, problem


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _checks(backend: Backend, quick: bool) -> Iterable[Row]:
    for check in gpu_checks.checks(quick or backend.name != "cuda"):
        for precision in check.precisions:
            outcome = gpu_checks.run(check, precision, backend)
            yield {**outcome._asdict(), "passed": outcome.passed}


def _sizes(backend: Backend, quick: bool) -> gpu_kernels.Sizes:
    if backend.name != "cuda":
        return gpu_kernels.SMOKE
    return gpu_kernels.QUICK if quick else gpu_kernels.FULL


def _memory(backend: Backend, quick: bool) -> Iterable[Row]:
    return gpu_kernels.memory_bound(backend, _sizes(backend, quick))


def _attention(backend: Backend, quick: bool) -> Iterable[Row]:
    return gpu_kernels.attention(backend, _sizes(backend, quick))


def _config(backend: Backend) -> TrainConfig:
    full = replace(PRESETS["full"], device=backend.name)  # type: ignore[arg-type]
    return full if backend.name == "cuda" else gpu_training.smallest(full)


def _steps(backend: Backend, quick: bool) -> Iterable[Row]:
    config = _config(backend)
    count = 2 if backend.name != "cuda" else 20 if quick else 100
    split = gpu_training.random_split(VOCABULARY, 20_000)
    return gpu_training.steps(config, VOCABULARY, split, count, PRECISIONS)


def _training(backend: Backend, quick: bool) -> Iterable[Row]:
    config = replace(_config(backend), precision="bf16")
    corpus = load_corpus("shakespeare", print)
    tokenizer = CharTokenizer.from_text(corpus.text)
    text = corpus.text if backend.name == "cuda" else corpus.text[:1000]
    split = split_corpus(tokenizer.encode(text), config.gpt.block_size)
    if quick:
        config = replace(config, steps=min(config.steps, 300))
    yield gpu_training.train(config, len(tokenizer), split)


_SECTIONS: dict[str, Callable[[Backend, bool], Iterable[Row]]] = {
    "checks": _checks,
    "memory": _memory,
    "attention": _attention,
    "steps": _steps,
    "training": _training,
}

if __name__ == "__main__":
    sys.exit(main())
