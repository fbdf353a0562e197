import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels import attention, linear
from tinygrad_char.kernels.backend import CPU, status
from tinygrad_char.kernels.cpu import cores
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.dropout import DropoutKey

pytestmark = pytest.mark.skipif(compiled is None, reason=status())


def few_rows(x, weight, bias, threads):
    y = np.full((len(x), len(weight)), np.nan, np.float32)
    compiled.linear_few_rows(x, weight, bias, y, len(x), *weight.shape[::-1], threads)
    return y


def draw(rows, outputs, inputs, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((rows, inputs), dtype=np.float32),
        rng.standard_normal((outputs, inputs), dtype=np.float32),
        rng.standard_normal(outputs, dtype=np.float32),
    )


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 4),
    outputs=st.integers(1, 40),
    inputs=st.integers(1, 70),
    threads=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_the_number_of_threads_changes_no_bit(rows, outputs, inputs, threads):
    arrays = draw(rows, outputs, inputs, inputs)
    alone = few_rows(*arrays, 1)
    np.testing.assert_allclose(alone, linear.forward(*arrays), rtol=1e-5, atol=1e-5)
    for count in threads:
        assert few_rows(*arrays, count).tobytes() == alone.tobytes()


def test_callers_from_several_threads_do_not_mix():
    problems = [draw(2, 400 + seed, 300, seed) for seed in range(4)]
    expected = [few_rows(*each, 1) for each in problems]
    wrong = []

    def repeat(number):
        wrong.extend(
            True
            for _ in range(200)
            if few_rows(*problems[number], 3).tobytes() != expected[number].tobytes()
        )

    threads = [threading.Thread(target=repeat, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_has_threads_of_its_own():
    program = """
import os, sys, time
import numpy as np
from tinygrad_char.kernels.cpu.extension import compiled
x, weight = np.ones((1, 300), np.float32), np.ones((400, 300), np.float32)
def right():
    y = np.zeros((1, 400), np.float32)
    compiled.linear_few_rows(x, weight, None, y, 1, 300, 400, 3)
    return bool((y == 300).all())
assert right()
if sys.argv[1] == "asleep":
    time.sleep(0.3)
child = os.fork()
if child == 0:
    os._exit(7 if right() and right() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert right()
"""
    for state in ("awake", "asleep"):
        subprocess.run([sys.executable, "-c", program, state], check=True, timeout=120)


def test_threads_that_have_fallen_asleep_wake_up():
    arrays = draw(1, 500, 200)
    alone = few_rows(*arrays, 1)
    for pause in (0, 0.2, 0, 0.2):
        threading.Event().wait(pause)
        assert few_rows(*arrays, 4).tobytes() == alone.tobytes()


def test_small_work_and_work_beside_other_work_is_not_spread(monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: 5)
    assert cores.threads_for(1e9) == 5
    assert cores.threads_for(1) == 1
    with cores.one_core():
        assert cores.threads_for(1e9) == 1
        with cores.one_core():
            pass
        assert cores.threads_for(1e9) == 1
        thread_saw = []
        thread = threading.Thread(target=lambda: thread_saw.append(cores.threads_for(1e9)))
        thread.start()
        thread.join()
        assert thread_saw == [5]
    assert cores.threads_for(1e9) == 5


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_the_number_of_cores_changes_no_bit_of_attention(monkeypatch, p):
    rng = np.random.default_rng(0)
    q, k, v, grad = rng.standard_normal((4, 3, 5, 40, 24), dtype=np.float32)
    results = []
    for processors in (1, 4):
        monkeypatch.setattr(cores, "available_cores", lambda n=processors: n)
        monkeypatch.setattr(cores, "WORTH_SPREADING", 0)
        options = attention.Options(True, 0.2, p, DropoutKey(1, 2))
        saved = attention.Saved(q, k, v, *CPU.kernels[attention.forward](q, k, v, options))
        grads = tuple(np.empty_like(each) for each in (q, k, v))
        CPU.kernels[attention.backward](grad, saved, grads, options)
        results.append([each.tobytes() for each in (*saved, *grads)])
    assert results[0] == results[1]


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("size", [3, 16, 33])
def test_attention_is_the_same_with_narrower_registers(lanes, size):
    rng = np.random.default_rng(size)
    q, k, v, grad = rng.standard_normal((4, 2, 2, 100, size), dtype=np.float32)
    results = []
    for most in (lanes, 1 << 40):
        used = compiled.attention_choose_lanes(most)
        assert used in (4, 8, 16)
        assert used <= max(most, 4)
        options = attention.Options(True, 0.2)
        saved = attention.Saved(q, k, v, *CPU.kernels[attention.forward](q, k, v, options))
        grads = tuple(np.empty_like(each) for each in (q, k, v))
        CPU.kernels[attention.backward](grad, saved, grads, options)
        results.append((*saved, *grads))
    for narrow, wide in zip(*results, strict=True):
        np.testing.assert_allclose(narrow, wide, rtol=1e-4, atol=1e-4)
