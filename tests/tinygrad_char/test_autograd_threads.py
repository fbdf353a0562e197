"""Eight threads at once on the same parameters."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import functional as F
from tinygrad_char import nn, optim

THREADS = 8
ROUNDS = 20


def together(work):
    """Return [work(0), ..., work(7)], each called in a thread of its own and started at once."""
    start = threading.Barrier(THREADS)

    def run(number):
        start.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


pytestmark = pytest.mark.usefixtures("eager_switching")


@pytest.fixture
def model():
    generator = tg.Generator(0)
    model = nn.Sequential(
        nn.Embedding(11, 8, generator=generator),
        nn.CausalSelfAttention(8, 2, generator=generator),
        nn.LayerNorm(8),
        nn.Linear(8, 11, generator=generator),
    )
    return model.astype(np.float64)


def loss_of(model, number):
    rng = np.random.default_rng(number)
    idx, targets = rng.integers(0, 11, (2, 3, 5))
    return F.cross_entropy(model(idx), targets)


def expected_gradients(model, number):
    return [g.numpy() for g in tg.grad(loss_of(model, number), list(model.parameters()))]


def test_grad_gives_each_thread_its_own(model):
    expected = [expected_gradients(model, number) for number in range(THREADS)]
    parameters = list(model.parameters())

    def work(number):
        for _ in range(ROUNDS):
            for got, want in zip(
                tg.grad(loss_of(model, number), parameters), expected[number], strict=True
            ):
                np.testing.assert_array_equal(got.numpy(), want)

    together(work)
    assert all(each.grad is None for each in parameters)


@pytest.mark.parametrize("flat", [False, True], ids=["own memory", "optimizer's buffer"])
def test_backward_adds_up_what_all_threads_bring(model, flat):
    parameters = list(model.parameters())
    if flat:
        optim.SGD(parameters, lr=0.1)
    expected = [expected_gradients(model, number) for number in range(THREADS)]

    def work(number):
        for _ in range(ROUNDS):
            loss_of(model, number).backward()

    together(work)
    for position, parameter in enumerate(parameters):
        total = ROUNDS * sum(each[position] for each in expected)
        np.testing.assert_allclose(parameter.grad.numpy(), total, rtol=1e-10, atol=1e-12)


def test_large_gradients_of_several_threads_do_not_get_lost():
    # NumPy lets other threads run while it adds large arrays.
    x = tg.Tensor(np.zeros(300_000), requires_grad=True)
    cotangent = np.ones(x.shape)

    def work(number):
        for _ in range(ROUNDS):
            x.backward(cotangent)

    together(work)
    assert x.grad.numpy().min() == x.grad.numpy().max() == THREADS * ROUNDS


def test_hooks_see_the_gradient_of_their_own_thread():
    x = tg.Tensor(np.float64(1.0), requires_grad=True)
    seen = []
    x.register_hook(lambda g: seen.append(g.item()))
    together(lambda number: [(x * (number + 1)).backward() for _ in range(ROUNDS)])
    assert sorted(seen) == sorted([float(n + 1) for n in range(THREADS)] * ROUNDS)
    assert x.grad.item() == sum(seen)


def test_no_grad_stays_in_its_thread():
    x = tg.Tensor(2.0, requires_grad=True)
    middle = threading.Barrier(THREADS)

    def work(number):
        if number % 2:
            with tg.no_grad():
                middle.wait()
                recorded = (x * x).requires_grad
                middle.wait()
        else:
            middle.wait()
            recorded = (x * x).requires_grad
            middle.wait()
        return recorded, tg.is_grad_enabled()

    assert together(work) == [(number % 2 == 0, True) for number in range(THREADS)]


def test_a_new_thread_records_whatever_its_parent_does():
    with tg.no_grad(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(tg.is_grad_enabled).result()


def test_detect_nonfinite_stays_in_its_thread():
    x = tg.Tensor(np.float64(np.inf), requires_grad=True)
    with tg.detect_nonfinite(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: (x * 1).item()).result() == np.inf


def test_dropout_keys_are_unique():
    stream = tg.Generator(0).dropout
    keys = together(lambda number: [stream.dropout_key() for _ in range(1000)])
    assert len({key for each in keys for key in each}) == THREADS * 1000


def test_dropout_layers_of_several_threads_draw_different_masks():
    layer = nn.Dropout(0.5, generator=tg.Generator(0))
    x = tg.Tensor(np.ones(64))
    masks = together(lambda number: [layer(x).numpy().tobytes() for _ in range(ROUNDS)])
    assert len({mask for each in masks for mask in each}) == THREADS * ROUNDS
