"""The mode of a model is the call's own, whoever else uses it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tinygrad_char import nn, no_grad
from tinygrad_char.models.bigram import Bigram
from tinygrad_char.models.config import GPTConfig
from tinygrad_char.models.evaluate import evaluating, fixed_batches, mean_loss
from tinygrad_char.models.generate import Context, Sampling, generate
from tinygrad_char.models.gpt import GPT
from tinygrad_char.parallel import Workers
from tinygrad_char.random import Generator, sampling_streams
from tinygrad_char.tensor import Tensor

VOCABULARY = 11
TEXT = np.random.default_rng(2).integers(0, VOCABULARY, 300).astype(np.uint8)


pytestmark = pytest.mark.usefixtures("eager_switching")


def make_gpt():
    generator = Generator(0)
    model = GPT(GPTConfig(8, 2, 2, 8, 0.5), VOCABULARY, generator=generator)
    rng = np.random.default_rng(1)
    with no_grad():
        for parameter in model.parameters():
            parameter += rng.normal(0, 0.3, parameter.shape).astype(np.float32)
    return model, generator


def write(model, seed, **options):
    streams = sampling_streams(seed, 2)
    return [
        token.tolist()
        for token in generate(model, np.array([1, 2]), 40, Sampling(), streams, **options)
    ]


def train(model, steps):
    """Return the losses and the last gradients of steps that leave the weights as they are."""
    batches = fixed_batches(TEXT, 8, 4, 3)
    losses = []
    for step in range(steps):
        model.zero_grad()
        _, loss = model(*batches[step % 3])
        loss.backward()
        losses.append(loss.item())
    return losses, [each.grad.numpy().copy() for each in model.parameters()]


@pytest.mark.parametrize("options", [{}, {"cache": False}, {"slide": True}])
def test_six_threads_write_and_evaluate_while_another_one_trains(options):
    alone, _ = make_gpt()
    expected_losses, expected_gradients = train(alone, 30)
    assert len(set(expected_losses)) == 30  # every step drops others
    alone.eval()
    texts = [write(alone, seed, **options) for seed in range(6)]
    batches = fixed_batches(TEXT, 8, 4, 5)
    loss = mean_loss(alone, batches)

    model, _ = make_gpt()
    done = threading.Event()

    def read(seed):
        rounds = 0
        while not done.is_set() or rounds < 2:
            assert write(model, seed, **options) == texts[seed]
            assert mean_loss(model, batches, workers=Workers(2)) == loss
            rounds += 1

    with ThreadPoolExecutor(7) as pool:
        readers = [pool.submit(read, seed) for seed in range(6)]
        try:
            losses, gradients = pool.submit(train, model, 30).result()
        finally:
            done.set()
        for each in readers:
            each.result()
    assert losses == expected_losses
    for found, expected in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert all(each.training for each in model.modules())


class Watched(nn.Module):
    """A model that notes the modes that its forward sees."""

    block_size = 4

    def __init__(self):
        super().__init__()
        self.model = Bigram(VOCABULARY, 4, generator=Generator(0))
        self.dropout = nn.Dropout(0.5)
        self.seen = []

    def forward(self, idx, targets=None):
        threads = threading.current_thread() is threading.main_thread()
        self.seen.append((self.training, self.dropout.training, threads))
        return self.model(idx, targets)


def test_the_threads_of_an_evaluation_see_its_mode():
    model = Watched()
    mean_loss(model, fixed_batches(TEXT, 4, 2, 8), workers=Workers(3))
    assert model.seen == [(False, False, False)] * 8
    assert model.training
    assert model.dropout.training
    mean_loss(model, fixed_batches(TEXT, 4, 2, 1))
    assert model.seen[-1] == (False, False, True)


def test_the_mode_of_a_call_is_seen_by_this_thread_alone():
    model, other = Watched(), Watched()
    model.dropout.eval()
    with ThreadPoolExecutor(1) as pool:

        def elsewhere():
            return pool.submit(lambda: (model.training, model.dropout.training)).result()

        with evaluating(model):
            assert (model.training, model.dropout.training) == (False, False)
            assert elsewhere() == (True, False)
            assert other.training
            with evaluating(other):
                assert (model.training, other.training) == (False, False)
            assert other.training
            model.train()
            assert (model.training, model.dropout.training) == (False, False)
            assert elsewhere() == (True, True)
        assert (model.training, model.dropout.training) == (True, True)


def test_an_evaluation_that_fails_leaves_the_mode_as_it_was():
    model = Watched()
    with pytest.raises(IndexError, match="99"):
        mean_loss(model, [(np.array([[99]]), np.array([[0]]))])
    assert model.training


def test_a_mode_that_is_set_by_another_thread_does_not_change_a_call():
    model, _ = make_gpt()
    expected = write(model.eval(), 0)
    context = Context(model, np.array([[1, 2]]), cache=False)
    for _ in range(3):
        with evaluating(model), ThreadPoolExecutor(1) as pool:
            pool.submit(model.train).result()
            again = context.logits()
        assert np.array_equal(again, context.logits())
    assert write(model, 0) == expected


def test_tasks_that_take_turns_in_one_thread_have_modes_of_their_own():
    model = Watched()
    seen = []

    async def evaluate():
        with nn.EvaluationMode(model).active():
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(("evaluates", model.training))

    async def trains():
        for _ in range(3):
            await asyncio.sleep(0)
            seen.append(("trains", model.training))

    async def both():
        await asyncio.gather(evaluate(), trains())

    asyncio.run(both())
    assert set(seen) == {("evaluates", False), ("trains", True)}


def test_batch_statistics_are_left_alone_by_an_evaluation():
    norm = nn.BatchNorm1d(3)
    x = Tensor(np.random.default_rng(0).normal(5, 2, (8, 3)).astype(np.float32))
    norm(x)
    before = norm.running_mean.numpy().copy()
    with evaluating(norm):
        norm(x)
        [result] = Workers(2).map(norm, [x])
    np.testing.assert_array_equal(norm.running_mean.numpy(), before)
    with no_grad():
        np.testing.assert_array_equal(norm.eval()(x).numpy(), result.numpy())
