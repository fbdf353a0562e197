"""Runs CUDA kernels on the CPU, for tests and debuggers, on machines without a GPU.

    launcher = Launcher(CpuExecutor("check"))
    launcher.run(Launch(Kernel("layernorm", "layernorm_forward"), ...))  # with NumPy arrays

See docs/cuda-on-cpu.md.
"""

from tinygrad_char.kernels.cuda_on_cpu.runner.errors import KernelError, RunnerError
from tinygrad_char.kernels.cuda_on_cpu.runner.executor import CpuExecutor

__all__ = ["CpuExecutor", "KernelError", "RunnerError"]
