"""The lecture's bigram and its loss beside PyTorch, live: other seeds, texts, optimizers, rates."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinygrad_char.models import lecture
from tinygrad_char.models.batches import Split
from tinygrad_char.models.ladder import LADDER
from tinygrad_char.models.lecture import Choices
from tinygrad_char.models.replay import Recipe, printed_loss, replay_run
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.optim import Adam, AdamW
from tinygrad_char.tensor import Tensor
from tinygrad_char.torch_random import TorchGenerator

torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install -e '.[parity]'")

TEXT = "hii there, The quick brown fox jumps over the lazy dog.\n" * 30
ROUNDINGS = 4
"""Of a loss: PyTorch's sums over classes are added up in another order on other processors."""


def installed_build():
    torch.manual_seed(1)
    ours = TorchGenerator(1).exponential(8)
    return "default" if np.allclose(torch.empty(8).exponential_().numpy(), ours) else "mkl"


def close(ours, theirs):
    return abs(ours - theirs) <= ROUNDINGS * np.spacing(np.float32(theirs))


def draw(table, count):
    idx = torch.zeros((1, 1), dtype=torch.long)
    for _ in range(count):
        p = torch.softmax(table(idx)[:, -1], dim=-1)
        idx = torch.cat([idx, torch.multinomial(p, 1)], dim=1)
    return idx[0].tolist()


def bigram_of_torch(text, choices):
    """Return what `lecture.show_bigram` shows, as a notebook computes it."""
    tokenizer = CharTokenizer.from_text(text)
    data = torch.tensor(tokenizer.encode(text).astype(np.int64))

    def batch(size):
        starts = torch.randint(len(data) - 8, (size,))
        return (torch.stack([data[i + k : i + k + 8] for i in starts]) for k in (0, 1))

    def loss_of(x, y):
        return torch.nn.functional.cross_entropy(table(x).flatten(0, 1), y.flatten())

    torch.manual_seed(choices.seed)
    x, y = batch(4)
    torch.manual_seed(choices.seed)
    table = torch.nn.Embedding(len(tokenizer), len(tokenizer))
    results = [loss_of(x, y).item(), tokenizer.decode(draw(table, choices.samples[0]))]
    optimizer = getattr(torch.optim, choices.optimizer.__name__)(table.parameters())
    for length, rate in zip(choices.lengths, choices.rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        for _ in range(length):
            loss = loss_of(*batch(32))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        results.append(loss.item())
    return [*results, tokenizer.decode(draw(table, choices.samples[1]))]


@settings(deadline=None, max_examples=8)
@given(
    st.integers(0, 2**64 - 1),
    st.sampled_from([AdamW, Adam]),
    st.lists(st.tuples(st.integers(1, 40), st.sampled_from([1e-4, 1e-3, 1e-2])), min_size=1),
    st.booleans(),
)
@example(1337, AdamW, [(300, 1e-3)], True)
@example(42, Adam, [(100, 1e-3), (200, 1e-2)], False)
def test_the_bigram_is_pytorch_s(seed, optimizer, plan, final_newline):
    text = TEXT if final_newline else TEXT.removesuffix("\n")
    lengths, rates = zip(*plan[:3], strict=True)
    choices = Choices(seed, installed_build(), optimizer, lengths, rates, (20, 60))
    tokenizer = CharTokenizer.from_text(text)
    ours = []
    lecture.show_bigram(tokenizer.encode(text), tokenizer, choices, ours.append)
    for value, expected in zip(ours[1:], bigram_of_torch(text, choices), strict=True):
        if isinstance(expected, str):
            assert value == expected
        else:
            assert close(value, expected)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 700), st.integers(0, 2**32 - 1))
@example(256, 0)
@example(257, 0)
@example(4097, 0)
def test_losses_are_added_up_as_in_pytorch(count, seed):
    # Between 32 and 64 a loss equals its logit exactly, see test_replay.py.
    losses = np.random.default_rng(seed).uniform(32, 64, count).astype(np.float32)
    logits = Tensor(np.stack([np.zeros_like(losses), losses], axis=1))
    value = printed_loss(logits, np.zeros(count, np.int64))
    given_losses = torch.from_numpy(-losses)[:, None]
    expected = torch.nn.functional.nll_loss(given_losses, torch.zeros(count, dtype=torch.long))
    assert value == expected.item()


@pytest.mark.parametrize("name", LADDER)
def test_a_rung_trains_as_in_pytorch(name):
    from tinygrad_char.benchmarks.torch_ladder import replay_in_torch

    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 65, 3000), rng.integers(0, 65, 700))
    recipe = Recipe(lr=1e-3, steps=6, batch_size=4, eval_every=3, eval_batches=5)
    _, rows = replay_run(name, split, 65, TorchGenerator(42), recipe=recipe)
    for batched in (False, True):
        theirs = replay_in_torch(name, split, 65, 42, recipe, batched=batched)
        assert [row.step for row in rows] == [step for step, *_ in theirs] == [0, 3, 5]
        for row, (_, train, validation) in zip(rows, theirs, strict=True):
            assert abs(row.train - train) < 1e-5
            assert abs(row.validation - validation) < 1e-5


@pytest.mark.parametrize("seed", [1337, 42])
def test_the_head_and_the_norms_are_pytorch_s(seed):
    torch.manual_seed(seed)
    x = torch.randn(4, 8, 32)
    key, query, _ = (torch.nn.Linear(32, 16, bias=False) for _ in range(3))
    scores = query(x) @ key(x).transpose(-2, -1)
    scores = scores.masked_fill(torch.ones(8, 8).tril() == 0, float("-inf"))
    k, q = torch.randn(4, 8, 16), torch.randn(4, 8, 16)
    scaled = q @ k.transpose(-2, -1) * 16**-0.5
    ours = []
    lecture.show_head(seed, ours.append)
    expected = torch.softmax(scores, dim=-1)[0].detach().numpy()
    np.testing.assert_allclose(ours[1], expected, rtol=0, atol=5.1e-5)
    assert [float(line.split()[-1]) for line in ours[2:]] == [
        pytest.approx(each.var().item(), abs=5.1e-5) for each in (k, q, scaled)
    ]

    torch.manual_seed(seed)
    x = torch.randn(32, 100)
    lines = []
    lecture.show_normalization(seed, lines.append)
    for first, y in ((2, torch.nn.LayerNorm(100)(x)), (6, torch.nn.BatchNorm1d(100)(x))):
        for line, part in zip(lines[first : first + 2], (y[:, 0], y[0]), strict=True):
            *_, mean, _, std = line.split()
            assert float(mean) == pytest.approx(part.mean().item(), abs=5.1e-5)
            assert float(std) == pytest.approx(part.std().item(), abs=5.1e-5)
