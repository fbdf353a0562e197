"""What the tests of the runner share: compiled files, and a compiler to compile them with."""

from pathlib import Path

import pytest

from tinygrad_char.kernels.cuda.launcher import Kernel, Launch, Launcher
from tinygrad_char.kernels.cuda_on_cpu.runner import CpuExecutor, RunnerError
from tinygrad_char.kernels.cuda_on_cpu.runner.compiler import find_compiler

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def executors():
    """Return a function that gives the executor of a mode, an order and a seed."""
    try:
        find_compiler()
    except RunnerError as error:
        pytest.skip(str(error))
    known = {}

    def executor(mode="fast", order="forward", seed=0):
        key = (mode, order, seed)
        if key not in known:
            known[key] = CpuExecutor(mode, order, seed)
        return known[key]

    return executor


@pytest.fixture(scope="session")
def launch(executors):
    """Return a function that launches a kernel of this folder."""

    def run(file, function, grid, block, *arguments, shared_bytes=0, defines=(), **how):
        kernel = Kernel(FOLDER / f"{file}.cu", function, defines)
        request = Launch(kernel, grid, block, arguments, shared_bytes)
        Launcher(executors(**how)).run(request)

    return run
