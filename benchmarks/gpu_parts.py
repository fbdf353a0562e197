"""The parts of the GPU benchmark, each of which benchmarks/gpu.py runs in a process of its own.

A kernel that goes out of bounds takes its process's device with it, and one that does not end can
only be killed; so neither loses what the others have measured. Started as

    python -m tinygrad_char.benchmarks.gpu_parts SETTINGS FD

with settings in JSON, a process writes lines of JSON to the file descriptor: the name of each case
before it runs, then its row. It exits with BROKEN where the device is of no use to it any more.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from tinygrad_char.benchmarks import gpu_checks, gpu_kernels, gpu_ladders, gpu_training
from tinygrad_char.benchmarks.gpu_timing import Case, Row
from tinygrad_char.kernels.backend import Backend, DeviceError, bfloat16
from tinygrad_char.kernels.cpu.cores import available_cores
from tinygrad_char.kernels.cuda.bench import Check
from tinygrad_char.kernels.cuda.launcher import Kernel, sources
from tinygrad_char.kernels.cuda.operation import Device
from tinygrad_char.kernels.cuda.signature import parse
from tinygrad_char.kernels.cuda.variants import variants
from tinygrad_char.kernels.devices import get_backend
from tinygrad_char.models.corpus import load_corpus
from tinygrad_char.models.tokenizer import CharTokenizer

BROKEN = 3
MOST_COMPILERS = 16
PACKAGES = (
    *("numpy", "ml_dtypes", "cupy-cuda13x", "cupy-cuda12x", "torch", "triton"),
    *("nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"),
)
QUESTIONS = ("driver_version", "vbios_version", "power.limit", "clocks.max.sm", "clocks.max.mem")
"""What nvidia-smi is asked."""


@dataclass(frozen=True)
class Settings:
    """Which part, and how: `skip` cases were done by a process before this one."""

    part: str
    device: str
    quick: bool
    data: str
    skip: int = 0

    def to_json(self) -> str:
        """Return the settings as an argument of a command."""
        return json.dumps(asdict(self))


def serve(arguments: list[str]) -> int:
    """Run the cases of one part; return the exit code."""
    settings = Settings(**json.loads(arguments[0]))
    with os.fdopen(int(arguments[1]), "w") as results:

        def send(**message: Any) -> None:
            results.write(json.dumps(message) + "\n")
            results.flush()

        try:
            for number, case in enumerate(PARTS[settings.part](settings)):
                if number < settings.skip:
                    continue
                send(case=case.name)
                try:
                    row = case.run()
                except Exception as error:  # the other cases are still worth their time
                    send(row=describe_error(error))
                    if not usable(settings):
                        return BROKEN
                else:
                    send(row=row)
        except Exception as error:
            send(part_error=describe_error(error))
            return 1
        send(done=True)
    return 0


def describe_error(error: Exception) -> Row:
    """Return what a row says of a case that failed."""
    text = str(error) if isinstance(error, DeviceError) else f"{type(error).__name__}: {error}"
    return {"error": text.strip(), "trace": traceback.format_exc()}


def usable(settings: Settings) -> bool:
    """Return whether the device still works in this process, after an error."""
    if settings.device != "cuda":
        return True
    try:
        if settings.part.startswith("PyTorch"):
            import torch

            torch.cuda.synchronize()
        else:
            get_backend("cuda").xp.cuda.runtime.deviceSynchronize()
    except Exception:  # whatever the library calls it
        return False
    return True


def _machine(settings: Settings) -> Iterator[Case]:
    yield Case("machine", lambda: describe_machine(get_backend(settings.device)))


def describe_machine(backend: Backend) -> Row:
    """Return what the figures are measured on; DeviceError where that cannot be done."""
    bfloat16()
    found: Row = {"device": backend.name, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if backend.name != "cuda":
        found["gpu"] = "none: CUDA kernels on the CPU, whose times say nothing of any GPU"
        return found
    cuda = backend.xp.cuda
    number = cuda.runtime.getDevice()
    properties = cuda.runtime.getDeviceProperties(number)
    found["gpu"] = properties["name"].decode()
    questions: dict[str, Callable[[], Any]] = {
        "compute capability": lambda: cuda.Device(number).compute_capability,
        "multiprocessors": lambda: properties["multiProcessorCount"],
        "memory": lambda: f"{properties['totalGlobalMem'] >> 20} MiB",
        "L2 cache": lambda: f"{properties['l2CacheSize'] >> 20} MiB",
        "CUDA of the driver": lambda: _version(cuda.runtime.driverGetVersion()),
        "CUDA of CuPy": lambda: _version(cuda.runtime.runtimeGetVersion()),
        "NVRTC": lambda: ".".join(map(str, cuda.nvrtc.getVersion())),
    }
    for name, ask in questions.items():
        try:
            found[name] = ask()
        except Exception as error:  # nothing that is measured needs the answer
            found[name] = f"not known: {error}"
    found.update(_nvidia_smi(number))
    return found


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _nvidia_smi(number: int) -> Row:
    """Return what the driver's own program says, nothing where it is not there."""
    command = ["nvidia-smi", f"--id={number}", f"--query-gpu={','.join(QUESTIONS)}"]
    try:
        answer = subprocess.run(
            [*command, "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [each.strip() for each in answer.stdout.strip().split(",")]
    if answer.returncode or len(values) != len(QUESTIONS):
        return {}
    return dict(zip(QUESTIONS, values, strict=True))


def _compile(settings: Settings) -> Iterator[Case]:
    """Yield the compilation of all kernels, on all cores: the later parts find them done."""
    names = "*.cu" if settings.device == "cuda" else "column_sum.cu"
    yield Case("all kernels", lambda: compile_files(settings.device, names))


def compile_files(device: str, names: str) -> Row:
    """Compile every variant; RuntimeError that names those that cannot be, after all others."""
    kernels = []
    for path in sources(names):
        text = path.read_text(encoding="utf-8")
        for macros in variants(text):
            kernels.append(Kernel(path.stem, next(iter(parse(text, dict(macros)))), macros))
    started = time.perf_counter()
    # Processes, not threads: not every NVRTC compiles two kernels of a process at once.
    with ProcessPoolExecutor(
        min(MOST_COMPILERS, available_cores()), multiprocessing.get_context("spawn")
    ) as pool:
        done = list(pool.map(compile_one, [device] * len(kernels), kernels))
    failures = [why for _, why in done if why]
    if failures:
        raise RuntimeError("; ".join(failures))
    return {
        "seconds": time.perf_counter() - started,
        "variants": len(kernels),
        "longest_seconds": max(taken for taken, _ in done),
    }


def compile_one(device: str, kernel: Kernel) -> tuple[float, str]:
    """Compile a kernel; return the seconds that took, and why it failed where it did."""
    started = time.perf_counter()
    try:
        launching = get_backend(device).device
        if not isinstance(launching, Device):
            raise ValueError("it launches no kernels; expected cuda or cuda-on-cpu")
        launching.launcher.executor.limits(kernel)
    except Exception as error:  # whatever the compiler says
        return 0.0, f"{kernel.source} {dict(kernel.defines)}: {error}"
    return time.perf_counter() - started, ""


def _checks(settings: Settings) -> Iterator[Case]:
    backend = get_backend(settings.device)
    for check in gpu_checks.checks(settings.quick or settings.device != "cuda"):
        for precision in check.precisions:

            def run(check: Check = check, precision: str = precision) -> Row:
                outcome = gpu_checks.run(check, precision, backend)
                return {
                    "precision": precision,
                    "off": outcome.error,
                    "allowed": outcome.allowed,
                    "passed": outcome.passed,
                }

            yield Case(f"{check.name} {check.case} {precision}", run)


def _training(settings: Settings) -> Iterator[Case]:
    corpus = load_corpus(settings.data, lambda text: None)
    tokenizer = CharTokenizer.from_text(corpus.text)
    text = corpus.text if settings.device == "cuda" else corpus.text[:1000]
    backend, tokens = get_backend(settings.device), tokenizer.encode(text)
    return gpu_training.training(backend, settings.quick, tokens, len(tokenizer))


def _ours(cases: Callable[[Backend, bool], Iterator[Case]]) -> Callable[[Settings], Iterator[Case]]:
    return lambda settings: cases(get_backend(settings.device), settings.quick)


def _torch(name: str) -> Callable[[Settings], Iterator[Case]]:
    def cases(settings: Settings) -> Iterator[Case]:
        from tinygrad_char.benchmarks import gpu_torch

        device = "cuda" if settings.device == "cuda" else "cpu"
        return getattr(gpu_torch, name)(device, settings.quick)

    return cases


PARTS: dict[str, Callable[[Settings], Iterator[Case]]] = {
    "machine": _machine,
    "compile": _compile,
    "checks": _checks,
    "ceilings": _ours(gpu_kernels.ceilings),
    "kernels": _ours(gpu_kernels.kernels),
    "attention": _ours(gpu_kernels.attention_by_length),
    "steps": _ours(gpu_training.steps),
    "PyTorch": _torch("not_compiled"),
    "training": _training,
    "averaging": _ours(gpu_ladders.averaging),
    "attention ladder": _ours(gpu_ladders.attending),
    "PyTorch compiled": _torch("compiled_steps"),
}

if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
