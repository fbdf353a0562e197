"""Carries out launches on the CPU."""

from threading import Lock

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.forks import renew_in_forked_children
from tinygrad_char.kernels.cuda.launcher import Kernel, Launch, Limits
from tinygrad_char.kernels.cuda_on_cpu.runner.compiler import MODES
from tinygrad_char.kernels.cuda_on_cpu.runner.errors import RunnerError
from tinygrad_char.kernels.cuda_on_cpu.runner.guarded import GuardedArguments
from tinygrad_char.kernels.cuda_on_cpu.runner.library import ORDERS, Library
from tinygrad_char.kernels.words import choice

VARIABLE = "TINYGRAD_CHAR_RUNNER"
SHARED_BYTES = 227 * 1024
"""The shared memory of a block, as on an H100, H200 or B200."""


class CpuExecutor:
    """Runs kernels on NumPy arrays: one fiber per CUDA thread, one block after the other.

    `mode` is "fast", "check" (finds races, out-of-bounds and uninitialised accesses, misalignment
    and missing waits) or "debug" (for stepping through a kernel); the default is what the
    environment's TINYGRAD_CHAR_RUNNER says, or "fast". `order` is how blocks, warps and lanes are
    run: "forward", "reverse" or "random", by `seed`.

    Raises
    ------
    RunnerError
        The mode or the order is none of these.
    EnvironmentVariableError
        The mode that the environment names is none of these.
    """

    array_type: type[Array] = np.ndarray

    def __init__(self, mode: str | None = None, order: str = "forward", seed: int = 0) -> None:
        self.mode = mode or choice(VARIABLE, tuple(MODES), "fast")
        if self.mode not in MODES:
            raise RunnerError(f"mode {self.mode!r} of the runner: it is one of {', '.join(MODES)}")
        if order not in ORDERS:
            raise RunnerError(f"order {order!r} of the runner: it is one of {', '.join(ORDERS)}")
        self.order = order
        self.seed = seed
        self._libraries: dict[tuple[object, ...], Library] = {}
        self._limits: dict[Kernel, Limits] = {}
        self.renew()
        renew_in_forked_children(self)

    def renew(self) -> None:
        """Take a new lock, see kernels/cpu/forks.py."""
        self._lock = Lock()

    def limits(self, kernel: Kernel) -> Limits:
        """Compile the kernel, unless that is done, and return its limits.

        Raises
        ------
        RunnerError
            There is no C++ compiler, or the kernel does not compile.
        """
        if kernel not in self._limits:
            library = self._library(kernel)
            self._limits[kernel] = Limits(
                library.threads(kernel.function),
                library.static_shared_bytes(kernel.function),
                SHARED_BYTES,
            )
        return self._limits[kernel]

    def run(self, launch: Launch) -> None:
        """Run a launch to its end.

        Raises
        ------
        KernelError
            The kernel did something wrong.
        """
        library = self._library(launch.kernel)
        if self.mode != "check":
            library.run(launch, launch.arguments, self.order, self.seed)
            return
        guarded = GuardedArguments(launch.arguments)
        library.run(launch, guarded.arguments, self.order, self.seed)
        guarded.copy_back()

    def _library(self, kernel: Kernel) -> Library:
        key = (kernel.path, kernel.defines)
        with self._lock:
            if key not in self._libraries:
                self._libraries[key] = Library(kernel, self.mode)
            return self._libraries[key]
