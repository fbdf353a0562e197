"""The CUDA kernels, executed on the CPU: quickly, or with every access checked."""

from functools import cache

import pytest

from tinygrad_char.kernels.cuda.cublas import Products
from tinygrad_char.kernels.cuda.launcher import Launcher
from tinygrad_char.kernels.cuda.variants import variants
from tinygrad_char.kernels.cuda_on_cpu.numpy_cublas import NumpyCublas
from tinygrad_char.kernels.cuda_on_cpu.runner import CpuExecutor, RunnerError
from tinygrad_char.kernels.cuda_on_cpu.runner.compiler import find_compiler


def _launcher(mode):
    try:
        find_compiler()
    except RunnerError as error:
        pytest.skip(str(error))
    return Launcher(CompiledExecutor(mode))


class CompiledExecutor(CpuExecutor):
    """Runs only what the compile gate compiles for GPUs, too."""

    def limits(self, kernel):
        assert kernel.defines in _variants(kernel.path)
        return super().limits(kernel)


@cache
def _variants(path):
    return set(variants(path.read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def launcher():
    return _launcher("fast")


@pytest.fixture(scope="session")
def checking_launcher():
    return _launcher("check")


@pytest.fixture
def products():
    return Products(NumpyCublas(lambda action: action()), lambda: None)
