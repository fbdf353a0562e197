"""Compiles kernels for GPUs, with nvcc or with the NVRTC library, and reads what they use."""

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tinygrad_char.kernels.cuda.launcher import FOLDER


class DeviceCompilerError(RuntimeError):
    """There is no compiler for GPUs, or it refuses a kernel."""


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel uses: registers of a thread; bytes of memory of the rest.

    The stack is a thread's, in local memory; of it, registers are spilled to and loaded from
    `spill_stores` and `spill_loads`. `static_shared` is a block's.
    """

    function: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    static_shared: int


class DeviceCompiler(Protocol):
    """A compiler for GPUs."""

    name: str

    def compile(self, path: Path, architecture: str, macros: Iterable[str]) -> list[Usage]:
        """Compile a file for an architecture such as sm_90, with macros such as N=4.

        Raises
        ------
        DeviceCompilerError
            It does not compile; with the compiler's words.
        """


def find_device_compiler(name: str | None = None) -> DeviceCompiler:
    """Return nvcc or NVRTC, whichever is here; nvcc where both are, and no name is given.

    Raises
    ------
    DeviceCompilerError
        The one that is asked for, or both, are missing.
    """
    nvcc = _find_nvcc() if name in (None, "nvcc") else None
    if nvcc:
        return Nvcc(nvcc)
    library = _find_nvrtc() if name in (None, "nvrtc") else None
    if library:
        return Nvrtc(library)
    missing = f"{name} is not" if name else "neither nvcc nor NVRTC is"
    raise DeviceCompilerError(
        f"{missing} on this machine: kernels cannot be compiled for GPUs. Install the CUDA toolkit "
        "(nvcc on the PATH, or CUDA_HOME), or: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime "
        "nvidia-cuda-crt"
    )


_ENTRY = re.compile(
    r"Compiling entry function '(\w+)'.*?"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
    r"Used (\d+) registers([^\n]*)",
    re.DOTALL,
)
_SHARED = re.compile(r"(\d+) bytes smem")


def read_usage(text: str) -> list[Usage]:
    """Return what the assembler says of each kernel (its option -v)."""
    usages = []
    for function, stack, stores, loads, registers, rest in _ENTRY.findall(text):
        shared = _SHARED.search(rest)
        usages.append(
            Usage(
                function,
                int(registers),
                int(stack),
                int(stores),
                int(loads),
                int(shared[1]) if shared else 0,
            )
        )
    return usages


def _options(architecture: str, macros: Iterable[str], folders: Sequence[Path]) -> list[str]:
    return [
        f"--gpu-architecture={architecture}",
        "--std=c++17",
        "--ptxas-options=-v",
        *(f"-I{folder}" for folder in folders),
        *(f"-D{macro}" for macro in macros),
    ]


class Nvcc:
    """The compiler of the CUDA toolkit."""

    def __init__(self, path: str) -> None:
        self._path = path
        output = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
        version = re.search(r"V([\d.]+)", output)
        self.name = f"nvcc {version[1] if version else 'of unknown version'}"

    def compile(self, path: Path, architecture: str, macros: Iterable[str]) -> list[Usage]:
        """Compile for one architecture by the program nvcc; return what each kernel uses."""
        with tempfile.TemporaryDirectory() as folder:
            options = _options(architecture, macros, [path.parent, FOLDER])
            output = ["-cubin", "-o", f"{folder}/kernel.cubin"]
            command = [self._path, *options, *output, str(path)]
            result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            raise DeviceCompilerError(result.stderr.strip())
        return read_usage(result.stderr)


class Nvrtc:
    """The run-time compiler, which CuPy uses too; it needs no CUDA toolkit and no host compiler."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.name = f"NVRTC {major.value}.{minor.value}"
        self._headers = _header_folders(path)

    def compile(self, path: Path, architecture: str, macros: Iterable[str]) -> list[Usage]:
        """Compile for one architecture in this process; return what each kernel uses."""
        program = ctypes.c_void_p()
        source = path.read_bytes()
        name = path.name.encode()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source, name, 0, None, None)
        try:
            folders = [path.parent, FOLDER, *self._headers]
            options = [each.encode() for each in _options(architecture, macros, folders)]
            array = (ctypes.c_char_p * len(options))(*options)
            status = self._library.nvrtcCompileProgram(program, len(options), array)
            log = self._log(program)
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))
        if status != 0:
            reason = self._library.nvrtcGetErrorString(status).decode()
            raise DeviceCompilerError(f"{reason}\n{log}".strip())
        return read_usage(log)

    def _log(self, program: ctypes.c_void_p) -> str:
        size = ctypes.c_size_t()
        self._call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call("nvrtcGetProgramLog", program, buffer)
        return buffer.value.decode()

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            reason = self._library.nvrtcGetErrorString(status).decode()
            raise DeviceCompilerError(f"{function} of NVRTC failed: {reason}")


def _find_nvcc() -> str | None:
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    places = os.pathsep.join(str(Path(home) / "bin") for home in homes if home)
    return shutil.which("nvcc") or (shutil.which("nvcc", path=places) if places else None)


def _wheel_folders() -> list[Path]:
    """Return the folder that NVIDIA's wheels share, in each place where there is one."""
    found = importlib.util.find_spec("nvidia")
    return [Path(each) for each in (found.submodule_search_locations if found else None) or []]


def _find_nvrtc() -> Path | None:
    libraries = [each for folder in _wheel_folders() for each in folder.glob("**/libnvrtc.so.*")]
    return max((each for each in libraries if ".alt." not in each.name), default=None)


def _header_folders(library: Path) -> list[Path]:
    """Return the folders of the wheels' headers, those beside the library first."""
    folders = sorted(
        {
            header.parent
            for folder in _wheel_folders()
            for header in folder.glob("**/include/cuda_bf16.h")
        }
    )
    return sorted(folders, key=lambda each: each.parent != library.parent.parent)
