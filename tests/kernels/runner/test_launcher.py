"""The launcher refuses each kind of wrong launch, for any executor, before anything runs."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels.cuda.launcher import Kernel, Launch, Launcher, LaunchError, Limits
from tinygrad_char.kernels.cuda_on_cpu.runner import CpuExecutor, RunnerError

FILE = Path(__file__).with_name("launched.cu")
f32, i32 = np.float32, np.int32


class Recorder:
    """An executor that only takes note."""

    array_type = np.ndarray

    def __init__(self):
        self.ran = []

    def limits(self, kernel):
        return Limits(threads=256, static_shared_bytes=1000, shared_bytes=232448)

    def run(self, launch):
        self.ran.append(launch)


def arguments(**changes):
    values = {
        "x": np.zeros(8, f32),
        "y": np.zeros(8, f32),
        "half": np.zeros(8, ml_dtypes.bfloat16),
        "factor": f32(2),
        "n": i32(8),
        "count": np.int64(8),
    }
    return tuple({**values, **changes}.values())


def launch(values=None, grid=(1,), block=(32,), shared_bytes=0, function="scale", file=FILE):
    recorder = Recorder()
    values = arguments() if values is None else values
    Launcher(recorder).run(Launch(Kernel(file, function), grid, block, values, shared_bytes))
    return len(recorder.ran)


def test_a_right_launch_runs():
    assert launch() == 1
    assert launch(grid=(2, 3, 4), block=(2, 3, 4), shared_bytes=1024) == 1


def test_null_pointers_and_empty_arrays_run():
    assert launch(arguments(x=None, half=np.zeros((0, 3), ml_dtypes.bfloat16))) == 1


def test_an_empty_grid_does_nothing():
    assert launch(grid=(0,)) == 0


WRONG = {
    "a Python int": ({"n": 8}, r"`int n`: got 8 of type int; give a numpy.int32 scalar"),
    "a Python float": ({"factor": 2.0}, r"`float factor`: got 2.0 of type float"),
    "a wider int": ({"n": np.int64(8)}, r"`int n`: got .*8.* of type int64"),
    "a narrower int": ({"count": i32(8)}, r"`long long count`: .*give a numpy.int64 scalar"),
    "an unsigned int": ({"n": np.uint32(8)}, r"`int n`: .*of type uint32"),
    "a float for an int": ({"n": f32(8)}, r"`int n`: .*of type float32"),
    "a wider float": ({"factor": np.float64(2)}, r"`float factor`: .*of type float64"),
    "an array for a scalar": (
        {"n": np.zeros(3, i32)},
        r"`int n`: got shape \(3,\) of type ndarray",
    ),
    "a scalar for an array": ({"x": f32(1)}, r"`const float\* x`: .*give an array of type ndarray"),
    "a list for an array": ({"x": [1.0]}, r"`const float\* x`: got \[1.0\] of type list"),
    "another dtype": ({"x": np.zeros(8)}, "an array of dtype float64; give float32"),
    "bits of bfloat16": ({"half": np.zeros(8, np.uint16)}, "dtype uint16; give bfloat16"),
    "a strided view": ({"y": np.zeros(16, f32)[::2]}, r"strides \(8,\), which is not C-contig"),
    "a transposed view": ({"x": np.zeros((2, 3), f32).T}, r"shape \(3, 2\).*not C-contiguous"),
    "None for a scalar": ({"n": None}, "got None of type NoneType"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused(case):
    changes, message = WRONG[case]
    with pytest.raises(LaunchError, match=f"kernel scale, argument .*{message}"):
        launch(arguments(**changes))


def test_read_only_arrays_are_refused_where_the_kernel_writes():
    frozen = np.zeros(8, f32)
    frozen.flags.writeable = False
    assert launch(arguments(x=frozen)) == 1
    with pytest.raises(LaunchError, match=r"`float\* y`: got a read-only array"):
        launch(arguments(y=frozen))


@pytest.mark.parametrize("count", [0, 5, 7])
def test_a_wrong_number_of_arguments_is_refused(count):
    values = (*arguments(), i32(1))[:count]
    with pytest.raises(LaunchError, match=rf"takes 6 arguments \(x, y, half.*\), not {count}"):
        launch(values)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"grid": ()}, "grid is (); give one to three ints"),
        ({"grid": (1, 1, 1, 1)}, "grid is (1, 1, 1, 1); give one to three ints"),
        ({"grid": (1.0,)}, "grid is (1.0,); give one to three ints"),
        ({"grid": (-1,)}, "grid is (-1,); each size is at least 0"),
        ({"grid": (1, 65536)}, "grid is (1, 65536); each size is at least 0 and at most"),
        ({"grid": (2**31,)}, "grid is (2147483648,)"),
        ({"block": (0,)}, "block is (0,); each size is at least 1"),
        ({"block": (1025,)}, "block is (1025,)"),
        ({"block": (1, 1, 65)}, "block is (1, 1, 65)"),
        ({"block": (257,)}, "a block of (257,) has 257 threads, more than the 256"),
        ({"block": (16, 17)}, "a block of (16, 17) has 272 threads"),
        ({"shared_bytes": 231449}, "231449 bytes of dynamic and 1000 of static shared memory"),
        ({"shared_bytes": -1}, "-1 bytes of dynamic"),
    ],
)
def test_wrong_sizes_are_refused(sizes, message):
    with pytest.raises(LaunchError) as caught:
        launch(**sizes)
    assert message in str(caught.value)


def test_an_unknown_kernel_or_file_is_refused():
    with pytest.raises(LaunchError, match=r"launched.cu has no kernel 'scales': it has scale"):
        launch(function="scales")
    with pytest.raises(LaunchError, match=r"there is no file .*nothing.cu"):
        launch(file=FILE.with_name("nothing.cu"))


def test_a_stem_names_a_file_of_a_room_or_beside_the_launcher():
    path = Kernel("layernorm", "layernorm_forward").path
    assert path.name == "layernorm.cu"
    assert (path.parent / "reference.py").is_file()
    assert path.parent.name == "layernorm"
    path = Kernel("column_sum", "column_sum").path
    assert path.name == "column_sum.cu"
    assert (path.parent / "launcher.py").is_file()


def test_the_runner_takes_launch_bounds_and_shared_memory_from_the_kernel(executors):
    # The array of a function counts for each kernel of the file, since each may call it.
    limits = executors().limits(Kernel(FILE, "scale", (("BLOCK", 96),)))
    assert limits == Limits(threads=96, static_shared_bytes=64, shared_bytes=227 * 1024)
    limits = executors().limits(Kernel(FILE, "unbounded"))
    assert limits == Limits(threads=1024, static_shared_bytes=400 + 64, shared_bytes=227 * 1024)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(0, 200), block=st.integers(1, 96))
def test_the_runner_runs_what_passes(executors, n, block):
    x = np.random.default_rng(n).standard_normal(n).astype(f32)
    y, half = np.empty(n, f32), np.empty(n, ml_dtypes.bfloat16)
    values = (x, y, half, f32(3), i32(n), np.int64(n))
    kernel = Kernel(FILE, "scale", (("BLOCK", 96),))
    Launcher(executors()).run(Launch(kernel, (-(-n // block),), (block,), values))
    np.testing.assert_array_equal(y, x * f32(3))
    np.testing.assert_array_equal(half, y.astype(ml_dtypes.bfloat16))


def test_unknown_modes_and_orders_are_refused(monkeypatch):
    with pytest.raises(RunnerError, match="mode 'slow' of the runner: it is one of fast, check"):
        CpuExecutor("slow")
    with pytest.raises(RunnerError, match="order 'up' of the runner: it is one of forward"):
        CpuExecutor("fast", "up")
    monkeypatch.setenv("TINYGRAD_CHAR_RUNNER", "check")
    assert CpuExecutor().mode == "check"
    assert CpuExecutor("debug").mode == "debug"
