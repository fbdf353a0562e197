import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.gradcheck import gradcheck
from tinygrad_char.models.build import parameter_count
from tinygrad_char.models.config import PRESETS, TrainConfig
from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.gpt import GPT, GPTConfig
from tinygrad_char.modes import no_grad
from tinygrad_char.random import Generator

VOCABULARY = 65
NORMS = ["layernorm", "rmsnorm"]
RECIPE = {"positions": "rotary", "convolution": 3, "bias": False, "tied": True}


def make(seed=0, vocab_size=5, **shape):
    shape = {"block_size": 4, "n_layer": 1, "n_head": 2, "n_embd": 4, **shape}
    return GPT(GPTConfig(**shape), vocab_size, generator=Generator(seed))


def spread(model, seed=1, std=0.5):
    """Give every parameter, norms and biases too, values far from where they start."""
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data = parameter.detach().numpy() + rng.normal(0, std, parameter.shape)
    return model


def tokens(shape, vocab_size=5, seed=2):
    return np.random.default_rng(seed).integers(0, vocab_size, shape)


def logits_of(model, idx):
    with no_grad():
        return model(idx)[0].detach().numpy()


def check_every_parameter(model, generator):
    """Compare the gradients of logits and loss by every parameter with differences."""
    idx, targets = tokens((2, 4)), tokens((2, 4), seed=3)
    state = generator.get_state()

    def outputs(*parameters):
        generator.set_state(state)
        return model(idx, targets)

    gradcheck(outputs, list(model.parameters()))


@pytest.mark.parametrize(
    ("bias", "tied", "dropout", "activation"),
    [
        (False, False, 0.0, "relu"),
        (False, False, 0.4, "gelu"),
        (False, True, 0.0, "gelu_tanh"),
        (False, True, 0.4, "relu"),
        (True, False, 0.0, "gelu"),
        (True, False, 0.4, "gelu_tanh"),
        (True, True, 0.0, "relu"),
        (True, True, 0.4, "gelu"),
    ],
)
def test_every_gradient_agrees_with_differences(bias, tied, dropout, activation):
    generator = Generator(0)
    config = GPTConfig(4, 1, 2, 4, dropout, bias, activation, tied)
    model = spread(GPT(config, 5, generator=generator).astype("float64"))
    check_every_parameter(model, generator)


@pytest.mark.parametrize(
    "shape",
    [
        {**RECIPE},
        {**RECIPE, "qk_norm": True},
        {**RECIPE, "dropout": 0.4, "attention_dropout": False},
        {"dropout": 0.4, "convolution": 1},
        {"positions": "rotary", "activation": "gelu"},
        {"qk_norm": True},
        {**RECIPE, "norm": "rmsnorm"},
        {"norm": "rmsnorm"},
    ],
)
def test_every_gradient_of_rotary_and_convolved_blocks_agrees_with_differences(shape):
    generator = Generator(0)
    config = GPTConfig(4, 2, 2, 8, **shape)
    model = spread(GPT(config, 5, generator=generator).astype("float64"))
    check_every_parameter(model, generator)


def test_attention_weights_have_a_dropout_of_their_own():
    both = make(dropout=0.4).blocks[0]
    assert both.attention.p == both.attention.projection.p == both.feed_forward.contract.p == 0.4
    apart = make(dropout=0.4, attention_dropout=False).blocks[0]
    assert (apart.attention.p, apart.attention.projection.p) == (0, 0.4)


def test_every_gradient_of_stacked_blocks_agrees_with_differences():
    generator = Generator(0)
    config = GPTConfig(4, 2, 2, 4, 0.3, True, "gelu", False)
    model = spread(GPT(config, 5, generator=generator).astype("float64"))
    check_every_parameter(model, generator)


def test_dropout_really_took_part_in_the_gradient_check():
    generator = Generator(0)
    model = spread(GPT(GPTConfig(4, 1, 2, 4, dropout=0.4), 5, generator=generator))
    idx = tokens((2, 4))
    first, second = logits_of(model, idx), logits_of(model, idx)
    assert not np.array_equal(first, second)
    model.eval()
    assert np.array_equal(logits_of(model, idx), logits_of(model, idx))


def count_by_hand(config, vocab_size):
    c, bias = config.n_embd, config.bias
    norm = c + (bias * c if config.norm == "layernorm" else 0)
    attention = c * 3 * c + c * c + bias * c
    feed_forward = c * 4 * c + bias * 4 * c + 4 * c * c + bias * c
    blocks = config.n_layer * (2 * norm + attention + feed_forward)
    head = 0 if config.tied else c * vocab_size + bias * vocab_size
    blocks += config.n_layer * config.convolution * c
    positions = config.block_size * c if config.positions == "learned" else 0
    return vocab_size * c + positions + blocks + norm + head


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        *(("tiny", 86_976), ("small", 451_008), ("medium", 1_192_704), ("full", 10_656_000)),
        *(("lecture", 42_369), ("lecture-full", 10_788_929)),
        *(("nanogpt", 804_096), ("nanogpt-full", 10_745_088)),
    ],
)
def test_presets_have_the_expected_number_of_parameters(preset, count):
    config = PRESETS[preset].gpt
    model = GPT(config, VOCABULARY, generator=Generator(0))
    assert model.num_parameters() == count_by_hand(config, VOCABULARY) == count


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 9),
    st.booleans(), st.booleans(), st.booleans(), st.integers(0, 4), st.sampled_from(NORMS),
)  # fmt: skip
def test_parameters_are_counted_right_for_every_shape(
    time, layers, heads, size, vocab, bias, tied, rotary, taps, norm
):
    size, positions = (2 * size, "rotary") if rotary else (size, "learned")
    options = {"bias": bias, "tied": tied, "positions": positions, "convolution": taps}
    options["norm"] = norm
    config = GPTConfig(time, layers, heads, heads * size, **options)
    model = GPT(config, vocab, generator=Generator(0))
    assert model.num_parameters() == count_by_hand(config, vocab)
    described = parameter_count(TrainConfig(gpt=config), vocab)
    assert described == (len(list(model.parameters())), model.num_parameters())


def test_a_tied_head_is_the_token_embedding():
    names = [name for name, _ in make(tied=True).named_parameters()]
    assert "token_embedding.weight" in names
    assert not [name for name in names if name.startswith("head")]
    assert [name for name, _ in make(tied=False).named_parameters() if name.startswith("head")] == [
        "head.weight",
        "head.bias",
    ]


@pytest.mark.parametrize("bias", [False, True])
def test_weights_start_with_the_statistics_that_are_promised(bias):
    layers = 4
    model = GPT(GPTConfig(64, layers, 4, 128, bias=bias), VOCABULARY, generator=Generator(3))
    residual = 0
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy().astype(np.float64)
        if parameter.ndim == 1:
            expected = 0 if name.endswith("bias") else 1
            assert (values == expected).all(), name
            continue
        writes = name.endswith(("attention.projection.weight", "feed_forward.contract.weight"))
        residual += writes
        std = 0.02 / math.sqrt(2 * layers) if writes else 0.02
        n = values.size
        assert abs(values.mean()) < 5 * std / math.sqrt(n), name
        assert abs(values.std() - std) < 5 * std / math.sqrt(2 * n), name
        # 4th moment of a normal distribution, whose estimate has variance 96 / n
        kurtosis = (values**4).mean() / (values**2).mean() ** 2
        assert abs(kurtosis - 3) < 5 * math.sqrt(96 / n), name
    assert residual == 2 * layers


def test_the_initial_weights_depend_on_the_seed_alone():
    def weights(seed):
        return [parameter.detach().numpy() for parameter in make(seed).parameters()]

    assert all(map(np.array_equal, weights(1), weights(1)))
    assert not all(map(np.array_equal, weights(1), weights(2)))


@pytest.mark.parametrize(("preset", "apart"), [("lecture", 0.1), ("small", 0.2)])  # tied: itself
@pytest.mark.parametrize("vocab_size", [2, 65, 300])
def test_an_untrained_model_guesses_evenly(preset, apart, vocab_size):
    model = GPT(PRESETS[preset].gpt, vocab_size, generator=Generator(0))
    time = model.block_size
    idx, targets = tokens((16, time), vocab_size), tokens((16, time), vocab_size, 9)
    with no_grad():
        _, loss = model(idx, targets)
    assert abs(loss.item() - math.log(vocab_size)) < apart


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_a_later_character_never_changes_an_earlier_logit(data):
    heads = data.draw(st.integers(1, 3), "heads")
    block_size = data.draw(st.integers(2, 12), "block_size")
    time = data.draw(st.integers(2, block_size), "time")
    changed = data.draw(st.integers(0, time - 1), "changed")
    model = spread(
        make(
            block_size=block_size,
            n_layer=data.draw(st.integers(1, 2), "layers"),
            n_head=heads,
            n_embd=heads * data.draw(st.sampled_from([4, 6]), "channels of a head"),
            bias=data.draw(st.booleans(), "bias"),
            tied=data.draw(st.booleans(), "tied"),
            positions=data.draw(st.sampled_from(["learned", "rotary"]), "positions"),
            convolution=data.draw(st.integers(0, 4), "convolution"),
            norm=data.draw(st.sampled_from(NORMS), "norm"),
        )
    )
    idx = tokens((2, time), seed=data.draw(st.integers(0, 99), "seed"))
    other = idx.copy()
    other[:, changed] = (other[:, changed] + data.draw(st.integers(1, 4), "by")) % 5
    before, after = logits_of(model, idx), logits_of(model, other)
    assert np.array_equal(before[:, :changed], after[:, :changed])
    assert not np.array_equal(before[:, changed:], after[:, changed:])


def test_every_earlier_character_changes_the_last_logits():
    model = spread(make(block_size=8, n_layer=2))
    idx = tokens((1, 8))
    last = logits_of(model, idx)[:, -1]
    for position in range(8):
        other = idx.copy()
        other[:, position] = (other[:, position] + 1) % 5
        assert np.abs(logits_of(model, other)[:, -1] - last).max() > 1e-4


def test_rows_of_a_batch_do_not_see_each_other():
    model = spread(make())
    idx = tokens((3, 4))
    other = idx.copy()
    other[1] = (other[1] + 1) % 5
    before, after = logits_of(model, idx), logits_of(model, other)
    assert np.array_equal(before[[0, 2]], after[[0, 2]])
    assert not np.array_equal(before[1], after[1])


def test_the_order_of_earlier_characters_matters():
    model = spread(make())
    one, other = logits_of(model, [[0, 1, 2]]), logits_of(model, [[1, 0, 2]])
    assert np.abs(one[:, -1] - other[:, -1]).max() > 1e-4


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_indices_may_be_of_any_integer_dtype(dtype):
    model = spread(make())
    idx = tokens((2, 4))
    assert np.array_equal(logits_of(model, idx), logits_of(model, idx.astype(dtype)))
    assert np.array_equal(logits_of(model, idx), logits_of(model, idx.tolist()))


def test_without_targets_there_is_no_loss():
    logits, loss = make()(tokens((3, 2)))
    assert loss is None
    assert logits.shape == (3, 2, 5)
    assert logits.dtype == np.float32


def test_the_loss_is_the_mean_over_all_targets():
    model = spread(make())
    idx, targets = tokens((3, 4)), tokens((3, 4), seed=8)
    logits, loss = model(idx, targets)
    rows = logits.detach().numpy().astype(np.float64).reshape(-1, 5)
    losses = np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(12), targets.reshape(-1)]
    assert abs(loss.item() - losses.mean()) < 1e-6


def test_more_characters_than_block_size_are_refused():
    with pytest.raises(ValueError, match=r"^5 characters of context, but block_size is 4$"):
        make()(tokens((1, 5)))


def test_more_characters_than_block_size_are_refused_counting_the_cached_ones():
    model = make()
    cache = model.new_cache()
    with no_grad():
        model(tokens((1, 3)), cache=cache)
        with pytest.raises(ValueError, match=r"^5 characters of context, but block_size is 4$"):
            model(tokens((1, 2)), cache=cache)
        logits, _ = model(tokens((1, 1)), cache=cache)
    assert logits.shape == (1, 1, 5)


def test_a_cache_is_refused_where_gradients_are_recorded():
    model = make()
    with pytest.raises(RuntimeError, match="no_grad"):
        model(tokens((1, 3)), cache=model.new_cache())


@pytest.mark.parametrize(("index", "position"), [(5, (1, 2)), (-1, (0, 0))])
def test_an_index_outside_the_vocabulary_is_named(index, position):
    idx = tokens((2, 4))
    idx[position] = index
    with pytest.raises(IndexError) as caught:
        make()(idx)
    message = str(caught.value)
    assert f"{position} is {index}" in message
    assert "from 0 to 4" in message


def test_a_target_outside_the_vocabulary_is_named():
    targets = tokens((2, 4))
    targets[1, 3] = 7
    with pytest.raises(IndexError, match=r"target at position \(7,\) is 7, .*from 0 to 4"):
        make()(tokens((2, 4)), targets)


def test_indices_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match="indices are float64, expected integers"):
        make()(tokens((2, 4)).astype(float))


@pytest.mark.parametrize("shape", [(4,), (1, 2, 2)])
def test_indices_without_batch_and_time_are_refused(shape):
    with pytest.raises(ValueError, match=r"idx has shape \(.*expected \(batch, time\)"):
        make()(tokens(shape))


def test_targets_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"targets \(2, 3\); expected targets \(2, 4\)"):
        make()(tokens((2, 4)), tokens((2, 3)))


@pytest.mark.parametrize("name", ["block_size", "n_layer", "n_head", "n_embd"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True, None])
def test_a_size_that_is_no_whole_number_above_0_is_refused(name, value):
    with pytest.raises(UsageError) as caught:
        GPTConfig(**{name: value})
    assert str(caught.value).startswith(f"{name} is {value!r}; expected an integer")


@pytest.mark.parametrize("value", [-0.1, 1, 1.0, 2, math.nan, math.inf, "0.1", None, True])
def test_a_dropout_that_is_no_probability_below_1_is_refused(value):
    with pytest.raises(UsageError) as caught:
        GPTConfig(dropout=value)
    assert str(caught.value).startswith(f"dropout is {value!r}; expected a number from 0")


@pytest.mark.parametrize("value", [-1, 1.0, "4", True, None])
def test_taps_that_are_no_whole_number_are_refused(value):
    with pytest.raises(UsageError) as caught:
        GPTConfig(convolution=value)
    assert str(caught.value).startswith(
        f"convolution is {value!r}; expected an integer of at least 0"
    )


def test_a_context_with_more_angles_than_are_made_is_refused_with_the_most():
    with pytest.raises(UsageError) as caught:
        make(block_size=1 << 40, n_embd=64, positions="rotary")
    message = str(caught.value)
    assert message.startswith("block_size is 1099511627776; expected at most 2097152 with rotary")
    assert make(block_size=2097152, n_embd=64, positions="rotary").block_size == 2097152


def test_heads_that_cannot_be_turned_in_pairs_are_refused_with_a_number_that_works():
    with pytest.raises(UsageError) as caught:
        GPTConfig(n_embd=12, n_head=4, positions="rotary")
    message = str(caught.value)
    assert message.startswith("n_embd 12 gives each of n_head 4 heads 3 channels")
    suggested = int(message.rsplit(" ", 1)[1])
    assert GPTConfig(n_embd=suggested, n_head=4, positions="rotary").n_embd == 16


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(("positions", each, "learned or rotary") for each in ("sinusoidal", None, True)),
        *(("norm", each, "layernorm or rmsnorm") for each in ("batchnorm", None, True)),
        *(("activation", each, "relu, gelu or gelu_tanh") for each in ("swish", "", None, 1)),
        *(
            (name, each, "True or False")
            for name in ("bias", "tied", "qk_norm", "attention_dropout")
            for each in (0, "false", None)
        ),
    ],
)
def test_what_is_not_among_the_choices_is_refused(name, value, expected):
    with pytest.raises(UsageError) as caught:
        GPTConfig(**{name: value})
    assert str(caught.value) == f"{name} is {value!r}; expected {expected}"


def test_channels_that_the_heads_cannot_share_are_refused_with_a_number_that_works():
    with pytest.raises(UsageError) as caught:
        GPTConfig(n_embd=130, n_head=4)
    message = str(caught.value)
    assert message.startswith("n_embd 130 is not divisible by n_head 4")
    suggested = int(message.rsplit(" ", 1)[1])
    assert suggested == 132
    assert GPTConfig(n_embd=suggested, n_head=4).n_embd == 132
