import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.gradcheck import gradcheck
from tinygrad_char.models.bigram import Bigram
from tinygrad_char.modes import no_grad
from tinygrad_char.random import Generator


def make(vocab_size=5, seed=0):
    return Bigram(vocab_size, 4, generator=Generator(seed))


def tokens(shape, vocab_size=5, seed=2):
    return np.random.default_rng(seed).integers(0, vocab_size, shape)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 6), st.integers(0, 99))
def test_every_gradient_agrees_with_differences(vocab_size, batch, time, seed):
    model = make(vocab_size, seed).astype("float64")
    idx = tokens((batch, time), vocab_size, seed)
    targets = tokens((batch, time), vocab_size, seed + 1)
    gradcheck(lambda *parameters: model(idx, targets), list(model.parameters()))


def test_the_gradient_is_what_softmax_expects_less_what_came():
    model = make().astype("float64")
    idx, targets = tokens((3, 4)), tokens((3, 4), seed=9)
    _, loss = model(idx, targets)
    loss.backward()
    table = model.table.weight.detach().numpy()
    expected = np.zeros((5, 5))
    for i, j in zip(idx.flat, targets.flat, strict=True):
        p = np.exp(table[i]) / np.exp(table[i]).sum()
        p[j] -= 1
        expected[i] += p / idx.size
    assert np.abs(model.table.weight.grad.detach().numpy() - expected).max() < 1e-15


def test_logits_are_the_rows_of_the_table():
    model = make()
    idx = tokens((3, 4))
    logits, loss = model(idx)
    assert loss is None
    assert np.array_equal(logits.detach().numpy(), model.table.weight.detach().numpy()[idx])


def test_the_table_is_all_that_is_trained():
    model = make(65)
    assert model.num_parameters() == 65 * 65
    assert [name for name, _ in model.named_parameters()] == ["table.weight"]


def test_the_table_starts_as_standard_normal_numbers():
    values = make(200).table.weight.detach().numpy().astype(np.float64)
    n = values.size
    assert abs(values.mean()) < 5 / math.sqrt(n)
    assert abs(values.std() - 1) < 5 / math.sqrt(2 * n)


def test_only_the_last_character_matters_and_no_length_is_too_long():
    model = make()
    idx = tokens((1, 50))
    with no_grad():
        whole, last = model(idx)[0].detach().numpy(), model(idx[:, -1:])[0].detach().numpy()
    assert np.array_equal(whole[:, -1], last[:, -1])


def test_the_table_of_log_frequencies_has_the_lowest_loss():
    text = tokens(400, 4, seed=5)
    counts = np.zeros((4, 4))
    np.add.at(counts, (text[:-1], text[1:]), 1)
    assert counts.min() > 0
    frequencies = counts / counts.sum(axis=1, keepdims=True)
    entropy = -(counts * np.log(frequencies)).sum() / counts.sum()
    model = make(4).astype("float64")
    model.table.weight.data = np.log(frequencies)
    _, loss = model(text[None, :-1], text[None, 1:])
    assert abs(loss.item() - entropy) < 1e-12
    loss.backward()
    assert np.abs(model.table.weight.grad.detach().numpy()).max() < 1e-15


@pytest.mark.parametrize("index", [5, -1])
def test_an_index_outside_the_vocabulary_is_named(index):
    idx = tokens((2, 4))
    idx[1, 2] = index
    with pytest.raises(IndexError, match=rf"\(1, 2\) is {index}, .*from 0 to 4"):
        make()(idx)


@pytest.mark.parametrize("vocab_size", [0, -1, 1.5])
def test_a_vocabulary_without_characters_is_refused(vocab_size):
    with pytest.raises(ValueError, match="num_embeddings"):
        make(vocab_size)
