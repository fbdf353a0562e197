"""Compiles translated kernels with the system's C++ compiler, once: results are kept on disk."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from tinygrad_char.kernels.cuda_on_cpu.runner.cache import kept
from tinygrad_char.kernels.cuda_on_cpu.runner.errors import RunnerError

RUNTIME = Path(__file__).resolve().parent / "runtime"
COMPILERS = ("g++", "clang++", "c++")
COMMON_FLAGS = (
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-fno-optimize-sibling-calls",  # the address that a call returns to tells its line
    "-w",
)
CHECK_FLAGS = (
    *("-O1", "-g", "-DCUDA_ON_CPU_CHECK", "-fsanitize=thread"),
    "-fno-tree-sra",  # a vector is read and written at once, as on a GPU
)
MODES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "fast": (("-O2", "-g"), ("-O2", "-g")),
    "check": (CHECK_FLAGS, ("-O3", "-g", "-DCUDA_ON_CPU_CHECK")),
    "debug": (("-O0", "-g3"), ("-O2", "-g")),
}
"""For each mode of the runner, the flags for kernels and for the runtime."""


def build(
    name: str, source: str, headers: Sequence[Path], defines: Sequence[str], mode: str
) -> Path:
    """Return a folder with `library.so`: a translated kernel file, linked with the runtime.

    `headers` are files that the source may include; their folders are searched.

    Raises
    ------
    RunnerError
        There is no C++ compiler, the cache cannot be written, or the source does not compile.
    """
    flags = MODES[mode][0]
    runtime = build_runtime(mode)
    folders = dict.fromkeys([RUNTIME, *(header.parent for header in headers)])
    options = [
        *(*COMMON_FLAGS, *flags),
        *(f"-I{folder}" for folder in folders),
        *("-include", "cuda_on_cpu.h"),
        *(f"-D{define}" for define in defines),
    ]
    texts = [source, *(header.read_text(encoding="utf-8") for header in headers)]

    def make(folder: Path) -> None:
        (folder / name).write_text(source, encoding="utf-8")
        kernel = ("-x", "c++", str(folder / name))
        _compile(*options, "-c", *kernel, "-o", str(folder / "kernel.o"))
        objects = map(str, [folder / "kernel.o", *sorted(runtime.glob("*.o"))])
        _compile("-shared", *objects, "-o", str(folder / "library.so"))
        (folder / "kernel.o").unlink()

    return _kept("kernel", [*options, *texts, runtime.name], make)


def build_runtime(mode: str) -> Path:
    """Return a folder with the object files of the runtime for one mode.

    Raises
    ------
    RunnerError
        There is no C++ compiler, or the cache cannot be written.
    """
    files = sorted(RUNTIME.iterdir())
    options = [*COMMON_FLAGS, *MODES[mode][1]]
    sources = [str(file) for file in files if file.suffix == ".cpp"]

    def make(folder: Path) -> None:
        _compile(*options, "-c", *sources, folder=folder)

    return _kept("runtime", [*options, *(file.read_text(encoding="utf-8") for file in files)], make)


@cache
def find_compiler() -> str:
    """Return the path of the C++ compiler: the environment's CXX, or the first of COMPILERS.

    Raises
    ------
    RunnerError
        There is none, or this system's programs are not what the runner knows how to load.
    """
    if not sys.platform.startswith("linux"):
        raise RunnerError(
            f"running CUDA kernels on the CPU needs Linux, not {sys.platform}; use device 'cpu'"
        )
    asked = os.environ.get("CXX")
    for name in [asked] if asked else COMPILERS:
        path = shutil.which(name)
        if path:
            return path
    raise RunnerError(
        "running CUDA kernels on the CPU needs a C++ compiler, and "
        + (f"CXX={asked} is not one" if asked else f"none of {', '.join(COMPILERS)} is here")
        + ": install one (Debian, Ubuntu: apt install g++) or use device 'cpu'"
    )


def _compile(*arguments: str, folder: Path | None = None) -> None:
    command = [find_compiler(), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if result.returncode != 0:
        raise RunnerError(f"{find_compiler()} cannot compile the kernel:\n{result.stderr.strip()}")


def _kept(kind: str, ingredients: Sequence[str], make: Callable[[Path], None]) -> Path:
    """Return the folder of what these ingredients and this compiler make."""
    compiler = Path(find_compiler()).resolve()
    state = compiler.stat()
    return kept(kind, (str(compiler), state.st_size, state.st_mtime_ns, *ingredients), make)
