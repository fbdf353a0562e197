"""The one launcher of CUDA kernels: a launch is a value, checked before anything runs.

    scale = Kernel("scale", "scale_forward")  # kernels/scale.cu, the function scale_forward
    launch = Launch(scale, grid=(8,), block=(128,), arguments=(x, y, np.float32(2), np.int32(1000)))
    Launcher(CpuExecutor()).run(launch)       # kernels/cuda_on_cpu/runner: NumPy arrays, no GPU
    Launcher(CupyExecutor(cupy)).run(launch)  # kernels/cuda/cupy_executor.py: CuPy arrays

where scale.cu declares

    extern "C" __global__ void __launch_bounds__(128)
    scale_forward(const float* __restrict__ x, float* __restrict__ y, float factor, int n)

Arrays go with pointers, NumPy scalars of exactly the declared width with scalars, None is a null
pointer. Constants of the kernel are macros: Kernel("scale", "scale_forward", (("UNROLL", 4),)). The
values that they may have stand in a comment of scale.cu, `Variants: UNROLL=1|4`, so that
`python -m tinygrad_char.kernels.cuda.compile` compiles all of them (kernels/cuda/variants.py).
"""

from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.forks import cached_property
from tinygrad_char.kernels.cuda.signature import Parameter, Signature, SignatureError, signatures_of
from tinygrad_char.kernels.operations import operations

FOLDER = Path(__file__).resolve().parent
"""Of the headers that kernels share."""
MOST_BLOCKS = (2**31 - 1, 65535, 65535)
MOST_THREADS = (1024, 1024, 64)

Argument = Array | np.generic | None
"""An array, a NumPy scalar, or None for a null pointer."""


def sources(name: str = "*.cu") -> list[Path]:
    """Return the files of CUDA kernels, in the folders of the operations and in this one."""
    folders = [FOLDER, *(room.folder for room in operations().values())]
    return sorted(path for folder in folders for path in folder.glob(name))


class LaunchError(ValueError):
    """A launch does not fit its kernel or the device."""


@dataclass(frozen=True)
class Kernel:
    """One kernel: the stem of its file in `kernels/` (or a path), its name, and its macros."""

    source: str | Path
    function: str
    defines: tuple[tuple[str, int | str], ...] = ()

    @cached_property
    def _hash(self) -> int:
        return hash((self.source, self.function, self.defines))

    def __hash__(self) -> int:
        return self._hash  # kernels are looked up at every launch

    @cached_property
    def path(self) -> Path:
        """The file that holds the kernel."""
        if isinstance(self.source, Path):
            return self.source
        return next(iter(sources(f"{self.source}.cu")), FOLDER / f"{self.source}.cu")

    @cached_property
    def signature(self) -> Signature:
        """What the kernel takes.

        Raises
        ------
        LaunchError
            There is no such file, or no such kernel in it.
        """
        try:
            found = signatures_of(self.path, self.defines)
        except SignatureError as error:
            raise LaunchError(str(error)) from error
        if self.function not in found:
            raise LaunchError(
                f"{self.path.name} has no kernel {self.function!r}: it has {', '.join(found)}"
            )
        return found[self.function]


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch: which kernel, on how many blocks of how many threads, with which arguments.

    `grid` and `block` have one to three sizes; `shared_bytes` is the dynamic shared memory.
    """

    kernel: Kernel
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Argument, ...]
    shared_bytes: int = 0


@dataclass(frozen=True)
class Limits:
    """What a compiled kernel can be launched with: its launch bounds and the shared memory.

    `shared_bytes` is what one block of the device can hold, `static_shared_bytes` what the kernel
    takes of it before any dynamic shared memory.
    """

    threads: int
    static_shared_bytes: int
    shared_bytes: int


class Executor(Protocol):
    """What carries out launches: CuPy on a GPU, or the runner on the CPU."""

    array_type: type[Array]

    def limits(self, kernel: Kernel) -> Limits:
        """Compile the kernel, unless that is done, and return its limits."""

    def run(self, launch: Launch) -> None:
        """Carry out a launch that has been checked."""


class Launcher:
    """Checks launches and hands them to an executor."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def run(self, launch: Launch) -> None:
        """Carry out a launch; one with an empty grid does nothing.

        Raises
        ------
        LaunchError
            The launch does not fit the kernel's declaration or limits; nothing has run.
        """
        check_arguments(launch, self.executor.array_type)
        check_sizes(launch)
        check_limits(launch, self.executor.limits(launch.kernel))
        if 0 not in launch.grid:
            self.executor.run(launch)


def check_arguments(launch: Launch, array_type: type[Array]) -> None:
    """Compare the arguments with the kernel's parameters.

    Raises
    ------
    LaunchError
        Their number, a kind (array or scalar), a dtype, or an array's memory layout is wrong.
    """
    signature = launch.kernel.signature
    parameters = signature.parameters
    if len(launch.arguments) != len(parameters):
        raise LaunchError(
            f"kernel {signature.name} takes {len(parameters)} arguments "
            f"({', '.join(each.name for each in parameters)}), not {len(launch.arguments)}"
        )
    for parameter, argument in zip(parameters, launch.arguments, strict=True):
        problem = _problem(parameter, argument, array_type)
        if problem:
            raise LaunchError(
                f"kernel {signature.name}, argument `{parameter.declaration} {parameter.name}`: "
                f"{problem}"
            )


def _problem(parameter: Parameter, argument: Argument, array_type: type[Array]) -> str | None:
    if not parameter.pointer:
        if isinstance(argument, np.generic) and _name(argument.dtype) == parameter.dtype:
            return None
        return f"got {_text(argument)}; give a numpy.{parameter.dtype} scalar"
    if argument is None:
        return None
    if not isinstance(argument, array_type):
        return f"got {_text(argument)}; give an array of type {array_type.__name__}"
    return _array_problem(parameter, argument)


@cache
def _name(dtype: np.dtype) -> str:
    return dtype.name


def _text(argument: object) -> str:
    shape = getattr(argument, "shape", ())
    return f"{f'shape {shape}' if shape else argument} of type {type(argument).__name__}"


def _array_problem(parameter: Parameter, array: Array) -> str | None:
    if _name(array.dtype) != parameter.dtype:
        return f"got an array of dtype {array.dtype.name}; give {parameter.dtype}"
    if not array.flags.c_contiguous:
        return (
            f"got an array of shape {array.shape} with strides {array.strides}, which is not "
            "C-contiguous; copy it with ascontiguousarray"
        )
    if not parameter.const and not getattr(array.flags, "writeable", True):
        return "got a read-only array for a pointer that the kernel may write through; copy it"
    return None


def check_sizes(launch: Launch) -> None:
    """Compare grid and block with what CUDA can launch at all.

    Raises
    ------
    LaunchError
        A size is missing, not an integer, negative, zero threads, or beyond CUDA's largest.
    """
    for name, sizes, least, most in (
        ("grid", launch.grid, 0, MOST_BLOCKS),
        ("block", launch.block, 1, MOST_THREADS),
    ):
        if not 1 <= len(sizes) <= 3 or not all(isinstance(each, int) for each in sizes):
            raise LaunchError(
                f"kernel {launch.kernel.function}: {name} is {sizes!r}; give one to three ints"
            )
        if not all(least <= size <= limit for size, limit in zip(sizes, most, strict=False)):
            raise LaunchError(
                f"kernel {launch.kernel.function}: {name} is {sizes}; "
                f"each size is at least {least} and at most {most[: len(sizes)]}"
            )


def check_limits(launch: Launch, limits: Limits) -> None:
    """Compare the block with the kernel's launch bounds and the device's shared memory.

    Raises
    ------
    LaunchError
        The block has too many threads, or takes more shared memory than a block can have.
    """
    threads = prod(launch.block)
    if threads > limits.threads:
        raise LaunchError(
            f"kernel {launch.kernel.function}: a block of {launch.block} has {threads} threads, "
            f"more than the {limits.threads} that its launch bounds (or registers) allow"
        )
    static, dynamic = limits.static_shared_bytes, launch.shared_bytes
    if dynamic < 0 or static + dynamic > limits.shared_bytes:
        raise LaunchError(
            f"kernel {launch.kernel.function}: {dynamic} bytes of dynamic and {static} of static "
            f"shared memory; a block has {limits.shared_bytes}"
        )
