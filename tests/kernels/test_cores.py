import itertools
import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import cores, fused
from kernels.dropout import DropoutKey


@settings(deadline=None, max_examples=40)
@given(count=st.integers(0, 40), processors=st.integers(1, 9), operations=st.sampled_from([0, 1e9]))
def test_ranges_make_up_the_whole(count, processors, operations):
    ranges = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cores, "available_cores", lambda: processors)
        cores.spread(lambda first, last: ranges.append((first, last)), count, operations)
    assert len(ranges) == (max(1, min(count, processors)) if operations else 1)
    ends = sorted(ranges)
    assert ends[0][0] == 0
    assert ends[-1][1] == count
    assert all(last == first for (_, last), (first, _) in itertools.pairwise(ends))


def test_parts_run_side_by_side_unless_this_thread_keeps_to_one_core(monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: 2)
    meeting = threading.Barrier(2, timeout=60)
    cores.spread(lambda first, last: meeting.wait(), 2, 1e9)
    threads = []
    with cores.one_core(), cores.one_core():
        cores.spread(lambda first, last: threads.append(threading.current_thread()), 2, 1e9)
    assert threads == [threading.current_thread()]
    cores.spread(lambda first, last: meeting.wait(), 2, 1e9)


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_of_any_part_is_raised(monkeypatch, bad):
    monkeypatch.setattr(cores, "available_cores", lambda: 2)
    done = []

    def work(first, last):
        if first == bad:
            raise MemoryError("no room")
        done.append(first)

    with pytest.raises(MemoryError, match="no room"):
        cores.spread(work, 2, 1e9)
    assert done == [1 - bad]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: 2)
    cores.spread(lambda first, last: None, 2, 1e9)
    child = os.fork()
    if child == 0:
        cores.spread(lambda first, last: None, 2, 1e9)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.skipif(not fused.TABLE, reason=fused.status())
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_the_number_of_cores_changes_no_bit_of_attention(monkeypatch, p):
    rng = np.random.default_rng(0)
    q, k, v, grad = rng.standard_normal((4, 3, 5, 40, 24), dtype=np.float32)
    results = []
    for processors in (1, 4):
        monkeypatch.setattr(cores, "available_cores", lambda n=processors: n)
        monkeypatch.setattr(cores, "WORTH_SPREADING", 0)
        options = (True, 0.2, p, DropoutKey(1, 2))
        out, logsumexp = fused.attention_forward(q, k, v, *options)
        grads = tuple(np.empty_like(each) for each in (q, k, v))
        fused.attention_backward(grad, q, k, v, out, logsumexp, grads, *options)
        results.append([each.tobytes() for each in (out, logsumexp, *grads)])
    assert results[0] == results[1]


@pytest.mark.skipif(not fused.TABLE, reason=fused.status())
@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("size", [3, 16, 33])
def test_attention_is_the_same_with_narrower_registers(lanes, size):
    rng = np.random.default_rng(size)
    q, k, v, grad = rng.standard_normal((4, 2, 2, 100, size), dtype=np.float32)
    results = []
    for most in (lanes, 1 << 40):
        used = fused.compiled.attention_choose_lanes(most)
        assert used in (4, 8, 16)
        assert used <= max(most, 4)
        out, logsumexp = fused.attention_forward(q, k, v, True, 0.2)
        grads = tuple(np.empty_like(each) for each in (q, k, v))
        fused.attention_backward(grad, q, k, v, out, logsumexp, grads, True, 0.2)
        results.append((out, logsumexp, *grads))
    for narrow, wide in zip(*results, strict=True):
        np.testing.assert_allclose(narrow, wide, rtol=1e-4, atol=1e-4)
