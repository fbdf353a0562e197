"""Contests: differences, statistics, taking turns, memory, and what goes wrong."""

import os
import platform
import signal
import statistics
import subprocess
import sys
import time

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.benchmarks.measure import (
    Contender,
    ContenderError,
    Task,
    Timing,
    busy_seconds,
    difference,
    forget_peak,
    hold,
    resident,
)
from tinygrad_char.kernels.cpu.cores import available_cores
from tinygrad_char.models import openblas
from tinygrad_char.models.openblas import VARIABLE

whole = st.integers(-1000, 1000).map(float)


def numbers(value):
    """Return a task that notes its turns in a file, and one that is quick."""
    return {"slow": Task(lambda: (time.sleep(0.01), np.full(3, value))[1]), "fast": Task(lambda: 1)}


def log_turns(path, name):
    def run():
        with path.open("a") as file:
            file.write(name)
        time.sleep(0.02)
        return 0.0

    return {"log": Task(run)}


def checked(value):
    return {"step": Task(lambda: np.nan, lambda: (value, np.arange(2)))}


def allocate(megabytes):
    return {"allocate": Task(lambda: np.ones(megabytes << 20, np.uint8)[:1])}


def allocate_after_more(megabytes, more):
    np.ones(more << 20, np.uint8)
    return allocate(megabytes)


def report_processors():
    return {"count": Task(available_cores)}


def fail():
    raise ValueError("no such kernel")


def fail_later():
    return {"run": Task(fail)}


def die():
    return {"run": Task(lambda: os.kill(os.getpid(), signal.SIGKILL))}


@settings(deadline=None)
@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=30))
def test_timing_has_the_median_and_quartiles_of_its_samples(samples):
    timing = Timing(tuple(samples), 1)
    assert timing.median == statistics.median(samples)
    expected = np.quantile(samples, [0.25, 0.75])
    np.testing.assert_allclose(timing.quartiles, expected, rtol=1e-12)


@settings(deadline=None, max_examples=50)
@given(npst.arrays(np.float64, npst.array_shapes(max_dims=3), elements=whole), whole)
def test_difference_is_relative_to_the_largest_element(expected, shift):
    result = expected.copy()
    result.flat[-1] += shift
    largest = abs(expected).max() or 1.0
    found = difference([result, expected], [expected, expected])
    assert found == abs(result - expected).max() / largest


@pytest.mark.parametrize("wrong", [np.ones(4), np.ones((1, 3)), np.array([1, np.nan, 1])])
def test_difference_of_other_shapes_and_of_nan_is_infinite(wrong):
    assert difference([wrong], [np.ones(3)]) == np.inf
    assert difference([np.ones(3)], [wrong]) == np.inf


def test_difference_counts_another_number_of_arrays_and_accepts_empty_ones():
    assert difference([np.ones(3)], []) == np.inf
    assert difference([np.ones((0, 3))], [np.ones((0, 3))]) == 0


def test_difference_of_unsigned_integers_does_not_wrap():
    assert difference([np.array([1], np.uint8)], [np.array([2], np.uint8)]) == 0.5


def test_a_contest_times_every_task_of_every_contender():
    contest = hold(
        {"a": Contender(numbers, (1.0,)), "b": Contender(numbers, (1.0,))},
        bound=0,
        rounds=3,
        seconds=0.01,
    )
    assert contest.agree
    assert list(contest.entries) == ["slow", "fast"]
    for task, least in (("slow", 0.01), ("fast", 0.0)):
        for name in ("a", "b"):
            timing = contest.entries[task][name].timing
            assert len(timing.samples) == 3
            assert min(timing.samples) > least
    assert contest.entries["slow"]["a"].timing.runs_in_sample == 1
    assert contest.entries["fast"]["a"].timing.runs_in_sample > 100
    assert contest.libraries["a"]["version"] == f"NumPy {np.__version__}"


def test_contenders_take_turns(tmp_path):
    path = tmp_path / "turns"
    contenders = {name: Contender(log_turns, (path, name)) for name in "ab"}
    hold(contenders, bound=0, rounds=3, seconds=0.01)
    assert path.read_text() == "ab" + "ab" * 3


def test_nothing_is_timed_where_results_differ():
    contenders = {"a": Contender(numbers, (1.0,)), "b": Contender(numbers, (1.5,))}
    contest = hold(contenders, bound=0.4, rounds=3, seconds=0.01)
    assert not contest.agree
    assert contest.entries["slow"]["b"].difference == 0.5
    assert contest.entries["fast"]["b"].difference == 0
    assert all(each.timing is None for task in contest.entries.values() for each in task.values())
    assert hold(contenders, bound=0.5, rounds=1, seconds=0.01).agree


def test_a_check_is_compared_in_the_place_of_what_is_timed():
    contenders = {"a": Contender(checked, (2.0,)), "b": Contender(checked, (3.0,))}
    contest = hold(contenders, bound=0, rounds=1, seconds=0.001)
    assert contest.entries["step"]["b"].difference == 0.5


@pytest.mark.skipif(resident() is None, reason="this system does not tell resident memory")
def test_memory_is_what_a_task_took():
    contenders = {str(size): Contender(allocate, (size,)) for size in (20, 60)}
    entries = hold(contenders, bound=0, rounds=1).entries["allocate"]
    growth = {name: entry.memory.growth / 2**20 for name, entry in entries.items()}
    assert 20 <= growth["20"] < 30
    assert 60 <= growth["60"] < 70
    assert entries["60"].memory.peak > entries["60"].memory.growth


@pytest.mark.skipif(not forget_peak(), reason="this system does not forget the peak")
def test_memory_does_not_count_what_preparing_freed():
    contenders = {"a": Contender(allocate_after_more, (20, 200))}
    entry = hold(contenders, bound=0, rounds=1).entries["allocate"]["a"]
    assert 20 <= entry.memory.growth / 2**20 < 30


def test_the_peak_stays_where_the_system_does_not_forget_it(tmp_path):
    assert forget_peak(tmp_path / "none" / "clear_refs") is False


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no processor affinity here")
def test_threads_limit_the_processors_of_each_contender():
    contenders = {"a": Contender(report_processors)}
    contest = hold(contenders, bound=0, rounds=1, threads=1, seconds=0.001)
    assert "1 thread" in contest.libraries["a"]["products"]
    expected = {"one": Contender(checked, (1.0,)), "count": Contender(count_as_check)}
    assert hold(expected, bound=0, rounds=1, threads=1, seconds=0.001).agree


def count_as_check():
    return {"step": Task(lambda: None, lambda: (float(available_cores()), np.arange(2)))}


@pytest.mark.skipif(
    not any(each["internal_api"] == "openblas" for each in threadpoolctl.threadpool_info())
    or platform.machine() != "x86_64",
    reason="NumPy has no OpenBLAS for x86-64 here",
)
def test_contenders_have_the_better_kernels_of_openblas(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")  # so that what is set below is undone
    monkeypatch.setattr(openblas, "better_core_type", lambda: "Nehalem")
    contest = hold({"a": Contender(numbers, (1.0,))}, bound=0, rounds=1, seconds=0.001)
    assert "for Nehalem" in contest.libraries["a"]["products"]


def spin(seconds):
    def run():
        started = time.process_time()
        while time.process_time() - started < seconds:
            continue
        return 0.0

    return {"spin": Task(run)}


@pytest.mark.skipif(busy_seconds() is None, reason="this system does not tell who is busy")
def test_the_share_of_others_leaves_the_contenders_out():
    contest = hold({"a": Contender(spin, (0.3,))}, bound=0, rounds=2)
    assert 0 <= contest.others <= 1
    alone = busy_seconds()
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", BURN]) as burner:
        contest = hold({"a": Contender(spin, (0.3,))}, bound=0, rounds=3)
        burner.kill()
    assert contest.others > 0.2 / os.cpu_count()
    assert alone < busy_seconds() <= alone + (time.perf_counter() - started + 1) * os.cpu_count()


BURN = "while True: pass"


def test_busy_time_is_none_where_the_system_does_not_tell_it(tmp_path):
    assert busy_seconds(tmp_path / "none") is None
    (tmp_path / "stat").write_text("cpu  100 20 30 9999 8888 4 5 6 7 8\ncpu0 1 2 3\n")
    assert busy_seconds(tmp_path / "stat") == 165 / os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text("cpu\n")
    assert busy_seconds(tmp_path / "stat") is None


@pytest.mark.parametrize("prepare", [fail, fail_later])
def test_an_error_of_a_contender_is_told_with_its_name(prepare):
    with pytest.raises(ContenderError, match=r"(?s)'bad' failed:.*ValueError: no such kernel"):
        hold({"bad": Contender(prepare)}, bound=0, rounds=1)


def test_the_death_of_a_contender_is_told_with_its_name():
    with pytest.raises(ContenderError, match="process of 'bad' died"):
        hold({"bad": Contender(die)}, bound=0, rounds=1)


def test_resident_memory_is_none_where_the_system_does_not_tell_it(tmp_path):
    assert resident(tmp_path / "none") is None
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t     12 kB\nVmHWM:\t  30 kB\n")
    assert resident(tmp_path / "status") == (12 << 10, 30 << 10)
    (tmp_path / "status").write_text("Name:\tpython\n")
    assert resident(tmp_path / "status") is None
