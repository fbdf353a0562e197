"""Which optimizer a run has, its rates, the mean of weights, and that a pause changes none."""

import math
from dataclasses import replace

import numpy as np
import pytest
from tiny_runs import metrics, train

from tinygrad_char import checkpoint
from tinygrad_char.models import cli
from tinygrad_char.models.batches import split_corpus
from tinygrad_char.models.build import build_model, load_checkpoint
from tinygrad_char.models.config import TrainConfig
from tinygrad_char.models.errors import RunError
from tinygrad_char.models.evaluate import Loss, whole_split_loss
from tinygrad_char.models.gpt import GPTConfig
from tinygrad_char.models.optimizers import build_optimizer, learning_rates
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.models.trainer import Trainer
from tinygrad_char.optim import AdamW, MuonAdamW, decay_groups
from tinygrad_char.parallel import Workers
from tinygrad_char.random import Generator

TEXT = "the quick brown fox jumps over the lazy dog\n" * 40
TOKENIZER = CharTokenizer("".join(sorted(set(TEXT))))
SHAPE = GPTConfig(block_size=8, n_layer=2, n_head=2, n_embd=8, dropout=0.1, convolution=3)
MUON = TrainConfig(
    gpt=SHAPE,
    optimizer="muon",
    decayed="embeddings",
    steps=40,
    batch_size=4,
    lr=1e-2,
    muon_lr=2e-2,
    warmup=3,
    eval_batches=2,
    seed=7,
)


def make(device="cpu", **changes):
    config = replace(MUON, device=device, **changes)
    return Trainer(config, TOKENIZER, split_corpus(TOKENIZER.encode(TEXT), SHAPE.block_size))


def state_of(trainer):
    """Return copies of the weights, their mean, and the optimizer's arrays."""
    model = {name: each.detach() for name, each in trainer.model.state_dict().items()}
    arrays = {name: np.array(each.to("cpu").numpy()) for name, each in model.items()}
    arrays |= {name: np.array(each) for name, each in trainer.optimizer.state_dict().items()}
    return arrays | ({"mean": np.array(trainer.average.flat)} if trainer.average else {})


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def groups_of(config, **shape):
    """Return the names of the parameters of each group, and the group's options."""
    model = build_model(replace(config, gpt=replace(SHAPE, **shape)), len(TOKENIZER), Generator(0))
    names = {id(each): name for name, each in model.named_parameters()}
    optimizer = build_optimizer(config, model)
    return type(optimizer), [
        ([names[id(each)] for each in group["params"]], dict(group)) for group in optimizer.groups
    ]


def test_muon_has_the_linear_layers_of_blocks_and_adamw_the_rest():
    kind, groups = groups_of(MUON)
    assert kind is MuonAdamW
    embeddings, others, fused, layers = [names for names, _ in groups]
    assert embeddings == ["token_embedding.weight", "position_embedding.weight", "head.weight"]
    assert {name.rsplit(".", 1)[-1] for name in others} == {"weight", "bias"}
    assert "blocks.0.convolution.weight" in others
    assert fused == [f"blocks.{n}.attention.qkv.weight" for n in (0, 1)]
    assert layers == [
        f"blocks.{n}.{part}.weight"
        for n in (0, 1)
        for part in ("attention.projection", "feed_forward.expand", "feed_forward.contract")
    ]
    options = [each for _, each in groups]
    assert [each["muon"] for each in options] == [False, False, True, True]
    assert [each["splits"] for each in options] == [1, 1, 3, 1]
    assert [each["weight_decay"] for each in options] == [0.1, 0.0, 0.0, 0.0]
    assert [each["momentum"] for each in options] == [0.95] * 4


def test_a_tied_model_without_positions_decays_its_one_embedding():
    _, groups = groups_of(MUON, tied=True, positions="rotary")
    assert groups[0][0] == ["token_embedding.weight"]


def test_decay_of_matrices_falls_on_what_muon_leaves():
    _, groups = groups_of(replace(MUON, decayed="matrices", muon_weight_decay=0.3))
    assert "blocks.1.convolution.weight" in groups[0][0]
    assert [each["weight_decay"] for _, each in groups] == [0.1, 0.0, 0.3, 0.3]


def test_adamws_groups_are_matrices_and_the_others_as_ever():
    config = replace(MUON, optimizer="adamw", decayed="matrices")
    kind, groups = groups_of(config)
    assert kind is AdamW
    model = build_model(config, len(TOKENIZER), Generator(0))
    expected = decay_groups(model.parameters(), config.weight_decay)
    names = {id(each): name for name, each in model.named_parameters()}
    assert [each for each, _ in groups] == [
        [names[id(each)] for each in group["params"]] for group in expected
    ]
    assert [each["weight_decay"] for _, each in groups] == [0.1, 0.0]


def test_adamw_can_decay_embeddings_alone():
    kind, groups = groups_of(replace(MUON, optimizer="adamw"))
    assert kind is AdamW
    assert groups[0][0] == ["token_embedding.weight", "position_embedding.weight", "head.weight"]
    assert "blocks.0.attention.qkv.weight" in groups[1][0]


def test_a_bigram_has_nothing_for_muon():
    trainer = make(model="bigram")
    assert [group["muon"] for group in trainer.optimizer.groups] == [False]
    before = state_of(trainer)["table.weight"]
    trainer.update()
    assert (state_of(trainer)["table.weight"] != before).any()


# Rates


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd", "wsd-sqrt"])
def test_both_rates_rise_to_their_peaks_and_fall_alike(name):
    config = replace(MUON, schedule=name, steps=100, warmup=9, cooldown=0.25, min_lr=0.2)
    lr, muon_lr = learning_rates(config), learning_rates(config, config.muon_lr)
    rates = [lr(step) for step in range(110)]
    assert rates[0] == pytest.approx(config.lr / 10)
    assert max(rates) == config.lr == rates[9]
    assert rates[100:] == [pytest.approx(0.2 * config.lr)] * 10
    np.testing.assert_allclose([muon_lr(step) / 2 for step in range(110)], rates)
    halfway = {
        "cosine": (0.6, 55 - 0.5),
        "linear": (0.6, 55 - 0.5),
        "wsd": (0.6, 87.5),
        "wsd-sqrt": (0.2 + 0.8 * (1 - math.sqrt(0.5)), 87.5),
    }
    part, step = halfway[name]
    assert lr(step) == pytest.approx(part * config.lr)
    if name.startswith("wsd"):
        assert rates[9:76] == [config.lr] * 67


def test_the_fall_of_wsd_begins_after_the_warm_up():
    rate = learning_rates(replace(MUON, schedule="wsd", steps=20, warmup=10, cooldown=1.0))
    assert [rate(step) for step in (0, 9, 10, 15)] == pytest.approx(
        [MUON.lr / 11, MUON.lr * 10 / 11, MUON.lr, MUON.lr * 0.55]
    )


def test_an_update_sets_both_rates():
    trainer = make()
    for step in range(3):
        trainer.update()
        rates = [group["lr"] for group in trainer.optimizer.groups]
        expected = (step + 1) / 4
        assert rates == pytest.approx([0.01 * expected] * 2 + [0.02 * expected] * 2)


# Training


@pytest.mark.parametrize("shards", [1, 3])
def test_the_number_of_threads_changes_no_bit(shards):
    trainers = [make(shards=shards, ema=0.9) for _ in range(2)]
    for trainer, threads in zip(trainers, (1, 3), strict=True):
        trainer.workers = Workers(threads)
    updates = [[trainer.update() for _ in range(5)] for trainer in trainers]
    assert updates[0] == updates[1]
    assert_same(*map(state_of, trainers))


def test_recorded_training_on_a_device_is_that_of_the_cpu():
    on_device, on_host = (
        make("cuda-on-cpu", gpt=replace(SHAPE, dropout=0.0)),
        make(gpt=replace(SHAPE, dropout=0.0)),
    )
    updates = [[trainer.update() for _ in range(6)] for trainer in (on_device, on_host)]
    assert on_device.recorded.repeats
    losses = [[each.loss for each in those] for those in updates]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_muon_learns():
    trainer = make(steps=120, batch_size=8, gpt=replace(SHAPE, dropout=0.0))
    losses = [trainer.update().loss for _ in range(120)]
    assert losses[0] == pytest.approx(math.log(len(TOKENIZER)), abs=0.2)
    assert np.mean(losses[-10:]) < 0.6


# Going on


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"schedule": "wsd-sqrt", "ema": 0.5}])
@pytest.mark.parametrize("device", ["cpu", "cuda-on-cpu"])
def test_a_saved_run_goes_on_with_the_same_bits(tmp_path, changes, device):
    path = tmp_path / "last.safetensors"
    whole = make(device, **changes)
    expected = []
    for step in range(8):
        if step == 4:
            whole.note_evaluation(Loss(1.25, 10))
            whole.save(path)
            saved = state_of(whole)
        expected.append(whole.update())
    loaded = load_checkpoint(path)
    assert loaded.config == whole.config
    resumed = make(device, **changes)
    resumed.update()
    resumed.restore(loaded)
    assert_same(state_of(resumed), saved)
    assert [resumed.update() for _ in range(4)] == expected[4:]
    assert_same(state_of(resumed), state_of(whole))


# The mean of weights


def test_the_mean_follows_the_weights():
    trainer = make(ema=0.5)
    mean = trainer.optimizer.flat.astype(np.float64)
    for step in range(1, 13):
        trainer.update()
        kept = min(0.5, (1 + step) / (10 + step))
        mean += (1 - kept) * (trainer.optimizer.flat - mean)
    np.testing.assert_allclose(trainer.average.flat, mean, rtol=0, atol=1e-6)


def test_a_mean_changes_nothing_in_the_weights():
    plain, averaged = make(), make(ema=0.9)
    for _ in range(4):
        assert plain.update() == averaged.update()
        averaged.evaluate()
    without = {name: each for name, each in state_of(averaged).items() if name != "mean"}
    assert_same(without, state_of(plain))


def test_the_mean_is_what_is_evaluated_and_what_a_checkpoint_has_as_the_model(tmp_path):
    path = tmp_path / "last.safetensors"
    trainer = make(ema=0.9, gpt=replace(SHAPE, dropout=0.0))
    for _ in range(20):
        trainer.update()
    trainer.save(path)
    tensors, _ = checkpoint.load(path)
    weights = trainer.model.state_dict()
    start = 0
    names = {id(each): name for name, each in trainer.model.named_parameters()}
    for each in trainer.optimizer.parameters:
        name = names[id(each)]
        part = trainer.average.flat[start : start + each.size].reshape(each.shape)
        start += each.size
        np.testing.assert_array_equal(tensors[f"model.{name}"], part)
        np.testing.assert_array_equal(tensors[f"training.{name}"], weights[name].array)
    validation = trainer.split.validation
    in_training = whole_split_loss(trainer.model, validation)
    with trainer.averaged():
        mean = whole_split_loss(trainer.model, validation)
    assert mean != in_training
    assert whole_split_loss(load_checkpoint(path).model, validation) == mean
    assert whole_split_loss(trainer.model, validation) == in_training
    assert trainer.evaluate() != make_like(trainer).evaluate()


def make_like(trainer):
    """Return a trainer without a mean that has the same weights."""
    other = make(gpt=trainer.config.gpt)
    other.model.load_state_dict(trainer.model.state_dict())
    return other


def test_a_mean_can_be_begun_and_given_up_when_a_run_goes_on(tmp_path):
    path = tmp_path / "last.safetensors"
    plain = make()
    plain.update()
    plain.save(path)
    begun = make(ema=0.9)
    begun.restore(load_checkpoint(path))
    np.testing.assert_array_equal(begun.average.flat, plain.optimizer.flat)
    assert [begun.update() for _ in range(3)] == [plain.update() for _ in range(3)]
    begun.save(path)
    ended = make()
    ended.restore(load_checkpoint(path))
    assert ended.update() == plain.update()
    assert_same(state_of(ended), state_of(plain))


@pytest.mark.parametrize("decay", [-0.1, 1, 1.5, math.nan, "much"])
def test_a_memory_that_is_none_is_refused(decay):
    from tinygrad_char.averaging import WeightAverage

    with pytest.raises(ValueError, match=r"WeightAverage: decay=.*, expected a number in \[0, 1\)"):
        WeightAverage(make().optimizer, decay)


def test_an_evaluation_that_fails_leaves_the_weights_in_place():
    trainer = make(ema=0.9)
    trainer.update()
    before = state_of(trainer)
    with pytest.raises(RuntimeError, match="in between"), trainer.averaged():
        raise RuntimeError("in between")
    assert_same(state_of(trainer), before)


# The command


def test_the_command_trains_with_it_and_says_both_losses(tmp_path, capsys):
    folder = tmp_path / "run"
    options = ["--optimizer", "muon", "--ema", "0.9", "--schedule", "wsd", "--convolution", "2"]
    assert train(folder, *options) == 0
    out = capsys.readouterr().out
    assert "with the weights in training, not their mean: " in out
    assert metrics(folder)[-1]["step"] == 4
    rates = [(each["lr"], each["muon_lr"]) for each in metrics(folder) if "lr" in each]
    assert [muon_lr / lr for lr, muon_lr in rates] == pytest.approx([2.5] * len(rates))
    assert rates[0] != rates[-1]
    config = load_checkpoint(folder / "last.safetensors").config
    assert (config.optimizer, config.ema, config.schedule) == ("muon", 0.9, "wsd")
    assert cli.run(["train", "--resume", str(folder), "--steps", "6"]) == 0


@pytest.mark.parametrize(
    ("option", "value", "before"),
    [("--optimizer", "adamw", "muon"), ("--decayed", "matrices", "embeddings")],
)
def test_what_the_state_depends_on_stays_in_a_resumed_run(option, value, before, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train(folder) == 0
    capsys.readouterr()
    assert cli.run(["train", "--resume", str(folder), option, value]) == 2
    error = capsys.readouterr().err
    assert f"{option[2:]} is '{value}', but the checkpoint's is '{before}'" in error


@pytest.mark.parametrize("change", [{"optimizer": "adamw"}, {"decayed": "matrices"}])
def test_a_trainer_of_other_parameters_refuses_the_state(change, tmp_path):
    make().save(tmp_path / "x.safetensors")
    loaded = load_checkpoint(tmp_path / "x.safetensors")
    name = next(iter(change))
    with pytest.raises(RunError, match=f"cannot be continued: {name} is"):
        make(**change).restore(loaded)
