"""Published runs, replayed: a slice of each, and that nothing but the draws decides the result."""

from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from tinygrad_char import functional as F
from tinygrad_char.models.batches import Split, random_batch, split_corpus
from tinygrad_char.models.bigram import Bigram
from tinygrad_char.models.ladder import LADDER, Sizes
from tinygrad_char.models.replay import (
    RECIPES,
    Recipe,
    estimate_loss,
    printed_loss,
    replay_run,
    sample,
    sample_published,
    train_steps,
)
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.modes import no_grad
from tinygrad_char.optim import Adam, AdamW
from tinygrad_char.parallel import Workers
from tinygrad_char.tensor import Tensor
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
TRAINED_TEXT = """
lso br. ave aviasurf my, yxMPZI ivee iuedrd whar ksth y h bora s be hese, woweee; the! KI 'de, ulse\
echerd d o blllando;LUCEO, oraingofof win!
RIfans picspeserer hee tha,
TOFonk? me ain ckntoty ded. bo'llll st ta d:
ELIS me hurf lal y, ma dus pe athouo
BEY:! Indy; by s afreanoo adicererupa anse tecorro llaus a!
OLeneerithesinthengove fal amas trr
TI ar I t, mes, n IUSt my w, fredeeyove
THek' merer, dd
We ntem lud engitheso; cer ize helorowaginte the?
Thak orblyoruldvicee chot, p,
Bealivolde Th li"""
ADAM_TEXT = """

weangond
OMave wap

I RO:
Banleenoalit-blt
INRon

UM: nd kngonesll;
O: pa heore 'ga llis?-sur inidind;
t me rthay n thavee
Sw s serer Fofow.
Houspathe t:
Mind fit.
DUKINoceamy hun.
CKIUShorst onre t ache bar, simed?
And me theluse BHENurind hesto f w m CK:
YCESI fatass mbre lious ave
Wer'dor' wod y:

Henkns ges wise we me y to elil'doug p in t her spalisusin t wndalu?Y ber lishms vekeang-lumod n od\
as ine a! thayayor hannd t; frat.
OLArZAUSum,
s I f pin hondecharvyouke helldid t we ke,
HOShe lll"""
"""Of a notebook with Adam, drawn by a PyTorch with MKL."""
LECTURE_UNTRAINED = (
    "\nSr?qP-QWktXoL&jLDJgOLVz'RIoDqHdhsV&vLLxatjscMpwLERSPyao.qfzs$Ys$zF-w,;eEkzxjgCKFChs!iWW.O"
    "bzDnxA Ms$3"
)
LECTURE_LOSS = 4.587916374206543
LECTURE_TEXT = (
    "\nxiKi-RJ:CgqVuUa!U?qMH.uk!sCuMXvv!CJFfx;LgRyJknOEti.?I&-gPlLyulId?XlaInQ'q,lT$"
    "\n3Q&sGlvHQ?mqSq-eON\nx?SP fUAfCAuCX:bOlgiRQWN:Mphaw\n"
)
"""Of the lecture's own notebook, after 100 steps: a PyTorch with MKL."""

FIRST_ROWS = {
    "bigram": (4.7305, 4.7241),
    "emblinear": (4.3278, 4.3231),
    "head": (4.1743, 4.1712),
    "mha": (4.2248, 4.2250),
    "ffn": (4.2022, 4.2019),
    "blocks3": (4.2116, 4.2078),
    "resid": (4.6328, 4.6313),
    "lnorm": (4.3103, 4.3100),
    "last": (4.4116, 4.4022),
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
def published(tiny_shakespeare):
    """The text of the published runs, cut in two."""
    tokenizer = CharTokenizer.from_text(tiny_shakespeare)
    assert "".join(tokenizer.characters) == CHARACTERS
    return split_corpus(tokenizer.encode(tiny_shakespeare), 8)


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


def published_walk(split, build, optimizer, lengths, characters):
    """Return the lecture's losses and samples: untrained, after each length, at the end."""
    tokenizer = CharTokenizer(CHARACTERS)
    generator = TorchGenerator(1337, build)
    model = Bigram(65, 8, generator=generator)
    before = tokenizer.decode(sample(model, 100, generator))
    updates = optimizer(model.parameters(), lr=1e-3)
    losses = [train_steps(model, updates, split.train, 32, each, generator) for each in lengths]
    return before, losses, tokenizer.decode(sample(model, characters, generator))


def test_the_lecture_s_own_notebook(published):
    before, (loss,), after = published_walk(published, "mkl", AdamW, [100], len(LECTURE_TEXT) - 1)
    assert before == LECTURE_UNTRAINED
    assert loss == LECTURE_LOSS
    assert after == LECTURE_TEXT


def test_ten_thousand_steps_end_at_the_published_loss(published):
    before, (loss,), after = published_walk(published, "default", AdamW, [10_000], 500)
    assert before == UNTRAINED_TEXT
    assert loss == TRAINED_LOSS
    assert after == TRAINED_TEXT


def test_adam_and_mkl_end_at_the_published_text(published):
    before, losses, after = published_walk(published, "mkl", Adam, [100, 1000, 10_000], 500)
    assert before == LECTURE_UNTRAINED
    assert losses == sorted(losses, reverse=True)
    assert after == ADAM_TEXT


@pytest.mark.parametrize("name", FIRST_ROWS)
def test_the_first_row_is_the_published_one(published, name):
    recipe = replace(RECIPES[name], steps=1)
    _, rows = replay_run(name, published, 65, TorchGenerator(1337), recipe=recipe)
    assert [(row.step, round(row.train, 4), round(row.validation, 4)) for row in rows] == [
        (0, *FIRST_ROWS[name])
    ]


@pytest.mark.parametrize("name", ROWS_AT_400)
def test_a_later_row_is_the_published_one(published, name):
    recipe = replace(RECIPES[name], steps=401)
    _, rows = replay_run(name, published, 65, TorchGenerator(1337), recipe=recipe)
    assert [row.step for row in rows] == [0, 200, 400]
    assert (round(rows[-1].train, 4), round(rows[-1].validation, 4)) == ROWS_AT_400[name]


def losses_as_logits(losses):
    """Return logits (N, 2) whose cross-entropy with target 0 is exactly the losses, all > 20."""
    return Tensor(np.stack([np.zeros_like(losses), losses], axis=1))


def test_a_printed_loss_is_added_up_in_sixteens():
    # One by one, the small ones are below half a unit in the last place of the first.
    losses = np.array([2.0**30, *[32.0] * 16], np.float32)
    value = printed_loss(losses_as_logits(losses), np.zeros(17, np.int64))
    assert value == float(np.float32(2**30 + 16 * 32) / np.float32(17))


@pytest.mark.parametrize("shape", [(1,), (3, 5), (32, 8), (2, 3, 50)])
def test_a_printed_loss_is_the_mean_loss(shape):
    rng = np.random.default_rng(0)
    logits = Tensor(rng.normal(size=(*shape, 65)).astype(np.float32), requires_grad=True)
    targets = rng.integers(0, 65, shape)
    expected = F.cross_entropy(logits, targets)
    value = printed_loss(logits, targets)
    assert float(np.float32(value)) == value
    assert abs(value - expected.item()) <= 4 * np.spacing(np.float32(value))


def test_training_needs_a_step():
    model, generator = untrained_bigram()
    with pytest.raises(ValueError, match="steps is 0; expected at least 1"):
        train_steps(model, AdamW(model.parameters()), some_tokens(), 4, 0, generator)


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
@pytest.mark.parametrize("threads", [1, 3])
def test_the_estimate_is_that_of_batches_one_by_one(name, batch_size, batches, threads):
    model = LADDER[name](65, generator=TorchGenerator(3))
    ours, theirs = TorchGenerator(4), TorchGenerator(4)
    value = estimate_loss(model, some_tokens(), batch_size, batches, ours, Workers(threads))
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
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert np.array_equal(weights(ours), weights(theirs))
    assert np.array_equal(generator.words(3), other.words(3))


@pytest.mark.parametrize("optimizer", [AdamW, Adam])
@pytest.mark.parametrize("name", LADDER)
@pytest.mark.parametrize("seed", [1337, 42])
def test_a_replay_draws_in_the_published_order(name, seed, optimizer):
    recipe = Recipe(lr=1e-2, steps=4, batch_size=3, eval_every=2, eval_batches=5)
    split = some_split()
    told = []
    generator = TorchGenerator(seed, "mkl")
    ours, rows = replay_run(
        name, split, 65, generator, recipe=recipe, optimizer=optimizer, on_row=told.append
    )
    assert told == rows
    assert [row.step for row in rows] == [0, 2, 3]

    other = TorchGenerator(seed, "mkl")
    model = LADDER[name](65, generator=other)
    updates = optimizer(model.parameters(), lr=1e-2)
    for step in range(4):
        if step != 1:
            row = rows[[0, 2, 3].index(step)]
            assert row.train == estimate_loss(model, split.train, 3, 5, other)
            assert row.validation == estimate_loss(model, split.validation, 3, 5, other)
        train_steps(model, updates, split.train, 3, 1, other)
    assert np.array_equal(
        np.concatenate([each.ravel() for each in weights(ours)]),
        np.concatenate([each.ravel() for each in weights(model)]),
    )
    assert sample(ours, 20, generator) == sample(model, 20, other)


def test_a_run_of_other_sizes():
    sizes = Sizes(block_size=5, n_embd=12, n_head=3, n_block=1)
    recipe = Recipe(1e-2, 2, 3, eval_batches=2, rung="lnorm", sizes=sizes)
    model, rows = replay_run("any name", some_split(), 65, TorchGenerator(1), recipe=recipe)
    assert model.block_size == 5
    assert [each.shape for each in model.parameters()][:2] == [(65, 12), (5, 12)]
    assert [row.step for row in rows] == [0, 1]


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
