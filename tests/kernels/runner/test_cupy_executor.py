"""What the executor for GPUs asks of CuPy, with a stand-in that takes note."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tinygrad_char.kernels.cuda import cupy_executor
from tinygrad_char.kernels.cuda.cupy_executor import CupyExecutor
from tinygrad_char.kernels.cuda.launcher import FOLDER, Kernel, Launch, Launcher, LaunchError

FILE = Path(__file__).with_name("launched.cu")


class Function:
    """A compiled kernel."""

    max_threads_per_block = 128
    shared_size_bytes = 464
    max_dynamic_shared_size_bytes = 0

    def __init__(self):
        self.calls = []

    def __call__(self, grid, block, arguments, *, shared_mem):
        self.calls.append((grid, block, arguments, shared_mem))


class FakeCupy:
    """As much of CuPy as launches need; its arrays are NumPy's."""

    ndarray = np.ndarray

    def __init__(self):
        self.device = 0
        self.modules = []
        self.functions = {}
        runtime = SimpleNamespace(getDevice=lambda: self.device)
        device = SimpleNamespace(attributes={"MaxSharedMemoryPerBlockOptin": 232448})
        self.cuda = SimpleNamespace(runtime=runtime, Device=lambda: device)

    def RawModule(self, **arguments):  # noqa: N802
        self.modules.append(arguments)
        module = len(self.modules)
        return SimpleNamespace(
            get_function=lambda name: self.functions.setdefault((module, name), Function())
        )


@pytest.fixture
def cupy():
    return FakeCupy()


def launch(launcher, function="unbounded", shared_bytes=0, block=(32,), defines=()):
    kernel = Kernel(FILE, function, defines)
    launcher.run(Launch(kernel, (2,), block, (np.zeros(4, np.float32),), shared_bytes))


def test_a_file_is_compiled_once_for_each_device_and_set_of_macros(cupy):
    launcher = Launcher(CupyExecutor(cupy))
    for _ in range(2):
        launch(launcher)
        launch(launcher, "larger")
    assert len(cupy.modules) == 1
    assert cupy.modules[0]["code"] == FILE.read_text()
    assert cupy.modules[0]["options"][:3] == ("--std=c++17", f"-I{FILE.parent}", f"-I{FOLDER}")
    launch(launcher, defines=(("BLOCK", 64),))
    assert cupy.modules[1]["options"][-1] == "-DBLOCK=64"
    cupy.device = 1
    launch(launcher)
    assert len(cupy.modules) == 3


def test_another_header_is_another_compilation(cupy, tmp_path, monkeypatch):
    """CuPy keeps what it has compiled by source and options, whatever the source includes."""
    options = []
    for text in ("", "// changed", ""):
        (tmp_path / "some.cuh").write_text(text)
        monkeypatch.setattr(cupy_executor, "FOLDER", tmp_path)
        cupy_executor._headers.cache_clear()
        launch(Launcher(CupyExecutor(cupy)))
        options.append(cupy.modules[-1]["options"])
    cupy_executor._headers.cache_clear()
    assert options[0] == options[2] != options[1]


def test_arguments_reach_the_kernel(cupy):
    x = np.zeros(4, np.float32)
    kernel = Kernel(FILE, "unbounded")
    Launcher(CupyExecutor(cupy)).run(Launch(kernel, (2, 3), (8, 4), (x,), 128))
    assert cupy.functions[1, "unbounded"].calls == [((2, 3), (8, 4), (x,), 128)]


def test_a_null_pointer_is_eight_bytes_of_zero(cupy):
    Launcher(CupyExecutor(cupy)).run(Launch(Kernel(FILE, "unbounded"), (1,), (1,), (None,)))
    (argument,) = cupy.functions[1, "unbounded"].calls[0][2]
    assert argument == 0
    assert argument.nbytes == 8


def test_more_than_48_kib_of_dynamic_shared_memory_are_asked_for(cupy):
    launcher = Launcher(CupyExecutor(cupy))
    launch(launcher, shared_bytes=48 * 1024)
    function = cupy.functions[1, "unbounded"]
    assert function.max_dynamic_shared_size_bytes == 0
    launch(launcher, shared_bytes=100_000)
    assert function.max_dynamic_shared_size_bytes == 100_000
    launch(launcher, shared_bytes=60_000)
    assert function.max_dynamic_shared_size_bytes == 100_000


def test_launches_are_checked_against_the_compiled_kernel_and_the_device(cupy):
    launcher = Launcher(CupyExecutor(cupy))
    with pytest.raises(LaunchError, match="has 129 threads, more than the 128"):
        launch(launcher, block=(129,))
    with pytest.raises(LaunchError, match="232000 bytes of dynamic and 464 of static"):
        launch(launcher, shared_bytes=232_000)
    assert cupy.functions[1, "unbounded"].calls == []
