"""Published runs, replayed: a slice of each, and that nothing but the draws decides the result."""

import os
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from models.batches import Split, random_batch, split_corpus
from models.bigram import Bigram
from models.ladder import LADDER
from models.replay import (
    RECIPES,
    Recipe,
    estimate_loss,
    replay_rung,
    sample,
    sample_published,
    train_steps,
)
from models.tokenizer import CharTokenizer
from tinygrad_char.autograd import no_grad
from tinygrad_char.optim import AdamW
from tinygrad_char.torch_random import TorchGenerator

CHARACTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
FIRST_BATCH = ["Let's hea", "for that ", "nt that h", "MEO:\nI pa"]
FIRST_STARTS = [76049, 234249, 934904, 560986]
UNTRAINED_LOSS = 4.878634929656982
UNTRAINED_TEXT = (
    "\nSKIcLT;AcELMoTbvZv C?nq-QE33:CJqkOKH-q;:la!oiywkHjgChzbQ?u!3bLIgwevmyFJGUGp"
    "\nwnYWmnxKWWev-tDqXErVKLgJ"
)
TRAINED_LOSS = 2.382369041442871
TRAINED_TEXT = "\nlso br. ave aviasurf my, yxMPZI ivee iuedrd whar ksth y h bora s be hese, woweee;"

FIRST_ROWS = {
    "bigram": (4.7305, 4.7241),
    "emblinear": (4.3278, 4.3231),
    "head": (4.1743, 4.1712),
    "mha": (4.2248, 4.2250),
    "ffn": (4.2022, 4.2019),
    "blocks3": (4.2116, 4.2078),
    "resid": (4.6328, 4.6313),
    "lnorm": (4.3103, 4.3100),
}
ROWS_AT_400 = {
    "bigram": (2.6480, 2.6667),
    "emblinear": (2.4982, 2.5163),
    "head": (2.8712, 2.8892),
    "mha": (2.7330, 2.7487),
}
"""Of the rungs without ReLU, where rounding does not grow."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Small products on several threads round differently, and crawl on a busy machine."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def published():
    """The text of the published runs, cut in two."""
    folder = os.environ.get("TINYGRAD_CHAR_DATA")
    if not folder:
        pytest.skip("TINYGRAD_CHAR_DATA names no folder with tinyshakespeare.txt")
    text = (Path(folder) / "tinyshakespeare.txt").read_bytes().decode("utf-8")
    tokenizer = CharTokenizer.from_text(text)
    assert "".join(tokenizer.characters) == CHARACTERS
    return split_corpus(tokenizer.encode(text), 8)


def some_tokens(length=3000, seed=0):
    return np.random.default_rng(seed).integers(0, 65, length)


def some_split():
    return Split(some_tokens(), some_tokens(700, 1))


def untrained_bigram():
    generator = TorchGenerator(1337)
    return Bigram(65, 8, generator=generator), generator


def weights(model):
    return [each.detach().numpy().copy() for each in model.parameters()]


def test_the_untrained_bigram_says_what_was_published():
    tokenizer = CharTokenizer(CHARACTERS)
    windows = np.array([tokenizer.encode(text) for text in FIRST_BATCH])
    model, generator = untrained_bigram()
    _, loss = model(windows[:, :-1], windows[:, 1:])
    assert loss.item() == UNTRAINED_LOSS
    assert tokenizer.decode(sample(model, 100, generator)) == UNTRAINED_TEXT


def test_the_first_batch_is_the_published_one(published):
    starts = TorchGenerator(1337).integers(0, len(published.train) - 8, 4)
    assert starts.tolist() == FIRST_STARTS
    x, y = random_batch(published.train, 8, 4, TorchGenerator(1337))
    tokenizer = CharTokenizer(CHARACTERS)
    assert [tokenizer.decode(row) for row in x] == [text[:-1] for text in FIRST_BATCH]
    assert [tokenizer.decode(row) for row in y] == [text[1:] for text in FIRST_BATCH]


def test_ten_thousand_steps_end_at_the_published_loss(published):
    model, generator = untrained_bigram()
    sample(model, 100, generator)
    optimizer = AdamW(model.parameters(), lr=1e-3)
    loss = train_steps(model, optimizer, published.train, 32, 10_000, generator)
    assert loss == TRAINED_LOSS
    text = CharTokenizer(CHARACTERS).decode(sample(model, len(TRAINED_TEXT) - 1, generator))
    assert text == TRAINED_TEXT


@pytest.mark.parametrize("name", LADDER)
def test_the_first_row_is_the_published_one(published, name):
    _, rows = replay_rung(name, published, 65, recipe=Recipe(RECIPES[name].lr, 1))
    assert [(row.step, round(row.train, 4), round(row.validation, 4)) for row in rows] == [
        (0, *FIRST_ROWS[name])
    ]


@pytest.mark.parametrize("name", ROWS_AT_400)
def test_a_later_row_is_the_published_one(published, name):
    _, rows = replay_rung(name, published, 65, recipe=Recipe(RECIPES[name].lr, 401))
    assert [row.step for row in rows] == [0, 200, 400]
    assert (round(rows[-1].train, 4), round(rows[-1].validation, 4)) == ROWS_AT_400[name]


def one_by_one(model, tokens, batch_size, batches, generator):
    """Return the mean of the losses of batches, drawn and computed one by one."""
    losses = np.empty(batches, np.float32)
    for number in range(batches):
        with no_grad():
            _, loss = model(*random_batch(tokens, model.block_size, batch_size, generator))
        losses[number] = loss.item()
    return losses.mean()


@pytest.mark.parametrize(("batch_size", "batches"), [(1, 1), (4, 7), (32, 33), (600, 3)])
@pytest.mark.parametrize("name", ["bigram", "mha", "lnorm"])
def test_the_estimate_is_that_of_batches_one_by_one(name, batch_size, batches):
    model = LADDER[name](65, generator=TorchGenerator(3))
    ours, theirs = TorchGenerator(4), TorchGenerator(4)
    value = estimate_loss(model, some_tokens(), batch_size, batches, ours)
    expected = one_by_one(model, some_tokens(), batch_size, batches, theirs)
    assert expected.dtype == np.float32
    # A loss is about 4: a few of its roundings, since sums of other lengths round differently.
    assert abs(value - expected) <= 4 * np.spacing(expected)
    assert float(np.float32(value)) == value
    assert np.array_equal(ours.words(3), theirs.words(3))


def test_an_estimate_changes_neither_weights_nor_gradients():
    model, generator = untrained_bigram()
    before = weights(model)
    estimate_loss(model, some_tokens(), 4, 3, generator)
    assert np.array_equal(before, weights(model))
    assert all(each.grad is None for each in model.parameters())


def test_training_is_batch_backward_update_in_this_order():
    ours, generator = untrained_bigram()
    seen = []

    def before_update(step):
        seen.append((step, weights(ours)))

    optimizer = AdamW(ours.parameters(), lr=1e-2)
    loss = train_steps(ours, optimizer, some_tokens(), 4, 3, generator, before_update)
    theirs, other = untrained_bigram()
    optimizer = AdamW(theirs.parameters(), lr=1e-2)
    for step in range(3):
        assert seen[step][0] == step
        assert np.array_equal(seen[step][1], weights(theirs))
        _, expected = theirs(*random_batch(some_tokens(), 8, 4, other))
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
    assert len(seen) == 3
    assert loss == expected.item()
    assert np.array_equal(weights(ours), weights(theirs))
    assert np.array_equal(generator.words(3), other.words(3))


@pytest.mark.parametrize("name", LADDER)
@pytest.mark.parametrize("seed", [1337, 42])
def test_a_replay_draws_in_the_published_order(name, seed):
    recipe = Recipe(lr=1e-2, steps=4, batch_size=3, eval_every=2, eval_batches=5)
    split = some_split()
    told = []
    ours, rows = replay_rung(name, split, 65, seed=seed, recipe=recipe, on_row=told.append)
    assert told == rows
    assert [row.step for row in rows] == [0, 2, 3]

    generator = TorchGenerator(seed)
    model = LADDER[name](65, generator=generator)
    optimizer = AdamW(model.parameters(), lr=1e-2)
    for step in range(4):
        if step != 1:
            row = rows[[0, 2, 3].index(step)]
            assert row.train == estimate_loss(model, split.train, 3, 5, generator)
            assert row.validation == estimate_loss(model, split.validation, 3, 5, generator)
        train_steps(model, optimizer, split.train, 3, 1, generator)
    assert np.array_equal(
        np.concatenate([each.ravel() for each in weights(ours)]),
        np.concatenate([each.ravel() for each in weights(model)]),
    )


@pytest.mark.parametrize("build", ["default", "mkl", "cuda"])
@pytest.mark.parametrize("name", ["bigram", "head", "lnorm"])
def test_a_sample_is_that_of_a_plain_loop(name, build):
    model = LADDER[name](65, generator=TorchGenerator(5))
    drawn = sample(model, 30, TorchGenerator(6, build), start=7)
    generator = TorchGenerator(6, build)
    tokens = [7]
    for _ in range(30):
        with no_grad():
            logits, _ = model(np.array([tokens[-8:]]))
        p = np.exp(logits.numpy()[:, -1])
        tokens.append(int(generator.multinomial(p / p.sum())[0]))
    assert drawn == tokens


def test_published_text_is_drawn_on_a_gpu_from_a_fresh_seed():
    model, _ = untrained_bigram()
    expected = sample(model, 20, TorchGenerator(42, "cuda"))
    assert sample_published(model, 20, seed=42) == expected
    assert sample_published(model, 20) == sample(model, 20, TorchGenerator(1337, "cuda"))


def test_an_empty_sample_is_the_start():
    model, generator = untrained_bigram()
    assert sample(model, 0, generator, start=9) == [9]
