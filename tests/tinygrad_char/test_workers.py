"""Workers that several threads use at once, each in its own mode."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import threadpoolctl

import tinygrad_char as tg
from tinygrad_char import parallel
from tinygrad_char.modes import is_grad_enabled
from tinygrad_char.parallel import Workers

HANG = 60  # seconds after which nothing more is expected


def blas_threads():
    return {
        each["num_threads"]
        for each in threadpoolctl.threadpool_info()
        if each["user_api"] == "blas"
    }


@pytest.fixture
def two_blas_threads():
    if not blas_threads():
        pytest.skip("NumPy's BLAS is none that threadpoolctl knows")
    with threadpoolctl.threadpool_limits(limits=2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("this BLAS was built for one thread")
        yield


def test_blas_gets_its_threads_back_when_the_last_one_is_done(two_blas_threads):
    begun, others_begun = threading.Barrier(3), threading.Event()
    finish = [threading.Event() for _ in range(3)]

    def use(number):
        def work(item):
            if item == 0:
                begun.wait(HANG)
                others_begun.set()
            assert finish[number].wait(HANG)
            return blas_threads()

        return list(Workers(2).map(work, range(3)))

    with ThreadPoolExecutor(3) as pool:
        users = [pool.submit(use, number) for number in range(3)]
        assert others_begun.wait(HANG)
        for number in (1, 0, 2):  # the first to come is not the last to go
            assert blas_threads() == {1}
            finish[number].set()
            assert users[number].result() == [{1}] * 3
    assert blas_threads() == {2}


@pytest.mark.parametrize("threads", [1, 3])
def test_blas_gets_its_threads_back_after_an_error_or_an_early_end(threads, two_blas_threads):
    def fail(item):
        raise ValueError("own")

    workers = Workers(threads)
    with pytest.raises(ValueError, match="own"):
        list(workers.map(fail, range(4)))
    assert blas_threads() == {2}
    some = workers.map(lambda item: item, range(4))
    assert next(some) == 0
    assert blas_threads() == {1}
    some.close()
    assert blas_threads() == {2}


@pytest.mark.parametrize(("quota", "expected"), [(1, 1), (3, 2)])
def test_blas_takes_no_more_threads_than_the_quota_fills(
    quota, expected, two_blas_threads, monkeypatch
):
    parallel.keep_blas_to_quota()
    monkeypatch.setattr(parallel, "available_cores", lambda: 1)
    monkeypatch.setattr(parallel, "allowed_cores", lambda: 1)
    parallel.keep_blas_to_quota()
    assert blas_threads() == {2}  # what the user chose, where there is no quota
    monkeypatch.setattr(parallel, "available_cores", lambda: quota)
    monkeypatch.setattr(parallel, "allowed_cores", lambda: 64)
    some = Workers(1).map(lambda item: item, range(2))
    next(some)
    parallel.keep_blas_to_quota()
    assert blas_threads() == {1}
    some.close()
    assert blas_threads() == {expected}
    parallel.keep_blas_to_quota()
    assert blas_threads() == {expected}


def test_many_users_of_the_same_workers_get_their_own_results(two_blas_threads):
    workers = Workers(3)

    def numbered(user):
        return list(workers.map(lambda item: (user, item), range(7)))

    with ThreadPoolExecutor(6) as pool:
        for _ in range(20):
            found = pool.map(numbered, range(6))
            assert list(found) == [[(user, item) for item in range(7)] for user in range(6)]
    assert blas_threads() == {2}


def test_work_that_has_work_done_itself_does_not_wait_for_threads_that_wait():
    workers = Workers(2)

    def outer(item):
        return list(workers.map(lambda inner: (item, inner), range(4)))

    def all_of_it():
        return list(workers.map(outer, range(5)))

    thread = threading.Thread(target=lambda: found.append(all_of_it()), daemon=True)
    found = []
    thread.start()
    thread.join(HANG)
    assert found == [[[(item, inner) for inner in range(4)] for item in range(5)]]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("items", [1, 5])
def test_the_threads_record_if_the_one_that_asks_does(threads, items):
    workers = Workers(threads)

    def recorded(item):
        return is_grad_enabled()

    for _ in range(2):
        assert list(workers.map(recorded, range(items))) == [True] * items
        with tg.no_grad():
            assert list(workers.map(recorded, range(items))) == [False] * items


@pytest.mark.parametrize("threads", [1, 2])
def test_the_threads_handle_numbers_as_the_one_that_asks(threads):
    def overflow(item):
        return np.float32(1e38) * np.float32(10)

    workers = Workers(threads)
    with np.errstate(all="ignore"):
        assert list(workers.map(overflow, range(3))) == [np.inf] * 3
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        list(workers.map(overflow, range(3)))


def test_gradients_of_several_threads_at_once_are_those_of_each(two_blas_threads):
    workers = Workers(2)

    def gradient(seed):
        generator = tg.Generator(seed)
        w = tg.Tensor(np.random.default_rng(seed).normal(size=(64, 64))).requires_grad_()
        shards = np.random.default_rng(seed + 1).normal(size=(4, 32, 64))
        for _ in range(3):
            w.grad = None
            parallel.backward(
                lambda x: ((tg.Tensor(x) @ w) ** 2).sum(),
                list(shards),
                [1.0] * 4,
                [w],
                workers=workers,
                dropout=generator.dropout,
            )
        return w.grad.numpy()

    expected = [gradient(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for found, each in zip(pool.map(gradient, range(4)), expected, strict=True):
            np.testing.assert_array_equal(found, each)
    assert blas_threads() == {2}
