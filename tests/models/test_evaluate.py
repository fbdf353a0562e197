import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char import Tensor
from tinygrad_char.models import evaluate
from tinygrad_char.models.batches import OverlappingWindows
from tinygrad_char.models.bigram import Bigram
from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.evaluate import (
    InterruptedEvaluationError,
    Loss,
    evaluating,
    fixed_batches,
    mean_loss,
    strided_loss,
    whole_split_loss,
)
from tinygrad_char.models.gpt import GPT, GPTConfig
from tinygrad_char.modes import is_grad_enabled, no_grad
from tinygrad_char.nn.module import Module
from tinygrad_char.random import Generator

VOCABULARY = 6


def make_gpt(block_size=5, dropout=0.0):
    model = GPT(GPTConfig(block_size, 1, 2, 6, dropout), VOCABULARY, generator=Generator(0))
    rng = np.random.default_rng(1)
    for parameter in model.parameters():
        parameter.data = parameter.detach().numpy() + rng.normal(0, 0.3, parameter.shape)
    return model.astype("float64")


def make_bigram(block_size=5):
    return Bigram(VOCABULARY, block_size, generator=Generator(0)).astype("float64")


makers = pytest.mark.parametrize("make", [make_gpt, make_bigram])


def random_text(size, seed=2):
    return np.random.default_rng(seed).integers(0, VOCABULARY, size).astype(np.uint8)


def one_character_at_a_time(model, text):
    """Return the mean loss, with each character predicted by a call of its own."""
    losses = []
    for target in range(1, len(text)):
        start = (target - 1) // model.block_size * model.block_size
        with no_grad():
            logits, _ = model(text[None, start:target])
        row = logits.numpy()[0, -1]
        losses.append(math.log(np.exp(row).sum()) - row[text[target]])
    return math.fsum(losses) / len(losses)


@makers
@pytest.mark.parametrize("size", [2, 5, 6, 7, 31, 34])
def test_the_loss_of_a_split_is_the_mean_over_every_target(make, size):
    model, text = make(), random_text(size)
    loss = whole_split_loss(model, text)
    assert loss.characters == size - 1
    assert abs(loss.nats - one_character_at_a_time(model, text)) < 1e-12


def with_half_a_window(model, text):
    """Return the strided loss by its definition: each target after what its window has of it."""
    losses, half = [], model.block_size // 2
    stride = model.block_size - half
    for target in range(1, len(text)):
        start = max(0, (target - 1 - half) // stride * stride)
        if start + model.block_size > len(text) - 1:  # the last window ends with the text
            done = (len(text) - 1 - model.block_size) // stride * stride + model.block_size
            start = max(0, len(text) - 1 - model.block_size) if target > done else start
        with no_grad():
            row = model(text[None, start:target])[0].numpy()[0, -1]
        losses.append(math.log(np.exp(row).sum()) - row[text[target]])
    return math.fsum(losses) / len(losses)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 60), st.integers(1, 9), st.integers(1, 200))
def test_the_strided_loss_has_half_a_window_before_each_target(size, block_size, characters):
    model, text = make_gpt(block_size), random_text(size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "WHOLE_SPLIT_CHARACTERS", characters)
        loss = strided_loss(model, text)
    assert loss.characters == size - 1
    assert abs(loss.nats - with_half_a_window(model, text)) < 1e-12


@settings(deadline=None)
@given(st.integers(2, 90), st.integers(1, 12), st.integers(1, 5))
def test_overlapping_windows_have_every_target_once_after_half_a_window(size, block, batch):
    tokens = np.arange(size)
    counted = []
    for x, y, context in OverlappingWindows(tokens, block, batch):
        assert x.shape == y.shape
        assert len(x) <= batch
        np.testing.assert_array_equal(y, x + 1)
        assert context >= block // 2 or not x[0, 0]
        counted += y[:, context:].ravel().tolist()
    assert counted == list(range(1, size))


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 80), st.integers(1, 9), st.integers(1, 200))
def test_the_loss_of_a_split_does_not_depend_on_the_size_of_batches(size, block_size, characters):
    model, text = make_gpt(block_size), random_text(size)
    expected = whole_split_loss(model, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "WHOLE_SPLIT_CHARACTERS", characters)
        loss = whole_split_loss(model, text)
    assert loss.characters == expected.characters == size - 1
    assert abs(loss.nats - expected.nats) < 1e-12


@pytest.mark.parametrize(
    ("characters", "logits", "expected"),
    [(20, 1 << 20, 4), (1 << 20, 10, 1), (1 << 20, 5 * 7 * 12, 7), (1, 1, 1)],
)
def test_a_batch_of_a_split_has_few_characters_and_few_logits(characters, logits, expected):
    vocab_size, block_size, seen = 12, 5, []

    class Uniform(Module):
        def __init__(self):
            super().__init__()
            self.vocab_size, self.block_size = vocab_size, block_size

        def forward(self, x, y):
            seen.append(len(x))
            return None, Tensor(np.array(0.0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "WHOLE_SPLIT_CHARACTERS", characters)
        patch.setattr(evaluate, "WHOLE_SPLIT_LOGITS", logits)
        whole_split_loss(Uniform(), random_text(1 + 10 * expected * block_size))
    assert seen == [expected] * 10


@makers
def test_the_loss_of_a_split_is_the_same_each_time(make):
    model, text = make(), random_text(500)
    assert whole_split_loss(model, text) == whole_split_loss(model, text)


def test_dropout_takes_no_part_in_an_evaluation():
    text = random_text(100)
    dropping, plain = make_gpt(dropout=0.5), make_gpt()
    assert whole_split_loss(dropping, text) == whole_split_loss(plain, text)


def test_a_mean_weighs_batches_by_their_targets():
    model, text = make_bigram(), random_text(40)
    batches = [(text[None, :3], text[None, 1:4]), (text[None, 5:30], text[None, 6:31])]
    losses = [mean_loss(model, [batch]) for batch in batches]
    assert [loss.characters for loss in losses] == [3, 25]
    expected = (3 * losses[0].nats + 25 * losses[1].nats) / 28
    together = mean_loss(model, batches)
    assert together.characters == 28
    assert abs(together.nats - expected) < 1e-14


def test_fixed_batches_depend_on_nothing_but_the_arguments():
    text = random_text(300)
    np.random.seed(1)
    first = fixed_batches(text, 5, 4, 3)
    np.random.seed(2)
    second = fixed_batches(text, 5, 4, 3)
    assert len(first) == 3
    for (x, y), (x_again, y_again) in zip(first, second, strict=True):
        assert x.shape == y.shape == (4, 5)
        assert np.array_equal(x, x_again)
        assert np.array_equal(y, y_again)
        assert np.array_equal(x[:, 1:], y[:, :-1])
    assert not np.array_equal(first[0][0], first[1][0])


def test_more_fixed_batches_begin_with_the_same_ones():
    text = random_text(300)
    few, more = fixed_batches(text, 5, 4, 2), fixed_batches(text, 5, 4, 6)
    assert all(np.array_equal(a, b) for a, b in zip(few, more[:2], strict=True))


def modes(model):
    return {module.training for module in model.modules()}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_evaluation_stops_between_batches_when_asked_to(after, training):
    model = make_gpt(dropout=0.5).train(training)
    asked = itertools.count()
    batches = fixed_batches(random_text(300), 5, 4, 5)
    with pytest.raises(InterruptedEvaluationError):
        mean_loss(model, batches, lambda: next(asked) == after)
    assert next(asked) == after + 1
    assert modes(model) == {training}
    assert is_grad_enabled()


def test_the_evaluation_of_a_split_stops_when_asked_to():
    with pytest.raises(InterruptedEvaluationError):
        whole_split_loss(make_gpt(), random_text(300), lambda: True)


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_is_kept(training):
    model = make_gpt(dropout=0.5).train(training)
    whole_split_loss(model, random_text(30))
    assert modes(model) == {training}
    with pytest.raises(IndexError, match="99"):
        mean_loss(model, [(np.array([[99]]), np.array([[0]]))])
    assert modes(model) == {training}


@pytest.mark.parametrize("training", [False, True])
def test_while_evaluating_nothing_is_dropped_or_recorded(training):
    model = make_gpt(dropout=0.5).train(training)
    with evaluating(model):
        assert modes(model) == {False}
        assert not is_grad_enabled()
        _, loss = model(random_text(5)[None], random_text(5)[None])
    assert not loss.requires_grad
    assert modes(model) == {training}


def test_a_split_of_one_character_is_refused():
    with pytest.raises(UsageError, match="nothing to predict in 1 tokens"):
        whole_split_loss(make_gpt(), random_text(1))


def test_a_loss_is_told_in_bits_and_as_perplexity():
    loss = Loss(math.log(8), 10)
    assert abs(loss.bits_per_character - 3) < 1e-12
    assert abs(loss.perplexity - 8) < 1e-12
    assert Loss(1e6, 10).perplexity == math.inf
