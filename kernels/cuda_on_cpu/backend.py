"""The backend "cuda-on-cpu": the CUDA kernels and the calls of cuBLAS, executed on the CPU."""

from functools import partial

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.backend import Backend, DeviceError
from tinygrad_char.kernels.cuda.backend import assemble
from tinygrad_char.kernels.cuda.cublas import Products
from tinygrad_char.kernels.cuda.launcher import Kernel, Launch, Launcher, Limits
from tinygrad_char.kernels.cuda_on_cpu.device_array import NAMESPACE, DeviceArray, Recorder, perform
from tinygrad_char.kernels.cuda_on_cpu.numpy_cublas import NumpyCublas
from tinygrad_char.kernels.cuda_on_cpu.runner import CpuExecutor, RunnerError, compiler


def load() -> Backend:
    """Return the backend.

    Raises
    ------
    DeviceError
        This machine has no C++ compiler to compile the kernels with.
    """
    try:
        compiler.find_compiler()
        executor = CpuExecutor()
    except RunnerError as error:
        raise DeviceError(f"device 'cuda-on-cpu': {error}") from error
    return assemble(
        "cuda-on-cpu",
        NAMESPACE,
        DeviceArray,
        Launcher(RecordedExecutor(executor)),
        Products(NumpyCublas(perform), lambda: None),
        Recorder(),
    )


class RecordedExecutor:
    """Runs kernels with another executor, now or when a recording is repeated."""

    array_type: type[Array] = DeviceArray

    def __init__(self, executor: CpuExecutor) -> None:
        self.executor = executor

    def limits(self, kernel: Kernel) -> Limits:
        """Compile the kernel, unless that is done, and return its limits."""
        return self.executor.limits(kernel)

    def run(self, launch: Launch) -> None:
        """Run a launch, or note it where a recorder records."""
        perform(partial(self.executor.run, launch))
