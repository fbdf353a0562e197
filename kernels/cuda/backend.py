"""The CUDA backend: the only module that imports CuPy."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.backend import Backend, DeviceError
from tinygrad_char.kernels.cpu.recorder import Recorder
from tinygrad_char.kernels.cuda.cublas import Handles, Products, load_library
from tinygrad_char.kernels.cuda.cupy_executor import CupyExecutor
from tinygrad_char.kernels.cuda.graph import Recorder as GraphRecorder
from tinygrad_char.kernels.cuda.launcher import Launcher
from tinygrad_char.kernels.cuda.operation import Device, Operation
from tinygrad_char.kernels.words import how_to_install

LEAST_CAPABILITY = 80
"""Compute capability 8.0: the first with bfloat16 and TF32 in its tensor cores."""


def load() -> Backend:
    """Return the CUDA backend.

    Raises
    ------
    DeviceError
        This machine has no CuPy, no driver, no GPU that can run the kernels, or no cuBLAS.
    """
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            "device 'cuda' needs CuPy, which is not installed: "
            f"{how_to_install('cuda13')} (or [cuda12] for an older driver), or use device 'cpu'"
        ) from error
    if not cupy.cuda.is_available():
        raise DeviceError(
            f"device 'cuda': CuPy {cupy.__version__} is installed but finds no NVIDIA driver or no "
            "GPU (see `nvidia-smi`); use device 'cpu'"
        )
    _check_capability(cupy)
    library = load_library()
    cupy.cuda.set_allocator(explaining(cupy, cupy.get_default_memory_pool()))
    return assemble(
        "cuda",
        cupy,
        cupy.ndarray,
        Launcher(CupyExecutor(cupy)),
        Products(library, Handles(library, cupy)),
        GraphRecorder(cupy, explaining),
    )


def assemble(
    name: str,
    xp: ModuleType,
    array_type: type[Array],
    launcher: Launcher,
    products: Products,
    recorder: Recorder,
) -> Backend:
    """Return a backend whose kernels run on the launcher and whose products are these."""
    device = Device(launcher, products)
    return Backend(
        name,
        xp,
        array_type,
        "cuda",
        lambda room, settings: Operation.of(room)(device, settings),
        recorder,
        device,
    )


def _check_capability(cupy: Any) -> None:
    capability = cupy.cuda.Device().compute_capability  # such as "90"
    if int(capability) < LEAST_CAPABILITY:
        number = cupy.cuda.runtime.getDevice()
        name = cupy.cuda.runtime.getDeviceProperties(number)["name"].decode()
        raise DeviceError(
            f"device 'cuda': {name} has compute capability {capability[:-1]}.{capability[-1:]}; "
            "the kernels need 8.0 or later (A100, RTX 30 series and what came after); use device "
            "'cpu'"
        )


def explaining(cupy: Any, pool: Any) -> Callable[[int], Any]:
    """Return the pool's allocator with an error that says what was asked, and what there is."""

    def allocate(size: int) -> Any:
        try:
            return pool.malloc(size)
        except cupy.cuda.memory.OutOfMemoryError as error:
            free, total = cupy.cuda.runtime.memGetInfo()
            raise DeviceError(
                f"out of memory on the GPU: {_mebibytes(size)} were asked for, of "
                f"{_mebibytes(total)} in all {_mebibytes(free)} are free and "
                f"{_mebibytes(pool.used_bytes())} hold arrays of this program; lower "
                "--batch-size, --block-size or --n-embd, split a batch with --accumulate, or end "
                "other programs on this GPU (see `nvidia-smi`)"
            ) from error

    return allocate


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
