"""The runner finds planted faults of every kind, in the modes that promise it, with their line."""

import re
from pathlib import Path

import numpy as np
import pytest

from tinygrad_char.kernels.cuda_on_cpu.runner import KernelError
from tinygrad_char.kernels.cuda_on_cpu.runner.compiler import find_compiler

THREADS = 64
FILE = Path(__file__).with_name("faulty.cu")

TEXT = FILE.read_text(encoding="utf-8")
FAULTS = re.findall(
    r'^// (always|checked) \((.+?)\): (.+)\nextern "C" __global__ void (\w+)', TEXT, re.MULTILINE
)
"""When each fault is found, the arguments of the kernel, what the message says, and the kernel."""

BLOCKS = {"sum_without_atomic": 2, "read_of_another_block": 2, "uninitialised_dynamic": 2}


def arguments(names):
    arrays = {
        "out": np.zeros(4 * THREADS, np.float32),
        "in": np.zeros(4 * THREADS, np.float32),
        "int": np.zeros(THREADS, np.int32),
        "small": np.zeros(THREADS // 2, np.float32),
        "n": np.int32(THREADS // 2),
        "ragged": np.zeros(4 * THREADS - 2, np.float32),
        "last": np.int32(4 * THREADS - 4),
        "null": None,
    }
    return [arrays[name] for name in names.split()]


def faults(found):
    """Return the parameters of a test of the faults that are found so."""
    rows = [pytest.param(*rest, id=rest[-1]) for when, *rest in FAULTS if when == found]
    return pytest.mark.parametrize(("names", "message", "kernel"), rows)


def marked_line(kernel):
    return next(i for i, line in enumerate(TEXT.splitlines(), 1) if line.endswith(f"// = {kernel}"))


def fault(launch, kernel, names, **how):
    blocks = BLOCKS.get(kernel, 1)
    size = 4 * (THREADS - 4) if kernel == "past_dynamic_shared" else 4 * THREADS
    with pytest.raises(KernelError) as caught:
        launch("faulty", kernel, (blocks,), (THREADS,), *arguments(names), shared_bytes=size, **how)
    return str(caught.value)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@faults("always")
@pytest.mark.parametrize("mode", ["fast", "check"])
def test_every_mode_finds(launch, mode, kernel, names, message, order):
    said = fault(launch, kernel, names, mode=mode, order=order)
    assert re.search(message, said)
    assert said.startswith(f"kernel {kernel}: ")
    lines = {int(line) for line in re.findall(r"faulty\.cu:(\d+)", said)}
    if mode == "check" or kernel != "misaligned_copy":
        assert marked_line(kernel) in lines


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@faults("checked")
def test_check_mode_finds(launch, kernel, names, message, order):
    if kernel == "misaligned_read" and "clang" in find_compiler():
        pytest.skip("clang++ splits reads of vectors before they can be checked")
    said = fault(launch, kernel, names, mode="check", order=order)
    assert f"faulty.cu:{marked_line(kernel)}" in said
    kinds = message if order == "forward" else f"{message}|race|uninitialised|missing wait"
    assert re.search(kinds, said)


def test_every_planted_fault_is_looked_for():
    planted = re.findall(r"// = (\w+)$", TEXT, re.MULTILINE)
    assert sorted([*(kernel for *_, kernel in FAULTS), "matrix_of_half_a_warp"]) == sorted(planted)


@pytest.mark.parametrize("mode", ["fast", "check"])
def test_a_matrix_product_needs_a_whole_warp(launch, mode):
    with pytest.raises(KernelError, match=r"needs a whole warp; the last .* has 16 threads"):
        launch("faulty", "matrix_of_half_a_warp", (1,), (16,), *arguments("out"), mode=mode)


def test_unwritten_shared_memory_is_not_a_number_in_fast_mode(launch):
    out = np.zeros(4 * THREADS, np.float32)
    launch("faulty", "missing_barrier", (1,), (THREADS,), out)
    assert np.isnan(out[0])
    assert not np.isnan(out[1:THREADS]).any()


def test_another_order_shows_another_side_of_a_race(launch):
    out = np.zeros(4 * THREADS, np.float32)
    launch("faulty", "missing_barrier", (1,), (THREADS,), out, order="reverse")
    assert np.isnan(out[1:THREADS]).all()


def test_copies_that_nobody_waits_for_do_not_arrive_in_fast_mode(launch):
    source = np.arange(4 * THREADS, dtype=np.float32)
    out = np.zeros(4 * THREADS, np.float32)
    launch("faulty", "wait_for_too_few", (1,), (THREADS,), source, out)
    assert np.isnan(out[:THREADS]).all()


def test_arrays_that_are_neighbours_are_told_apart(launch):
    both = np.zeros(THREADS, np.float32)
    out, after = both[: THREADS // 2], both[THREADS // 2 :]
    launch("faulty", "before_the_start", (1,), (1,), both[8:16], out[:1])
    assert not after.any()
    with pytest.raises(KernelError, match="before the start of the array `in`"):
        launch("faulty", "before_the_start", (1,), (1,), after, out, mode="check")


def test_a_fault_leaves_the_arrays_as_they_were_in_check_mode(launch):
    out = np.full(THREADS // 2, 7, np.float32)
    with pytest.raises(KernelError):
        launch("faulty", "past_the_end", (1,), (THREADS,), out, np.int32(32), mode="check")
    assert (out == 7).all()


def test_launches_after_a_fault_are_not_affected(launch, executors):
    for mode in ("fast", "check"):
        fault(launch, "ended_before_barrier", "out", mode=mode)
        source = np.arange(8, dtype=np.float32)
        out = np.ones(8, np.float32)
        launch("clean", "early_return", (1,), (THREADS,), source, out, np.int32(8), mode=mode)
        np.testing.assert_array_equal(out, source + 1)
