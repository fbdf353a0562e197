import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.models.config import EARLIER_SMALL, PRESETS, SMALL, TrainConfig
from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.gpt import GPTConfig

counts = st.integers(1, 10**6)
shares = st.floats(0, 1, exclude_max=True)

shapes = st.builds(
    lambda heads, size, **rest: GPTConfig(n_head=heads, n_embd=heads * size, **rest),
    heads=st.integers(1, 64),
    size=st.integers(1, 64),
    block_size=counts,
    n_layer=counts,
    dropout=shares,
    bias=st.booleans(),
    activation=st.sampled_from(["relu", "gelu", "gelu_tanh"]),
    tied=st.booleans(),
)
configs = st.builds(
    TrainConfig,
    model=st.sampled_from(["gpt", "bigram"]),
    gpt=shapes,
    steps=counts,
    batch_size=counts,
    accumulate=counts,
    shards=counts,
    lr=st.floats(0, 1e10, exclude_min=True),
    min_lr=st.floats(0, 1),
    warmup=st.integers(0, 10**6),
    beta1=shares,
    beta2=shares,
    optimizer=st.sampled_from(["adamw", "muon"]),
    muon_lr=st.floats(0, 1e10, exclude_min=True),
    muon_momentum=st.floats(0, 1, exclude_min=True, exclude_max=True),
    muon_weight_decay=st.floats(0, 1e10),
    decayed=st.sampled_from(["matrices", "embeddings"]),
    schedule=st.sampled_from(["cosine", "linear", "wsd", "wsd-sqrt"]),
    cooldown=st.floats(0, 1),
    ema=shares,
    weight_decay=st.floats(0, 1e10),
    clip=st.floats(0, 1e10),
    eval_every=counts,
    eval_batches=counts,
    log_every=counts,
    sample_every=st.integers(0, 10**6),
    seed=st.integers(0, 2**64 - 1),
    device=st.sampled_from(["cpu", "cuda"]),
)


@settings(deadline=None, max_examples=200)
@given(configs)
def test_settings_come_back_from_json_as_they_were(config):
    text = json.dumps(config.to_json(), allow_nan=False)
    assert TrainConfig.from_json(json.loads(text)) == config


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_come_back_from_json_as_they_were(preset):
    config = PRESETS[preset]
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_settings_that_are_not_given_take_their_defaults():
    assert TrainConfig.from_json({}) == TrainConfig()
    assert TrainConfig.from_json({"steps": 3, "gpt": {"n_head": 2}}) == TrainConfig(
        steps=3, gpt=GPTConfig(n_head=2)
    )


def test_an_unknown_setting_is_named_with_those_that_exist():
    with pytest.raises(UsageError) as caught:
        TrainConfig.from_json({"learning_rate": 1})
    assert str(caught.value).startswith("unknown setting 'learning_rate'; known are accumulate, ")
    assert " lr, " in str(caught.value)
    with pytest.raises(UsageError) as caught:
        TrainConfig.from_json({"gpt": {"heads": 1}})
    assert str(caught.value).startswith("unknown gpt setting 'heads'; known are activation, ")


def test_a_bad_value_from_json_is_named():
    with pytest.raises(UsageError, match=r"^steps is 0; expected"):
        TrainConfig.from_json({"steps": 0})
    with pytest.raises(UsageError, match=r"^n_layer is '3'; expected"):
        TrainConfig.from_json({"gpt": {"n_layer": "3"}})


COUNTS = ("steps", "batch_size", "accumulate", "shards", "eval_every", "eval_batches", "log_every")
LEAST = {**dict.fromkeys(COUNTS, 1), "warmup": 0, "sample_every": 0, "seed": 0}
RATES = (
    *("lr", "muon_lr", "min_lr", "cooldown", "beta1", "beta2", "muon_momentum", "ema"),
    *("weight_decay", "muon_weight_decay", "clip"),
)
CHOICES = {
    "optimizer": "adamw, muon",
    "decayed": "matrices, embeddings",
    "schedule": "cosine, linear, wsd, wsd-sqrt",
}


def test_every_setting_is_tried_with_bad_values():
    tried = {*LEAST, *RATES, *CHOICES, "model", "gpt", "device", "precision", "deterministic"}
    assert tried == {field.name for field in dataclasses.fields(TrainConfig)}


@pytest.mark.parametrize("value", [None, 1, "no"])
def test_an_order_of_sums_that_is_neither_is_refused(value):
    with pytest.raises(UsageError, match=f"^deterministic is {value!r}; expected True or False$"):
        TrainConfig(deterministic=value)


@pytest.mark.parametrize("name", LEAST)
@pytest.mark.parametrize("value", ["one below", 1.5, "8", None, True, math.nan])
def test_a_number_of_things_that_is_not_one_is_refused(name, value):
    value = LEAST[name] - 1 if value == "one below" else value
    with pytest.raises(UsageError) as caught:
        TrainConfig(**{name: value})
    assert str(caught.value) == (f"{name} is {value!r}; expected an integer from {LEAST[name]}")


@pytest.mark.parametrize("name", LEAST)
def test_the_least_number_of_things_is_accepted(name):
    assert getattr(TrainConfig(**{name: LEAST[name]}), name) == LEAST[name]


def test_a_seed_of_more_than_64_bits_is_refused():
    assert TrainConfig(seed=2**64 - 1).seed == 2**64 - 1
    with pytest.raises(UsageError, match=f"^seed is {2**64}; expected an integer below 2"):
        TrainConfig(seed=2**64)


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("value", [-1, -1e-9, math.nan, math.inf, -math.inf, "0.1", None, True])
def test_a_rate_that_is_not_finite_or_negative_or_no_number_is_refused(name, value):
    with pytest.raises(UsageError) as caught:
        TrainConfig(**{name: value})
    assert str(caught.value).startswith(f"{name} is {value!r}; expected a finite number from 0")


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["sgd", "", None, 3])
def test_an_unknown_choice_is_refused(name, value):
    with pytest.raises(UsageError) as caught:
        TrainConfig(**{name: value})
    assert str(caught.value) == f"{name} is {value!r}; expected one of {CHOICES[name]}"


@pytest.mark.parametrize("name", ["min_lr", "cooldown", "beta1", "beta2", "muon_momentum", "ema"])
def test_a_share_above_1_is_refused(name):
    with pytest.raises(UsageError, match=f"^{name} is 1.5; expected a finite number from 0 to 1$"):
        TrainConfig(**{name: 1.5})


@pytest.mark.parametrize("name", ["beta1", "beta2", "muon_momentum", "ema"])
def test_a_memory_that_never_forgets_is_refused(name):
    with pytest.raises(UsageError, match=f"^{name} is 1; expected a number from 0 to below 1$"):
        TrainConfig(**{name: 1})


def test_a_learning_rate_of_0_is_refused():
    with pytest.raises(UsageError, match=r"^lr is 0, with which nothing is learned"):
        TrainConfig(lr=0)


def test_muon_needs_a_rate_and_a_momentum():
    assert TrainConfig(muon_lr=0).muon_lr == 0
    with pytest.raises(UsageError, match=r"^muon_lr is 0, with which the blocks learn nothing"):
        TrainConfig(muon_lr=0, optimizer="muon")
    with pytest.raises(UsageError, match=r"^muon_momentum is 0; expected a number above 0"):
        TrainConfig(muon_momentum=0)


@pytest.mark.parametrize(
    "name",
    [
        *("min_lr", "cooldown", "beta1", "beta2", "ema"),
        *("weight_decay", "muon_weight_decay", "clip"),
    ],
)
def test_other_rates_may_be_0(name):
    assert getattr(TrainConfig(**{name: 0}), name) == 0


DEVICES = "one of cpu, cuda, cuda-on-cpu"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(("model", each, "gpt or bigram") for each in ("lstm", "", None, 3)),
        *(("device", each, DEVICES) for each in ("tpu", "", None, 0)),
        *(("gpt", each, "a GPTConfig") for each in ({"n_layer": 2}, None, "small")),
    ],
)
def test_what_is_not_among_the_choices_is_refused(name, value, expected):
    with pytest.raises(UsageError) as caught:
        TrainConfig(**{name: value})
    assert str(caught.value) == f"{name} is {value!r}; expected {expected}"


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.lr = 1.0


def shape_of(preset):
    config = PRESETS[preset]
    gpt = config.gpt
    return gpt.block_size, gpt.n_embd, gpt.n_head, gpt.n_layer, config.batch_size, gpt.dropout


def test_presets_are_what_they_are_said_to_be():
    shapes = {
        "tiny": (32, 48, 2, 3, 16, 0.0),
        "small": (64, 96, 3, 4, 12, 0.0),
        "medium": (512, 128, 4, 6, 4, 0.1),
        "full": (256, 384, 6, 6, 64, 0.2),
        "lecture": (8, 32, 4, 3, 32, 0.0),
        "lecture-full": (256, 384, 6, 6, 64, 0.2),
        "nanogpt": (64, 128, 4, 4, 12, 0.0),
        "nanogpt-full": (256, 384, 6, 6, 64, 0.2),
    }
    assert {preset: shape_of(preset) for preset in PRESETS} == shapes
    assert PRESETS["nanogpt"].steps == 2000
    assert PRESETS["nanogpt-full"].steps == PRESETS["lecture"].steps == 5000


@pytest.mark.parametrize("preset", ["tiny", "small", "medium", "full"])
def test_the_recipe_is_what_it_is_said_to_be(preset):
    config = PRESETS[preset]
    gpt = config.gpt
    assert (gpt.positions, gpt.convolution, gpt.bias, gpt.tied) == ("rotary", 4, False, True)
    assert (config.optimizer, config.muon_momentum, config.decayed) == ("muon", 0.95, "embeddings")
    assert config.precision == "float32"
    assert gpt.dropout == 0 or not gpt.attention_dropout


def test_nanogpt_s_presets_keep_its_recipe():
    for preset in ("nanogpt", "nanogpt-full"):
        config = PRESETS[preset]
        assert (config.lr, config.min_lr, config.warmup, config.clip) == (1e-3, 0.1, 100, 1.0)
        assert (config.beta1, config.beta2, config.weight_decay) == (0.9, 0.99, 0.1)
        gpt = config.gpt
        assert (gpt.activation, gpt.bias, gpt.tied) == ("gelu", False, True)
        assert (gpt.positions, gpt.convolution, config.ema) == ("learned", 0, 0.0)


def test_the_small_preset_of_before_is_nanogpt_s_but_for_two_settings():
    now = PRESETS["nanogpt"]
    gpt = dataclasses.replace(EARLIER_SMALL.gpt, activation="gelu")
    assert dataclasses.replace(EARLIER_SMALL, gpt=gpt, lr=1e-3) == now
