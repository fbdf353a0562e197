"""The rungs of the ladder, beside PyTorch modules written as the lecture writes them."""

import numpy as np
import pytest

from tinygrad_char.models.gpt import GPT, GPTConfig
from tinygrad_char.models.ladder import LADDER
from tinygrad_char.random import Generator
from tinygrad_char.torch_random import TorchGenerator

VOCAB_SIZE, BATCH, BLOCK_SIZE = 65, 5, 8
PARAMETERS = {
    "bigram": 4225,
    "emblinear": 4225,
    "head": 4977,
    "mha": 7553,
    "ffn": 8609,
    "blocks3": 16865,
    "resid": 41921,
    "lnorm": 42369,
}
"""How many the published runs printed."""

rungs = pytest.mark.parametrize("name", LADDER)


def make(name, generator=None):
    return LADDER[name](VOCAB_SIZE, generator=generator or TorchGenerator(1337))


def batch(seed=2, vocab_size=VOCAB_SIZE, time=BLOCK_SIZE):
    return np.random.default_rng(seed).integers(0, vocab_size, (2, BATCH, time))


def test_the_rungs_are_the_published_ones():
    assert list(LADDER) == list(PARAMETERS)


@rungs
def test_parameters_are_as_many_as_published(name):
    assert make(name).num_parameters() == PARAMETERS[name]


@rungs
def test_logits_and_loss(name):
    model = make(name)
    idx, targets = batch()
    logits, none = model(idx)
    assert logits.shape == (BATCH, BLOCK_SIZE, VOCAB_SIZE)
    assert none is None
    again, loss = model(idx, targets)
    assert np.array_equal(logits.detach().numpy(), again.detach().numpy())
    below = logits.detach().numpy().astype(np.float64)
    log_sum = np.log(np.exp(below).sum(axis=-1))
    chosen = np.take_along_axis(below, targets[..., None], axis=-1)[..., 0]
    assert abs(loss.item() - (log_sum - chosen).mean()) < 1e-6


@rungs
def test_shorter_contexts_are_read(name):
    model = make(name)
    idx, _ = batch()
    whole, part = (model(each)[0].detach().numpy() for each in (idx, idx[:, :3]))
    np.testing.assert_allclose(part, whole[:, :3], rtol=0, atol=1e-5)


@rungs
def test_no_rung_sees_the_future(name):
    model = make(name)
    idx, other = batch()
    other[:, :5] = idx[:, :5]
    left, right = (model(each)[0].detach().numpy() for each in (idx, other))
    np.testing.assert_array_equal(left[:, :5], right[:, :5])
    assert np.abs(left[:, 5:] - right[:, 5:]).max() > 1e-4


def gpt_name(name):
    """Return the name that GPT has for a parameter of the last rung."""
    for ours, theirs in {
        "tokens.": "token_embedding.",
        "positions.": "position_embedding.",
        ".attention.qkv": ".attention.qkv.weight",
        ".projection.": ".attention.projection.",
        ".expand.": ".feed_forward.expand.",
        ".contract.": ".feed_forward.contract.",
    }.items():
        name = name.replace(ours, theirs)
    return name


def test_the_last_rung_is_the_gpt():
    rung = make("lnorm")
    noise = np.random.default_rng(1)
    for parameter in rung.parameters():
        parameter.data = parameter.detach().numpy() + noise.normal(0, 0.1, parameter.shape)
    gpt = GPT(GPTConfig(BLOCK_SIZE, 3, 4, 32), VOCAB_SIZE, generator=Generator(0))
    weights = {gpt_name(name): each.detach().numpy() for name, each in rung.named_parameters()}
    assert weights.keys() == {name for name, _ in gpt.named_parameters()}
    for name, parameter in gpt.named_parameters():
        parameter.data = weights[name]
    results = []
    for model in (rung, gpt):
        logits, loss = model(*batch())
        loss.backward()
        results.append((logits.detach().numpy(), loss.item()))
    assert np.array_equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    grads = {name: each.grad.numpy() for name, each in gpt.named_parameters()}
    for name, parameter in rung.named_parameters():
        # Sums over rows are taken in another order where an activation is part of a layer.
        np.testing.assert_allclose(
            parameter.grad.numpy(), grads[gpt_name(name)], rtol=1e-4, atol=1e-7, err_msg=name
        )


def test_the_scaled_gpt_has_as_many_parameters_as_published():
    config = GPTConfig(256, 6, 6, 384, dropout=0.2)
    assert GPT(config, VOCAB_SIZE, generator=Generator(0)).num_parameters() == 10788929
