"""Kernels without faults compute what CUDA would, in every mode and order, without alarm."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels.cuda_on_cpu.runner import KernelError

HOW = [("fast", "forward"), ("fast", "reverse"), ("fast", "random"), ("check", "random")]
THREADS = 64
random = np.random.default_rng(0)


def standard_normal(*shape):
    return random.standard_normal(shape).astype(np.float32)


def bfloat16(*shape):
    return standard_normal(*shape).astype(ml_dtypes.bfloat16)


@pytest.fixture(params=HOW, ids="-".join)
def run(request, launch):
    mode, order = request.param

    def run(kernel, grid, block, *arguments, **more):
        launch("clean", kernel, grid, block, *arguments, mode=mode, order=order, seed=3, **more)

    return run


@pytest.mark.parametrize("n", [1, 31, 64, 129])
def test_sum_in_shared_memory_of_a_template(run, n):
    x, out = standard_normal(3, n), np.empty(3, np.float32)
    run("sum_of_squares", (3,), (THREADS,), x, out, np.int32(n))
    np.testing.assert_allclose(out, (x.astype(np.float64) ** 2).sum(axis=1), rtol=1e-6)


@pytest.mark.parametrize("n", [1, 7, 8, 17])
def test_transpose_in_dynamic_shared_memory(run, n):
    x, out = standard_normal(n, n), np.empty((n, n), np.float32)
    blocks = -(-n // 8)
    run("transpose", (blocks, blocks), (8, 8), x, out, np.int32(n), shared_bytes=4 * 8 * 9)
    np.testing.assert_array_equal(out, x.T)


def test_neighbouring_bytes_belong_to_different_threads(run):
    narrow, halves = np.empty(THREADS, np.uint8), np.empty(THREADS, ml_dtypes.bfloat16)
    words = np.empty(THREADS, np.int32)
    run("narrow_writes", (1,), (THREADS,), narrow, halves, words)
    np.testing.assert_array_equal(narrow, np.arange(THREADS))
    np.testing.assert_array_equal(halves.astype(int), np.arange(THREADS))
    expected = np.tile(np.arange(THREADS, dtype=np.uint8), 4).view(np.int32)
    np.testing.assert_array_equal(words, expected)


def test_atomic_histogram_over_blocks(run):
    x, out = random.integers(0, 10, 333, np.int32), np.zeros(10, np.int32)
    run("histogram", (6,), (THREADS,), x, out, np.int32(333), np.int32(10), shared_bytes=40)
    np.testing.assert_array_equal(out, np.bincount(x, minlength=10))


def test_warp_barriers_order_shared_memory(run):
    values = standard_normal(THREADS)
    expected = values.copy()  # 32 steps around 32 lanes
    run("around_the_warp", (1,), (THREADS,), values)
    np.testing.assert_array_equal(values, expected)


def test_barriers_of_parts_of_a_warp_order_these(run):
    values = standard_normal(THREADS)
    expected = values[np.arange(THREADS) ^ 2]
    run("halves_of_a_warp", (1,), (THREADS,), values)
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
def test_threads_may_return_early_and_work_in_place(run, n):
    x = standard_normal(n)
    expected = x + x
    run("early_return", (4,), (THREADS,), x, x, np.int32(n))
    np.testing.assert_array_equal(x, expected)


def test_shuffles_and_votes(run):
    out = np.empty((32, 10), np.uint32)
    run("warp_functions", (1,), (32,), out)
    lane = np.arange(32)
    expected = [
        np.full(32, 3),
        np.where(lane < 2, lane, lane - 2),
        np.where(lane > 29, lane, lane + 2),
        lane ^ 4,
        np.where(lane % 8 == 0, lane, lane - 1),
        np.where(lane % 8 == 7, lane, lane + 1),
        lane // 8 * 8 + 1,
        np.full(32, sum(1 << i for i in range(0, 32, 3))),
        np.full(32, 1 + 4),
        np.ones(32),
    ]
    np.testing.assert_array_equal(out, np.stack(expected, axis=1))


def test_votes_of_a_block(run):
    out = np.empty((THREADS, 4), np.int32)
    run("block_votes", (1,), (THREADS,), out)
    np.testing.assert_array_equal(out, np.tile([THREADS // 2, 1, 0, 1], (THREADS, 1)))


def test_indices_of_three_dimensions(run):
    out = np.zeros((2 * 3 * 4, 5 * 3 * 2), np.uint32)
    run("indices", (2, 3, 4), (5, 3, 2), out)
    np.testing.assert_array_equal(out, 1000 * np.arange(24)[:, None] + np.arange(30))


@pytest.mark.parametrize("n", [1, 255, 256, 257, 1023])
def test_asynchronous_copies_in_two_buffers(run, n):
    x, out = standard_normal(n), np.empty(THREADS, np.float32)
    run("double_buffer", (1,), (THREADS,), x, out, np.int32(n))
    padded = np.zeros(-(-n // THREADS) * THREADS)
    padded[:n] = x
    expected = padded.reshape(-1, THREADS).sum(axis=0)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_product_of_bfloat16_matrices(run):
    a, b, c = bfloat16(16, 16), bfloat16(16, 8), np.empty((16, 8), np.float32)
    run("product_bf16", (1,), (32,), a, b, c)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(c, expected, rtol=0, atol=1e-5)


def test_product_with_matrices_from_shared_memory(run):
    a, b, c = bfloat16(16, 16), bfloat16(16, 8), standard_normal(16, 8)
    left, right = a.astype(np.float64), b.astype(np.float64)
    again = np.concatenate([right, right])[16:32]  # the third and fourth matrix are the first two
    expected = c + left @ right + left @ again
    run("product_ldmatrix", (1,), (32,), a, b, c)
    np.testing.assert_allclose(c, expected, rtol=0, atol=1e-5)


def test_product_with_a_transposed_matrix(run):
    a, b, c = bfloat16(16, 16), bfloat16(8, 16), np.empty((16, 8), np.float32)
    run("product_transposed", (1,), (32,), a, b, c)
    expected = a.astype(np.float64) @ b.astype(np.float64).T
    np.testing.assert_allclose(c, expected, rtol=0, atol=1e-5)


def test_product_of_tf32_matrices(run):
    a, b, c = standard_normal(16, 8), standard_normal(8, 8), np.empty((16, 8), np.float32)
    run("product_tf32", (1,), (32,), a, b, c)
    rounded = [((x.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32) for x in (a, b)]
    expected = rounded[0].astype(np.float64) @ rounded[1].astype(np.float64)
    np.testing.assert_allclose(c, expected, rtol=0, atol=1e-5)
    assert np.abs(c - a @ b).max() > 1e-5  # TF32 is not float32


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(width=32), min_size=1, max_size=99))
def test_bfloat16_rounds_as_numpy_does(launch, values):
    x = np.array(values, np.float32)
    out, back = np.empty(len(x), ml_dtypes.bfloat16), np.empty(len(x), np.float32)
    launch("clean", "round_to_bf16", (2,), (THREADS,), x, out, back, np.int32(len(x)))
    with np.errstate(over="ignore"):
        expected = x.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(back, expected.astype(np.float32))


def test_atomic_operations(run):
    out = np.zeros(9, np.uint32)
    out[2] = 99
    run("atomics", (2,), (THREADS,), out)
    threads = 2 * THREADS
    assert list(out[:5]) == [2 * threads, THREADS - 1, 0, 0xFFFFFFFF, 5]
    assert 1 <= out[5] <= THREADS
    assert list(out[6:]) == [0, 2**32 - threads, threads % 10]


def test_wide_vectors(run):
    x, out = random.standard_normal((THREADS, 2)), np.empty((THREADS, 2))
    run("vectors", (1,), (THREADS,), x, out)
    np.testing.assert_array_equal(out, x[:, ::-1])


NOTHING, READ, WRITE, ATOMIC, WARP_BARRIER, BLOCK_BARRIER = range(6)


def has_race(actions, cells):
    """Say, from the definition, whether two accesses conflict with no barrier between them."""
    accesses = [
        (step, thread, actions[step, thread], cells[step, thread])
        for step, thread in np.argwhere((actions >= READ) & (actions <= ATOMIC))
    ]
    for i, (step, thread, action, cell) in enumerate(accesses):
        for later, other, other_action, other_cell in accesses[i + 1 :]:
            conflict = {action, other_action} not in ({READ}, {ATOMIC})
            if thread == other or cell != other_cell or not conflict:
                continue
            between = actions[step + 1 : later]
            block_barrier = (between[:, 0] == BLOCK_BARRIER).any()
            warp_barrier = (between[:, thread] == WARP_BARRIER).any()
            if not block_barrier and not (warp_barrier and thread // 32 == other // 32):
                return True
    return False


def random_program(seed, steps, busy, threads=40):
    """Return actions and cells where few threads do something, and all of a warp meet at times."""
    source = np.random.default_rng(seed)
    actions = source.choice([READ, WRITE, ATOMIC], (steps, threads), p=[0.6, 0.2, 0.2])
    actions[source.random((steps, threads)) > busy] = NOTHING
    for step in range(steps):
        if source.random() < 0.3:
            actions[step] = BLOCK_BARRIER
        elif source.random() < 0.4:
            warp = source.integers(2)
            actions[step, 32 * warp : 32 * (warp + 1)] = WARP_BARRIER
    return actions.astype(np.int32), source.integers(0, 3, (steps, threads), np.int32)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32), st.integers(1, 12), st.sampled_from([0.02, 0.05, 0.1]), st.data())
def test_check_mode_finds_a_race_if_and_only_if_there_is_one(launch, seed, steps, busy, data):
    actions, cells = random_program(seed, steps, busy)
    order = data.draw(st.sampled_from(["forward", "reverse", "random"]))
    out = np.empty((2, actions.shape[1]), np.int32)
    arguments = (actions, cells, np.int32(steps), out)
    message = ""
    try:
        launch("order", "interpret", (2,), (40,), *arguments, mode="check", order=order)
    except KernelError as error:
        message = str(error)
    assert ("of the shared array `memory`" in message) == has_race(actions, cells)
    assert message == "" or "race: " in message


def test_random_programs_are_of_both_kinds():
    races = [has_race(*random_program(seed, 6, 0.05)) for seed in range(100)]
    assert 20 < sum(races) < 80
