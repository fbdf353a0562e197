"""Recorded kernels: the same results on other data, in memory that does not grow."""

import gc
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels import (
    add,
    attention,
    bias_activation,
    cross_entropy,
    dropout,
    embedding,
    layernorm,
    linear,
    residual,
)
from tinygrad_char.kernels.backend import CPU, status
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import Recording, address_of, empty
from tinygrad_char.kernels.dropout import DropoutKey
from tinygrad_char.random import DropoutKeys

pytestmark = pytest.mark.skipif(compiled is None, reason=status())

RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def record(work, seed=1, calls=0):
    recording = Recording(seed, calls)
    with recording.recorded():
        results = work()
    return recording, results


def repeat(recording, seed=1, calls=0):
    return recording(DropoutKeys(seed, calls))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 70), st.sampled_from([0.0, 0.3]))
def test_other_data_in_the_same_memory(rows, columns, p):
    x, weight, bias = draw(rows, columns), draw(columns), draw(columns)

    def work(key):
        y = CPU.kernels[layernorm.forward](x, weight, bias)[0]
        return CPU.kernels[residual.forward](
            CPU.kernels[add.forward](y, bias), bias, x, p, key if p else None
        )

    recording, found = record(lambda: work(DropoutKey(1, 5)), calls=4)
    for seed, calls in ((1, 4), (9, 70)):
        x[...], weight[...], bias[...] = draw(rows, columns), draw(columns), draw(columns)
        assert repeat(recording, seed, calls)
        np.testing.assert_array_equal(found, work(DropoutKey(seed, calls + 1)))
    assert len(recording) == 3


def test_sums_start_anew_at_every_run():
    grad, x, weight = draw(7, 5), draw(7, 5), draw(5)
    indices = RNG.integers(0, 4, 7)
    key = DropoutKey(1, 1)

    def work():
        _, mean, rstd = CPU.kernels[layernorm.forward](x, weight, None)
        return (
            *CPU.kernels[layernorm.backward](
                grad, layernorm.Saved(x, weight, mean, rstd), (True, True, True)
            ),
            *CPU.kernels[bias_activation.backward](grad, (x, weight), "gelu", True),
            *CPU.kernels[residual.backward](grad, 0.5, key, True),
            CPU.kernels[embedding.backward](grad, indices, 4),
            CPU.kernels[linear.backward](grad, x, draw(5, 5), (False, False, True))[2],
        )

    recording, found = record(work)
    expected = [each.copy() for each in found]
    for _ in range(3):
        assert repeat(recording)
    for each, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(each, other)


def test_memory_that_nobody_refers_to_is_used_again():
    x = draw(32, 64)

    def chain(length):
        y = x
        for _ in range(length):
            y = CPU.kernels[add.forward](y.reshape(64, 32).reshape(32, 64), x)
        return y

    recording, found = record(lambda: chain(50))
    assert len(recording._given) <= 3
    assert len(recording) == 50
    x[...] = draw(32, 64)
    assert repeat(recording)
    np.testing.assert_array_equal(found, chain(50))


def test_views_keep_memory_from_being_used_again():
    x = draw(4, 8)

    def work():
        first = CPU.kernels[add.forward](x, x)
        part = first.reshape(8, 4)[2:].T
        del first
        others = [CPU.kernels[add.forward](x, x) for _ in range(3)]
        return part, *others

    recording, found = record(work)
    assert len({address_of(each) for each in found}) == 4
    assert len(recording._given) == 4


def test_results_are_put_side_by_side_for_the_next_repetition():
    x = draw(3, 4)

    def work():
        first = CPU.kernels[add.forward](x, x)
        second = CPU.kernels[add.forward](CPU.kernels[add.forward](first, x), x)
        return second, first

    recording, found = record(work)
    flat = recording.side_by_side(found)
    np.testing.assert_array_equal(found[0], 4 * x)
    x[...] = draw(3, 4)
    assert repeat(recording)
    np.testing.assert_array_equal(flat, np.concatenate([(4 * x).ravel(), (2 * x).ravel()]))
    assert recording.owns(flat[12:])


def test_results_that_share_memory_stay_where_they_are():
    x = draw(3, 4)

    def work():
        y = CPU.kernels[add.forward](x, x)
        return y, CPU.kernels[add.forward](y, x)

    recording, (y, other) = record(work)
    for results in ([], [y[:2]], [y, y], [y, None], [y, other.T], [y, other[1:]], [y, draw(2)]):
        assert recording.side_by_side(results) is None
    x[...] = draw(3, 4)
    assert repeat(recording)
    np.testing.assert_array_equal(y, 2 * x)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5))
def test_views_and_sums_follow_results_that_move(shapes):
    rows = [draw(*shape) for shape in shapes]
    q = draw(2, 1, 3, 4)

    def work():
        sums = [CPU.kernels[add.forward](each, each) for each in rows]
        held = [CPU.kernels[add.forward](a, b) for a, b in zip(sums, rows, strict=True)]
        grads = tuple(empty(q.shape) for _ in range(3))
        options = attention.Options(True, 0.5)
        saved = attention.Saved(q, q, q, *CPU.kernels[attention.forward](q, q, q, options))
        CPU.kernels[attention.backward](saved.out, saved, grads, options)
        return *held, *grads

    recording, found = record(work)
    flat = recording.side_by_side(found)
    for each in (*rows, q):
        each[...] = draw(*each.shape)
    assert repeat(recording)
    expected = np.concatenate([each.ravel() for each in work()])
    np.testing.assert_array_equal(flat, expected)


def test_a_run_ends_where_a_kernel_finds_something_else():
    indices, table = np.zeros(3, np.int64), draw(4, 5)

    def work():
        y = CPU.kernels[embedding.forward](indices, table)
        return CPU.kernels[add.forward](y, y)

    recording, found = record(work)
    before = found.copy()
    indices[1] = 4
    assert not repeat(recording)
    np.testing.assert_array_equal(found, before)
    indices[1] = 3
    assert repeat(recording)
    np.testing.assert_array_equal(found, 2 * table[indices])


def test_how_many_targets_count_is_compared():
    logits, targets = draw(5, 7), RNG.integers(0, 7, 5)
    recording, (loss, _) = record(lambda: CPU.kernels[cross_entropy.forward](logits, targets))
    targets[2] = -100
    assert not repeat(recording)
    targets[2] = 6
    assert repeat(recording)
    assert loss == CPU.kernels[cross_entropy.forward](logits, targets)[0]


def test_arrays_that_were_read_stay_and_are_named():
    x = draw(6)
    before = sys.getrefcount(x)
    recording, _ = record(lambda: CPU.kernels[add.forward](CPU.kernels[add.forward](x, x), x))
    assert recording.obstacle([], [x]) is None
    assert recording.obstacle([], [draw(6)]) == "an array float32 (6,) is made otherwise"
    assert recording.obstacle([draw(2)], [x]) == "a result float32 (2,) is made otherwise"
    assert recording.owns(empty((2,))) is False
    del recording
    gc.collect()
    assert sys.getrefcount(x) == before


def test_a_recording_is_of_one_thread():
    x = draw(6)
    recording = Recording(1, 0)
    with recording.recorded():
        thread = threading.Thread(target=lambda: CPU.kernels[add.forward](x, x))
        thread.start()
        thread.join()
        assert recording.owns(empty((3,)))
    assert len(recording) == 0
    assert not recording.owns(empty((3,)))


def test_wrong_use_is_refused():
    recording, other = (Recording(1, 0) for _ in range(2))
    with recording.recorded():
        with pytest.raises(RuntimeError, match="records another program"), other.recorded():
            raise AssertionError
        CPU.kernels[add.forward](draw(2), draw(2))
    with pytest.raises(RuntimeError, match="recorded already"), recording.recorded():
        raise AssertionError
    with pytest.raises(RuntimeError, match="does not record"):
        compiled.Program().end()
    assert not recording.owns(empty((3,)))


@pytest.mark.parametrize("seed", [1, 2])
def test_masks_of_another_stream_are_no_part_of_a_recording(seed):
    x = draw(2)
    recording, found = record(lambda: CPU.kernels[dropout.forward](x, 0.5, DropoutKey(seed, 1)))
    obstacle = None if seed == 1 else "dropout masks are drawn from another stream"
    assert recording.obstacle([found], [x]) == obstacle


def test_a_failure_while_recording_ends_it():
    with (
        pytest.raises(TypeError, match="a has items of format 'd', 8 bytes; expected float32"),
        record_context(),
    ):
        compiled.add_rows(np.zeros(2), np.zeros(2), np.zeros(2), 1, 2, 1)
    with record_context() as recording:
        CPU.kernels[add.forward](draw(2), draw(2))
    assert len(recording) == 1


def record_context():
    recording = Recording(1, 0)
    context = recording.recorded()

    class Context:
        def __enter__(self):
            context.__enter__()
            return recording

        def __exit__(self, *error):
            return context.__exit__(*error)

    return Context()
