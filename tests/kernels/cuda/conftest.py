"""The CUDA kernels, executed on the CPU: quickly, or with every access checked."""

import pytest

from kernels.launcher import Launcher
from kernels.runner import CpuExecutor, RunnerError
from kernels.runner.compiler import find_compiler


def _launcher(mode):
    try:
        find_compiler()
    except RunnerError as error:
        pytest.skip(str(error))
    return Launcher(CpuExecutor(mode))


@pytest.fixture(scope="session")
def launcher():
    return _launcher("fast")


@pytest.fixture(scope="session")
def checking_launcher():
    return _launcher("check")
