"""Kernels are compiled once, by any number of processes, and errors say what to do."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tinygrad_char.kernels.cuda.launcher import Kernel, Launch, Launcher
from tinygrad_char.kernels.cuda_on_cpu.runner import CpuExecutor, RunnerError, compiler
from tinygrad_char.kernels.cuda_on_cpu.runner import cache as runner_cache
from tinygrad_char.kernels.cuda_on_cpu.runner.guarded import GuardedArguments

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[2]
PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from tinygrad_char.kernels.cuda.launcher import Kernel, Launch, Launcher
from tinygrad_char.kernels.cuda_on_cpu.runner import CpuExecutor

x = np.arange(4, dtype=np.float32)
kernel = Kernel(Path(sys.argv[1]), "doubled")
Launcher(CpuExecutor("fast")).run(Launch(kernel, (1,), (4,), (x,)))
assert list(x) == [0, 2, 4, 6]
"""
DOUBLED = 'extern "C" __global__ void doubled(float* x) { x[threadIdx.x] *= FACTOR; }\n'


@pytest.fixture
def cache(executors, tmp_path, monkeypatch):
    """Return a cache folder with nothing in it but the runtime, which takes a while to compile."""
    executors()
    runtime = compiler.build_runtime("fast")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = runner_cache.cache_folder()
    folder.mkdir(parents=True)
    (folder / runtime.name).symlink_to(runtime)
    return folder


def kernels_in(cache):
    return sorted(
        each.name for each in cache.iterdir() if not each.is_symlink() and each.name != "lock"
    )


def double(folder, text, defines=()):
    (folder / "doubled.cu").write_text(text)
    x = np.ones(4, np.float32)
    kernel = Kernel(folder / "doubled.cu", "doubled", defines)
    Launcher(CpuExecutor("fast")).run(Launch(kernel, (1,), (4,), (x,)))
    return x[0]


def test_a_kernel_is_compiled_once_for_each_text_and_set_of_macros(cache, tmp_path):
    assert double(tmp_path, DOUBLED, (("FACTOR", 2),)) == 2
    once = kernels_in(cache)
    assert double(tmp_path, DOUBLED, (("FACTOR", 2),)) == 2
    assert kernels_in(cache) == once
    assert len(once) == 1
    assert double(tmp_path, DOUBLED, (("FACTOR", 3),)) == 3
    assert len(kernels_in(cache)) == 2


def test_an_included_file_is_part_of_the_text(cache, tmp_path):
    text = '#include "factor.cuh"\n' + DOUBLED
    for factor in (5, 6):
        (tmp_path / "factor.cuh").write_text(f"#define FACTOR {factor}\n")
        assert double(tmp_path, text) == factor
    assert len(kernels_in(cache)) == 2


def test_several_processes_may_compile_the_same_kernel_at_once(cache, tmp_path):
    file = tmp_path / "doubled.cu"
    file.write_text(DOUBLED.replace("FACTOR", "2"))
    command = [sys.executable, "-c", PROGRAM, str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(4)
    ]
    errors = [process.communicate()[1].decode() for process in processes]
    assert errors == [""] * 4
    assert len(kernels_in(cache)) == 1


def test_a_kernel_that_does_not_compile_says_where(cache, tmp_path):
    with pytest.raises(RunnerError, match=r"cannot compile the kernel:(.|\n)*doubled\.cu:1:.*FACT"):
        double(tmp_path, DOUBLED)
    assert kernels_in(cache) == []


def test_a_kernel_that_the_preprocessor_removes_is_not_overlooked(cache, tmp_path):
    with pytest.raises(RunnerError, match=r"doubled.* was not declared"):
        double(tmp_path, f"#if 0\n{DOUBLED}#endif\n")


def test_shared_arrays_with_constructors_are_refused(cache, tmp_path):
    text = """
struct Guarded { float value; Guarded() = default; Guarded(float x) : value(x) {} };
extern "C" __global__ void doubled(float* x) {
    __shared__ Guarded all[4];
    all[threadIdx.x].value = x[threadIdx.x];
}
"""
    with pytest.raises(RunnerError, match="shared array all of doubled has elements with constr"):
        double(tmp_path, text)


def test_a_machine_without_a_compiler_is_told_so(monkeypatch):
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    compiler.find_compiler.cache_clear()
    try:
        with pytest.raises(RunnerError, match=r"needs a C\+\+ compiler, and none of g\+\+, clang"):
            CpuExecutor().limits(Kernel(FOLDER / "launched.cu", "scale"))
        monkeypatch.setenv("CXX", "none++")
        with pytest.raises(RunnerError, match=r"CXX=none\+\+ is not one: install one"):
            compiler.find_compiler()
        monkeypatch.setattr(sys, "platform", "darwin")
        with pytest.raises(RunnerError, match="needs Linux, not darwin; use device 'cpu'"):
            compiler.find_compiler()
    finally:
        compiler.find_compiler.cache_clear()


def test_a_cache_that_cannot_be_written_is_named(executors, tmp_path, monkeypatch):
    executors()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RunnerError, match=r"cannot be kept in .*file/.*set XDG_CACHE_HOME"):
        compiler.build_runtime("fast")


@pytest.mark.parametrize("mode", ["fast", "check"])
def test_the_portable_switch_of_fibers_does_the_same(executors, mode, monkeypatch):
    executors()
    flags = [*compiler.COMMON_FLAGS, "-DCUDA_ON_CPU_UCONTEXT"]
    monkeypatch.setattr(compiler, "COMMON_FLAGS", flags)
    kernel = Kernel(FOLDER / "clean.cu", "around_the_warp")
    values = np.arange(64, dtype=np.float32)
    Launcher(CpuExecutor(mode)).run(Launch(kernel, (1,), (64,), (values,)))
    np.testing.assert_array_equal(values, np.arange(64))


def test_debug_mode_computes_the_same(executors):
    executors()
    values = np.arange(64, dtype=np.float32)
    kernel = Kernel(FOLDER / "clean.cu", "halves_of_a_warp")
    Launcher(CpuExecutor("debug")).run(Launch(kernel, (1,), (64,), (values,)))
    np.testing.assert_array_equal(values, np.arange(64) ^ 2)


@pytest.mark.parametrize("mode", ["fast", "check"])
def test_several_threads_may_launch_at_once(executors, mode):
    launcher = Launcher(executors(mode))

    def double(number):
        x = np.full(64, number, np.float32)
        kernel = Kernel(FOLDER / "clean.cu", "sum_of_squares")
        out = np.empty(2, np.float32)
        launcher.run(Launch(kernel, (2,), (64,), (np.append(x, x), out, np.int32(64))))
        return out

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(double, range(40)))
    np.testing.assert_array_equal(results, [[64 * n * n] * 2 for n in range(40)])


def test_guarded_copies_keep_overlaps_and_alignment_and_come_back():
    flat = np.arange(100, dtype=np.float32)
    whole, part, apart = flat[:40], flat[30:50], flat[60:70]
    guarded = GuardedArguments([whole, np.int32(3), None, part, apart])
    copies = guarded.arguments
    assert copies[1] == 3
    assert copies[2] is None
    for copy, original in zip(copies[::3], (whole, part), strict=True):
        np.testing.assert_array_equal(copy, original)
        assert (copy.ctypes.data - original.ctypes.data) % 256 == 0
    copies[0][35] = -1
    assert copies[3][5] == -1
    distance = copies[4].ctypes.data - copies[3].ctypes.data
    assert abs(distance) > 64 * 1024
    copies[4][:] = 7
    guarded.copy_back()
    assert flat[35] == -1
    assert list(flat[59:61]) == [59, 7]
