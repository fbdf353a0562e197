"""Processes that are forked from one whose threads are at work."""

import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import threadpoolctl

import tinygrad_char as tg
from tinygrad_char import autograd, nn, optim, parallel, random
from tinygrad_char import functional as F
from tinygrad_char.kernels.backend import status
from tinygrad_char.kernels.cpu import forks
from tinygrad_char.kernels.cpu.extension import wanted
from tinygrad_char.kernels.cpu.forks import cached_property
from tinygrad_char.parallel import Workers

HANG = 120  # seconds after which a process is taken to hang
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


class Training:
    """A model in training, by two workers, on numbers of its own."""

    def __init__(self, seed=0, device="cpu", workers=None):
        self.generator = tg.Generator(seed)
        self.model = nn.Sequential(
            nn.Embedding(11, 16, generator=self.generator),
            nn.CausalSelfAttention(16, 2, dropout=0.2, generator=self.generator),
            nn.Dropout(0.1, generator=self.generator),
            nn.Linear(16, 11, generator=self.generator),
        ).to(device)
        self.optimizer = optim.AdamW(self.model.parameters(), lr=0.01)
        self.workers = workers or Workers(2)

    def step(self):
        idx = self.generator.batches.integers(0, 11, (4, 8))
        shards = list(zip(np.array_split(idx, 4), np.array_split(idx, 4), strict=True))
        self.optimizer.zero_grad()
        loss = parallel.backward(
            lambda shard: F.cross_entropy(self.model(shard[0]), shard[1]),
            shards,
            [0.25] * 4,
            self.optimizer.parameters,
            workers=self.workers,
            dropout=self.generator.dropout,
            flat_grad=self.optimizer.flat_grad,
        )
        self.optimizer.step()
        return loss


def losses(**options):
    training = Training(**options)
    return [training.step() for _ in range(3)]


def in_a_child(function):
    """Return function(), called in a forked process."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def work():
        theirs.send(function())

    with warnings.catch_warnings():
        # Python 3.12 and later warn of what is tested here.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        child = context.Process(target=work)
        child.start()
    theirs.close()
    try:
        if not ours.poll(HANG):
            pytest.fail("the forked process hangs")
        result = ours.recv()
        child.join(HANG)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()
    return result


@pytest.fixture
def four_trainings():
    """Train in four threads, with workers of their own and the same ones, until the test ends."""
    workers = Workers(3)
    trainings = [Training(seed, workers=workers if seed < 2 else None) for seed in range(4)]
    done = threading.Event()

    def train(training):
        while not done.is_set():
            training.step()

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(train, each) for each in trainings]
        yield trainings
        done.set()
        for each in running:
            each.result(HANG)


def test_a_child_trains_as_if_nobody_else_had(four_trainings):
    expected = losses()
    for _ in range(25):
        assert in_a_child(losses) == expected
    assert losses() == expected


def test_a_child_goes_on_with_what_the_threads_of_its_parent_use(four_trainings):
    def go_on():
        values = [each.step() for each in four_trainings for _ in range(2)]
        values += [float(each.generator.init.normal(0, 1)) for each in four_trainings]
        return np.isfinite(values).all()

    for _ in range(10):
        assert in_a_child(go_on)


def test_a_child_of_a_child_has_its_own_threads(four_trainings):
    expected = losses()
    assert in_a_child(lambda: (losses(), in_a_child(losses))) == (expected, expected)


def test_a_child_has_all_threads_of_blas():
    with threadpoolctl.threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        if before != {2}:
            pytest.skip("this BLAS has no threads that threadpoolctl can set")
        some = Workers(2).map(lambda item: item, range(9))
        next(some)
        assert blas_threads() == {1}
        assert in_a_child(blas_threads) == {2}
        assert in_a_child(lambda: (losses(), blas_threads())[1]) == {2}
        some.close()
        assert blas_threads() == {2}


def blas_threads():
    found = threadpoolctl.threadpool_info()
    return {each["num_threads"] for each in found if each["user_api"] == "blas"}


def test_a_child_that_is_forked_within_a_map_says_so_and_does_not_wait():
    workers = Workers(2)
    some = workers.map(lambda item: item, range(100))
    next(some)

    def rest():
        with pytest.raises(RuntimeError, match="forked in the middle of it"):
            list(some)
        return list(workers.map(lambda item: item, range(5)))

    assert in_a_child(rest) == [0, 1, 2, 3, 4]
    assert list(some) == list(range(1, 100))


def test_a_child_that_drops_a_map_of_its_parent_does_not_wait():
    some = [Workers(2).map(lambda item: item, range(100))]
    next(some[0])
    assert in_a_child(lambda: some.pop().close()) is None
    assert list(some.pop()) == list(range(1, 100))


def locks_of(owner):
    """Return the locks of an object that is renewed in forked processes."""
    return [each for each in vars(owner).values() if hasattr(each, "acquire")]


def test_locks_that_others_hold_at_the_fork_are_free_in_the_child():
    training = Training(device="cuda-on-cpu", workers=Workers(1))
    training.step()
    owners = list(forks._renewed)
    kinds = {type(each).__name__ for each in owners if locks_of(each)}
    assert kinds >= {"Workers", "CpuExecutor", "Library"}
    held = [lock for owner in owners for lock in locks_of(owner)]
    held += [autograd._accumulating, autograd._viewing, random._drawing]
    taken, done = threading.Event(), threading.Event()

    def hold():
        for each in held:
            each.acquire()
        taken.set()
        done.wait(HANG)
        for each in held:
            each.release()

    def use():
        x = tg.zeros(3, requires_grad=True) * 1
        x[0] += 1
        return training.step() > 0, len(losses()), training.generator.init.normal(0, 1) != 0

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(hold)
        assert taken.wait(HANG)
        try:
            assert in_a_child(use) == (True, 3, True)
        finally:
            done.set()
        holder.result(HANG)


def test_a_child_draws_from_streams_that_others_draw_from():
    streams = [tg.Generator(seed).init for seed in range(3)]
    done = threading.Event()

    def draw(stream):
        while not done.is_set():
            stream.normal(0, 1, 30_000)

    def use():
        return all(np.isfinite(each.normal(0, 1, 10)).all() for each in streams)

    with ThreadPoolExecutor(3) as pool:
        drawing = [pool.submit(draw, each) for each in streams]
        try:
            for _ in range(15):
                assert in_a_child(use)
        finally:
            done.set()
        for each in drawing:
            each.result(HANG)


def test_an_attribute_that_is_computed_once():
    class Owner:
        calls = 0

        @cached_property
        def value(self):
            """What is computed."""
            self.calls += 1
            return self.calls

    owner = Owner()
    assert (owner.value, owner.value, Owner().value) == (1, 1, 1)
    assert Owner.value.__doc__ == "What is computed."


PRODUCTS = """
import os, sys, threading
import numpy as np
from tinygrad_char import Tensor

a = np.random.default_rng(0).normal(size=(400, 300)).astype(np.float32)
b = np.random.default_rng(1).normal(size=(300, 500)).astype(np.float32)
expected = a @ b
done = threading.Event()

def multiply():
    while not done.is_set():
        a @ b

threads = [threading.Thread(target=multiply) for _ in range(4)]
for each in threads:
    each.start()
for _ in range(15):
    child = os.fork()
    if not child:
        os._exit(0 if np.allclose(a @ b, expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
done.set()
for each in threads:
    each.join()
"""
"""Forks while NumPy computes products on several threads of BLAS in several threads of Python."""


@pytest.mark.skipif(wanted is None, reason=status())
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a fork waits for nobody")
def test_a_fork_waits_for_those_who_compute():
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", PRODUCTS]
    subprocess.run(command, env=environment, timeout=HANG, check=True)
