"""Compiles every CUDA kernel for the GPUs that it is meant for; needs no GPU.

    python -m tinygrad_char.kernels.cuda.compile              # all kernels, for sm_80 to sm_100
    python -m tinygrad_char.kernels.cuda.compile --summary    # a line for each kernel
    python -m tinygrad_char.kernels.cuda.compile layernorm --arch sm_90 --json

Prints the registers, stack, spilled bytes and static shared memory of each kernel, of each variant
of its file (variants.py), for each architecture. Exit status: 0 if all compile and none spills more
than it may, 1 otherwise, 2 for wrong usage or where there is no compiler for GPUs.

Spilled registers are bytes stored plus bytes loaded. None are allowed, except where a comment of
the file says `Spills: up to 16 bytes` and why; --spills allows them everywhere.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from tinygrad_char.kernels.cpu.cores import available_cores
from tinygrad_char.kernels.cuda.device_compiler import (
    DeviceCompiler,
    DeviceCompilerError,
    Usage,
    find_device_compiler,
)
from tinygrad_char.kernels.cuda.launcher import Kernel, sources
from tinygrad_char.kernels.cuda.signature import SignatureError, parse
from tinygrad_char.kernels.cuda.variants import HINT, Variant, variants

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
"""A100, H100 and H200, B200."""

_ALLOWED = re.compile(r"Spills: up to (\d+) bytes")


class Task(NamedTuple):
    """One file to compile, with one set of macros, for one architecture."""

    path: Path
    macros: Variant
    architecture: str


@dataclass(frozen=True)
class Result:
    """What became of a task: what each kernel uses, or why it does not compile."""

    task: Task
    allowed_spills: int
    usages: tuple[Usage, ...] = ()
    error: str = ""

    @property
    def spilling(self) -> list[Usage]:
        """The kernels that spill more than they may."""
        return [
            each
            for each in self.usages
            if each.spill_stores + each.spill_loads > self.allowed_spills
        ]


def compile_all(
    compiler: DeviceCompiler, paths: Sequence[Path], architectures: Sequence[str], spills: int = 0
) -> list[Result]:
    """Compile files in all their variants for all architectures, on all cores."""

    def compile_one(task: Task) -> Result:
        text = task.path.read_text(encoding="utf-8")
        allowed = max([spills, *(int(each) for each in _ALLOWED.findall(text))])
        macros = [f"{name}={value}" for name, value in task.macros]
        try:
            declared = parse(text, dict(task.macros))
            usages = compiler.compile(task.path, task.architecture, macros)
        except (SignatureError, DeviceCompilerError) as error:
            return Result(task, allowed, error=str(error))
        missing = sorted(declared.keys() - {each.function for each in usages})
        if missing:
            return Result(task, allowed, error=f"{', '.join(missing)}: not in what was compiled")
        return Result(task, allowed, tuple(usages))

    tasks = [
        Task(path, macros, architecture)
        for path in paths
        for macros in variants(path.read_text(encoding="utf-8"))
        for architecture in architectures
    ]
    with ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(compile_one, tasks))


def as_table(results: Sequence[Result]) -> str:
    """Return a line for each kernel of each result: its registers, and bytes of memory."""
    titles = ("kernel", "variant", "target", "registers", "stack", "spilled", "static shared", "")
    rows: list[tuple[str, ...]] = [titles]
    for result in results:
        task = result.task
        macros = " ".join(f"{name}={value}" for name, value in task.macros)
        if result.error:
            rows.append((task.path.name, macros, task.architecture, *[""] * 4, "does not compile"))
        for each in result.usages:
            spilled = each.spill_stores + each.spill_loads
            remark = f"more than {result.allowed_spills} spilled" * (each in result.spilling)
            numbers = (each.registers, each.stack, spilled, each.static_shared)
            rows.append((each.function, macros, task.architecture, *map(str, numbers), remark))
    return _aligned(rows, range(3, 7))


def as_summary(results: Sequence[Result]) -> str:
    """Return a line for each kernel: the fewest and the most that its variants use, by target."""
    targets = list(dict.fromkeys(result.task.architecture for result in results))
    found: dict[tuple[str, str], dict[str, list[Usage]]] = {}
    for result in results:
        for usage in result.usages:
            by_target = found.setdefault((result.task.path.name, usage.function), {})
            by_target.setdefault(result.task.architecture, []).append(usage)
    titles = ("file", "kernel", "variants", *targets, "spilled", "static shared")
    rows: list[tuple[str, ...]] = [titles]
    for (file, function), by_target in found.items():
        everything = [usage for usages in by_target.values() for usage in usages]
        registers = [_range([each.registers for each in by_target.get(t, [])]) for t in targets]
        spilled = max(each.spill_stores + each.spill_loads for each in everything)
        shared = _range([each.static_shared for each in everything])
        variant_count = max(map(len, by_target.values()))
        rows.append((file, function, str(variant_count), *registers, str(spilled), shared))
    return _aligned(rows, range(2, len(titles)))


def _range(values: list[int]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"


def _aligned(rows: Sequence[tuple[str, ...]], numbers: range) -> str:
    """Return rows as lines of columns, with those of numbers on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if i in numbers else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def as_json(compiler: DeviceCompiler, results: Sequence[Result]) -> str:
    """Return the results as JSON, an object for each kernel, variant and architecture."""
    kernels = [
        {
            "file": result.task.path.name,
            "macros": dict(result.task.macros),
            "architecture": result.task.architecture,
            "allowed_spills": result.allowed_spills,
            **(asdict(usage) if usage else {"error": result.error}),
        }
        for result in results
        for usage in (result.usages or (None,))
    ]
    return json.dumps({"compiler": compiler.name, "kernels": kernels}, indent=2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tinygrad_char.kernels.cuda.compile",
        description="Compile every CUDA kernel for the GPUs that it is meant for; needs no GPU.",
    )
    parser.add_argument(
        "files", nargs="*", help="stems of files in kernels/, or paths; all if none"
    )
    parser.add_argument("--arch", nargs="+", default=ARCHITECTURES, help="such as sm_80 sm_90")
    parser.add_argument("--compiler", choices=["nvcc", "nvrtc"], help="nvcc if both are here")
    parser.add_argument("--spills", type=int, default=0, help="bytes that each kernel may spill")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, no table")
    form.add_argument("--summary", action="store_true", help="print registers by kernel and target")
    options = parser.parse_args(arguments)
    for architecture in options.arch:
        if not re.fullmatch(r"sm_\d+[af]?", architecture):
            parser.error(f"--arch {architecture}: expected a name such as sm_90")
    if options.spills < 0:
        parser.error(f"--spills {options.spills}: expected a number of bytes, 0 or more")
    paths = [_path(name) for name in options.files] or sources()
    for path in paths:
        if not path.is_file():
            parser.error(f"there is no file {path}")
    try:
        compiler = find_device_compiler(options.compiler)
        results = compile_all(compiler, paths, options.arch, options.spills)
    except (DeviceCompilerError, ValueError) as error:
        parser.error(str(error))
    if options.json:
        print(as_json(compiler, results))
    elif options.summary:
        print(f"{compiler.name}; registers, and bytes\n\n{as_summary(results)}")
    else:
        print(f"{compiler.name}; bytes, except for registers\n\n{as_table(results)}")
    return _report_failures(results)


def _report_failures(results: Sequence[Result]) -> int:
    for result in results:
        if result.error:
            macros = [f"-D{name}={value}" for name, value in result.task.macros]
            task = " ".join([result.task.path.name, *macros, "for", result.task.architecture])
            print(f"\n{task} does not compile:\n{result.error}", file=sys.stderr)
            if not macros:
                print(f"{result.task.path.name} names no variants: {HINT}", file=sys.stderr)
    return int(any(result.error or result.spilling for result in results))


def _path(name: str) -> Path:
    return Path(name) if name.endswith(".cu") else Kernel(name, "").path


if __name__ == "__main__":
    sys.exit(main())
