"""Carries out launches on a GPU through CuPy, which compiles each kernel once per device."""

import hashlib
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.forks import renew_in_forked_children
from tinygrad_char.kernels.cuda.launcher import FOLDER, Kernel, Launch, Limits

WITHOUT_OPT_IN = 48 * 1024
"""The dynamic shared memory, in bytes, beyond which a kernel has to ask for more."""


class CupyExecutor:
    """Runs kernels on the current device and stream of CuPy, the module that it is given."""

    def __init__(self, cupy: Any) -> None:
        self.array_type: type[Array] = cupy.ndarray
        self._cupy = cupy
        self._modules: dict[tuple[Any, ...], Any] = {}
        self._functions: dict[tuple[int, Kernel], Any] = {}
        self._limits: dict[tuple[int, Kernel], Limits] = {}
        self._granted: dict[tuple[int, Kernel], int] = {}
        self.renew()
        renew_in_forked_children(self)

    def renew(self) -> None:
        """Take a new lock, see kernels/cpu/forks.py."""
        self._lock = Lock()

    def limits(self, kernel: Kernel) -> Limits:
        """Compile the kernel for the current device, unless that is done; return its limits."""
        key = (self._cupy.cuda.runtime.getDevice(), kernel)
        if key not in self._limits:
            function = self._function(kernel)
            device = self._cupy.cuda.Device()
            self._limits[key] = Limits(
                threads=function.max_threads_per_block,
                static_shared_bytes=function.shared_size_bytes,
                shared_bytes=device.attributes["MaxSharedMemoryPerBlockOptin"],
            )
        return self._limits[key]

    def run(self, launch: Launch) -> None:
        """Launch on the current stream, without waiting for the result."""
        function = self._function(launch.kernel)
        if launch.shared_bytes > WITHOUT_OPT_IN:
            self._grant(launch, function)
        arguments = tuple(np.uint64(0) if each is None else each for each in launch.arguments)
        function(launch.grid, launch.block, arguments, shared_mem=launch.shared_bytes)

    def _grant(self, launch: Launch, function: Any) -> None:
        key = (self._cupy.cuda.runtime.getDevice(), launch.kernel)
        if launch.shared_bytes > self._granted.get(key, WITHOUT_OPT_IN):
            function.max_dynamic_shared_size_bytes = launch.shared_bytes
            self._granted[key] = launch.shared_bytes

    def _function(self, kernel: Kernel) -> Any:
        key = (self._cupy.cuda.runtime.getDevice(), kernel)
        function = self._functions.get(key)
        if function is None:
            with self._lock:
                function = self._module(kernel, key[0]).get_function(kernel.function)
                self._functions[key] = function
        return function

    def _module(self, kernel: Kernel, device: int) -> Any:
        key = (device, kernel.path, kernel.defines)
        if key not in self._modules:
            self._modules[key] = self._cupy.RawModule(
                code=kernel.path.read_text(encoding="utf-8"),
                options=(
                    "--std=c++17",
                    *(f"-I{folder}" for folder in (kernel.path.parent, FOLDER)),
                    f"-DHEADERS={_headers(kernel.path.parent)}",
                    *(f"-D{name}={value}" for name, value in kernel.defines),
                ),
            )
        return self._modules[key]


@cache
def _headers(folder: Path) -> str:
    """Return a digest of the headers, which CuPy's cache of compiled kernels does not look into."""
    headers = {*folder.glob("*.cuh"), *FOLDER.glob("*.cuh")}
    texts = [each.read_bytes() for each in sorted(headers)]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:16]
