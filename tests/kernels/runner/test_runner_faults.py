"""The runner finds planted faults of every kind, in the modes that promise it, with their line."""

import re
from pathlib import Path

import numpy as np
import pytest

from tinygrad_char.kernels.cuda_on_cpu.runner import KernelError
from tinygrad_char.kernels.cuda_on_cpu.runner.compiler import find_compiler

THREADS = 64
FILE = Path(__file__).with_name("faulty.cu")

ALWAYS = [
    ("ended_before_barrier", "out", r"divergent barrier: thread \(\d+,0,0\) .* has ended"),
    ("barriers_in_branches", "out", r"divergent barrier: .* waits at faulty.cu:\d+"),
    ("shuffle_in_a_branch", "out", r"deadlock: thread \(1,0,0\) .* mask 0xffffffff"),
    ("shuffle_after_return", "out", r"names, with mask 0xffffffff, lane 5, which has ended"),
    ("not_in_its_mask", "out", r"is lane \d+, which its own mask 0x0000ffff does not name"),
    ("shuffle_of_width_three", "out", "the width of a shuffle is 3; it must be a power of two"),
    ("trapped", "out", r"__trap by thread \(\d+,0,0\) of block \(0,0,0\)"),
    ("misaligned_copy", "in out", "misaligned asynchronous copy of 16 bytes"),
    ("copy_to_global", "in out", "outside the shared memory"),
    ("matrix_of_global", "in out", "not in shared memory"),
    ("misaligned_matrix", "out", "misaligned matrix row"),
]
"""Faults found in every mode: the kernel, its arguments, and what the message says."""

CHECKED = [
    ("missing_barrier", "out", r"uninitialised read of the shared array `tile`"),
    ("overwritten_too_early", "out", r"race: write of .*`tile`.*after the read at faulty.cu:\d+"),
    ("written_by_all", "out", r"race: write of .*`total`.*no barrier after the write"),
    ("missing_warp_barrier", "out", "uninitialised read of the shared array `tile`"),
    ("shuffle_is_no_barrier", "out", "race: read of .*`tile`.*no barrier after the write"),
    ("warp_barrier_between_warps", "out", "uninitialised read of the shared array `tile`"),
    ("warp_barrier_of_others", "out", r"race|uninitialised"),
    ("read_by_another_warp", "out", "race: .* of the shared array `value`"),
    ("atomic_and_plain", "int", "race: .*atomic operation.*"),
    ("global_race_in_a_block", "out", "race: .*the array `out`"),
    ("sum_without_atomic", "out", "race: .*the array `out`.*by another block"),
    ("read_of_another_block", "out", "race: read of the array `out`.*by another block"),
    (
        "past_the_end",
        "small n",
        "out of bounds: write of 4 bytes.* 4 bytes past the end of .*`out`",
    ),
    ("before_the_start", "in out", "out of bounds: read .* 4 bytes before the start of .*`in`"),
    (
        "half_past_the_end",
        "ragged out last",
        "out of bounds: read of .* bytes past .*`in`",
    ),
    (
        "past_static_shared",
        "out",
        "out of bounds: write .* past the end of the shared array `four`",
    ),
    ("past_dynamic_shared", "out", "out of bounds: write .* past the end of the dynamic shared"),
    ("null_pointer", "null out", "out of bounds: read .*: a null pointer"),
    ("atomic_past_the_end", "int", "out of bounds: atomic operation .* past the end of .*`out`"),
    ("local_of_another_thread", "out", "out of bounds: read"),
    ("uninitialised_static", "out", "uninitialised read of the shared array `tile`"),
    ("uninitialised_dynamic", "out", r"uninitialised read of the dynamic .*block \(1,0,0\)"),
    ("misaligned_read", "in out", "misaligned read of 16 bytes"),
    ("misaligned_write", "out", "misaligned write of 8 bytes"),
    ("missing_wait", "in out", "missing wait: read of .*`tile`"),
    ("wait_for_too_few", "in out", "missing wait: read of .*`tile`"),
    ("missing_commit", "in out", "missing wait: read of .*`tile`"),
    ("wait_without_barrier", "in out", "race|missing wait|uninitialised"),
    ("copy_over_what_is_read", "in out", "race: .*`tile`.*no barrier after the"),
    ("copy_past_the_end", "in out", "out of bounds: read of 16 bytes .* past the end of .*`in`"),
    ("uninitialised_matrix", "out", "uninitialised read of the shared array `tile`"),
]
"""Faults that only check mode is sure to find."""

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


def marked_line(kernel):
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.endswith(f"// = {kernel}"))


def fault(launch, kernel, names, **how):
    blocks = BLOCKS.get(kernel, 1)
    size = 4 * (THREADS - 4) if kernel == "past_dynamic_shared" else 4 * THREADS
    with pytest.raises(KernelError) as caught:
        launch("faulty", kernel, (blocks,), (THREADS,), *arguments(names), shared_bytes=size, **how)
    return str(caught.value)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize(("kernel", "names", "message"), ALWAYS, ids=[each[0] for each in ALWAYS])
@pytest.mark.parametrize("mode", ["fast", "check"])
def test_every_mode_finds(launch, mode, kernel, names, message, order):
    said = fault(launch, kernel, names, mode=mode, order=order)
    assert re.search(message, said)
    assert said.startswith(f"kernel {kernel}: ")
    lines = {int(line) for line in re.findall(r"faulty\.cu:(\d+)", said)}
    if mode == "check" or kernel != "misaligned_copy":
        assert marked_line(kernel) in lines


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize(("kernel", "names", "message"), CHECKED, ids=[each[0] for each in CHECKED])
def test_check_mode_finds(launch, kernel, names, message, order):
    if kernel == "misaligned_read" and "clang" in find_compiler():
        pytest.skip("clang++ splits reads of vectors before they can be checked")
    said = fault(launch, kernel, names, mode="check", order=order)
    assert f"faulty.cu:{marked_line(kernel)}" in said
    kinds = message if order == "forward" else f"{message}|race|uninitialised|missing wait"
    assert re.search(kinds, said)


def test_every_planted_fault_is_looked_for():
    planted = re.findall(r"// = (\w+)$", FILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted([*(each[0] for each in ALWAYS + CHECKED), "matrix_of_half_a_warp"]) == sorted(
        planted
    )


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
