import math
from dataclasses import replace

import numpy as np
import pytest

from tinygrad_char import Tensor, checkpoint
from tinygrad_char.models import batches
from tinygrad_char.models.batches import random_batch, split_corpus
from tinygrad_char.models.build import build_model, load_checkpoint, parameter_count
from tinygrad_char.models.config import TrainConfig
from tinygrad_char.models.errors import RunError
from tinygrad_char.models.evaluate import InterruptedEvaluationError, Loss, whole_split_loss
from tinygrad_char.models.gpt import GPTConfig
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.models.trainer import DivergedError, Trainer
from tinygrad_char.parallel import Workers
from tinygrad_char.random import Generator

LETTERS = "\nabcdefg"


def make_text(size=600, seed=0):
    """Return text in which some letters follow others more often."""
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.full(len(LETTERS), 0.5), len(LETTERS)) * 0.9 + 0.1 / len(LETTERS)
    tokens = [0]
    for _ in range(size - 1):
        tokens.append(int(rng.choice(len(LETTERS), p=rows[tokens[-1]])))
    return "".join(LETTERS[token] for token in tokens)


TEXT = make_text()
TOKENIZER = CharTokenizer(LETTERS)

CONFIG = TrainConfig(
    gpt=GPTConfig(block_size=6, n_layer=2, n_head=2, n_embd=8, dropout=0.2),
    steps=40,
    batch_size=4,
    lr=1e-2,
    warmup=3,
    eval_batches=2,
    seed=7,
)


def make(text=TEXT, **changes):
    shape = {name: changes.pop(name) for name in list(changes) if name in ("dropout", "n_layer")}
    config = replace(CONFIG, **changes, gpt=replace(CONFIG.gpt, **shape))
    return Trainer(config, TOKENIZER, split_corpus(TOKENIZER.encode(text), config.gpt.block_size))


def state_of(trainer):
    """Return copies of the weights, of the optimizer's arrays, and of the random state."""
    weights = {name: tensor.numpy().copy() for name, tensor in trainer.model.state_dict().items()}
    moments = {name: np.array(value) for name, value in trainer.optimizer.state_dict().items()}
    return weights, moments, trainer.generator.get_state(), trainer.step


def assert_same_state(ours, expected):
    for arrays, others in zip(ours[:2], expected[:2], strict=True):
        assert arrays.keys() == others.keys()
        for name, array in arrays.items():
            assert array.tobytes() == others[name].tobytes(), name
    assert ours[2:] == expected[2:]


# Updates


@pytest.mark.parametrize("model", ["gpt", "bigram"])
def test_equal_settings_give_equal_bits(model):
    first, second = make(model=model), make(model=model)
    assert_same_state(state_of(first), state_of(second))
    updates = [(first.update(), second.update()) for _ in range(6)]
    assert all(ours == theirs for ours, theirs in updates)
    assert_same_state(state_of(first), state_of(second))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_number_of_threads_changes_no_bit_of_a_run(dropout):
    trainers = [make(shards=3, dropout=dropout) for _ in range(2)]
    for trainer, threads in zip(trainers, (1, 3), strict=True):
        trainer.workers = Workers(threads)
    updates = [[trainer.update() for _ in range(5)] for trainer in trainers]
    assert updates[0] == updates[1]
    assert trainers[0].evaluate() == trainers[1].evaluate()
    assert_same_state(*(state_of(trainer) for trainer in trainers))


@pytest.mark.parametrize("shards", [2, 3, 4, 9])
def test_cutting_the_batch_changes_an_update_by_rounding_alone(shards):
    whole, cut = make(dropout=0.0), make(dropout=0.0, shards=shards)
    for _ in range(3):
        expected, update = whole.update(), cut.update()
        assert update.loss == pytest.approx(expected.loss, rel=1e-5)
        assert update.norm == pytest.approx(expected.norm, rel=1e-4)


def test_another_seed_gives_other_weights_and_batches():
    first, second = make(), make(seed=8)
    assert first.update().loss != second.update().loss


@pytest.mark.parametrize("model", ["gpt", "bigram"])
def test_an_update_moves_every_weight_and_counts(model):
    trainer = make(model=model)
    before, *_ = state_of(trainer)
    trainer.evaluated = True
    updates = [trainer.update() for _ in range(3)]
    after, *_ = state_of(trainer)
    assert not [name for name, array in after.items() if np.array_equal(array, before[name])]
    assert trainer.step == 3
    assert not trainer.evaluated
    assert [update.step for update in updates] == [1, 2, 3]
    assert updates[0].rates["lr"] == pytest.approx(CONFIG.lr / 4)
    assert updates[2].rates["lr"] == pytest.approx(CONFIG.lr * 3 / 4)
    assert all(update.norm > 0 for update in updates)


def test_an_evaluation_changes_nothing_in_the_run():
    plain, evaluated = make(), make()
    for _ in range(3):
        evaluated.evaluate()
        assert plain.update() == evaluated.update()
    assert_same_state(state_of(evaluated), state_of(plain))


def test_the_norm_told_is_the_one_before_clipping():
    free, clipped = make(clip=0.0, dropout=0.0), make(clip=1e-3, dropout=0.0)
    update = free.update()
    assert update.norm > 1e-3
    assert clipped.update() == update
    # what is remembered of the first gradient is a tenth of it, as it was used
    whole, part = (np.linalg.norm(t.optimizer.state_dict()["exp_avg"]) for t in (free, clipped))
    assert whole == pytest.approx(0.1 * update.norm, rel=1e-5)
    assert part == pytest.approx(0.1 * 1e-3, rel=1e-5)


def feed(monkeypatch, windows):
    """Let every trainer take its batches from `windows`, one after the other."""
    positions = {}

    def next_batch(tokens, block_size, batch_size, stream):
        start = positions.get(id(stream), 0)
        positions[id(stream)] = start + batch_size
        part = slice(start, start + batch_size)
        return windows[0][part], windows[1][part]

    monkeypatch.setattr(batches, "random_batch", next_batch)


@pytest.mark.parametrize("model", ["gpt", "bigram"])
@pytest.mark.parametrize("accumulate", [2, 3, 8])
def test_accumulated_batches_count_as_one_larger_batch(monkeypatch, model, accumulate):
    tokens = TOKENIZER.encode(TEXT)
    windows = random_batch(tokens, CONFIG.gpt.block_size, 48, np.random.default_rng(0))
    # Adam divides by the root of the squared gradient, which makes rounding large where the
    # gradient is small; with a large eps the weights stay as close as the gradients are.
    pair = [
        make(model=model, dropout=0.0, batch_size=24 // accumulate, accumulate=accumulate),
        make(model=model, dropout=0.0, batch_size=24),
    ]
    for trainer in pair:
        for group in trainer.optimizer.groups:
            group.options["eps"] = 1.0
    feed(monkeypatch, windows)
    tolerance = 32 * float(np.finfo(np.float32).eps)
    for _ in range(2):
        ours, expected = (trainer.update() for trainer in pair)
        assert ours.loss == pytest.approx(expected.loss, rel=tolerance)
        assert ours.norm == pytest.approx(expected.norm, rel=tolerance)
        for slot in ("exp_avg", "exp_avg_sq"):
            sums, whole = (trainer.optimizer.state_dict()[slot] for trainer in pair)
            assert np.linalg.norm(sums - whole) <= tolerance * np.linalg.norm(whole)
    weights, expected = (state_of(trainer)[0] for trainer in pair)
    for name, array in weights.items():
        assert np.linalg.norm(array - expected[name]) <= tolerance * np.linalg.norm(array), name


def test_a_bigram_model_approaches_the_entropy_of_pairs():
    text = make_text(4000)
    trainer = make(
        text,
        model="bigram",
        steps=500,
        batch_size=64,
        lr=0.1,
        min_lr=0.0,
        weight_decay=0.0,
        eval_batches=1,
    )
    train = trainer.split.train
    counts = np.zeros((len(LETTERS), len(LETTERS)))
    np.add.at(counts, (train[:-1], train[1:]), 1)
    frequencies = counts / counts.sum(axis=1, keepdims=True)
    entropy = -np.sum(counts * np.log(np.maximum(frequencies, 1e-300))) / counts.sum()
    start = whole_split_loss(trainer.model, train).nats
    for _ in range(trainer.config.steps):
        trainer.update()
    end = whole_split_loss(trainer.model, train).nats
    assert start > entropy + 0.5
    assert entropy - 1e-6 < end < entropy + 0.01
    often = counts >= 50
    learned = trainer.model.table.weight.detach().numpy().astype(np.float64)
    learned -= np.log(np.exp(learned).sum(axis=1, keepdims=True))
    assert often.any()
    assert np.abs(learned - np.log(np.maximum(frequencies, 1e-300)))[often].max() < 0.3


def test_a_gpt_learns_more_than_a_bigram_can_know():
    text = "abcdefg\n" * 20 + "gfedcba\n" * 20
    trainer = make(text * 4, steps=150, lr=2e-2, batch_size=16)
    losses = [trainer.update().loss for _ in range(150)]
    assert losses[0] == pytest.approx(math.log(len(LETTERS)), abs=0.1)
    assert np.mean(losses[-10:]) < 0.8


# Evaluation


def test_the_lowest_validation_loss_is_remembered():
    trainer = make()
    assert (trainer.best_loss, trainer.best_step, trainer.evaluated) == (math.inf, 0, False)
    told = []
    for loss in (3.0, 2.0, 2.5, 2.0, math.nan, 1.5):
        trainer.update()
        told.append(trainer.note_evaluation(Loss(loss, 10)))
        assert trainer.evaluated
    assert told == [True, True, False, False, False, True]
    assert (trainer.best_loss, trainer.best_step) == (1.5, 6)


def test_evaluations_use_the_same_windows_each_time():
    trainer = make()
    first = trainer.evaluate()
    assert first == trainer.evaluate()
    assert [loss.characters for loss in first] == [2 * 4 * 6] * 2
    other = make(seed=8)
    other.model.load_state_dict(trainer.model.state_dict())
    assert other.evaluate() == first


def test_an_evaluation_stops_when_asked_to():
    with pytest.raises(InterruptedEvaluationError):
        make().evaluate(lambda: True)


# Saving


@pytest.mark.parametrize("model", ["gpt", "bigram"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_saved_run_goes_on_with_the_same_bits(tmp_path, model, accumulate):
    changes = {"model": model, "accumulate": accumulate, "dropout": 0.3}
    path = tmp_path / "last.safetensors"
    whole = make(**changes)
    expected = []
    for step in range(8):
        if step == 4:
            whole.note_evaluation(Loss(1.25, 10))
            whole.save(path, metrics=12)
            saved = state_of(whole)
        expected.append(whole.update())

    loaded = load_checkpoint(path)
    resumed = Trainer(loaded.config, loaded.tokenizer, whole.split)
    resumed.update()  # whatever it was, is overwritten
    resumed.restore(loaded)
    assert_same_state(state_of(resumed), saved)
    assert (resumed.best_loss, resumed.best_step, resumed.evaluated) == (1.25, 4, True)
    assert loaded.metadata["metrics"] == 12
    assert loaded.config == whole.config
    assert loaded.tokenizer == whole.tokenizer
    assert [resumed.update() for _ in range(4)] == expected[4:]
    assert_same_state(state_of(resumed), state_of(whole))


def test_a_run_can_be_saved_before_its_first_update(tmp_path):
    path = tmp_path / "last.safetensors"
    first = make()
    first.save(path)
    second = make(seed=9)
    second.restore(load_checkpoint(path))
    assert second.best_loss == math.inf
    assert [second.update() for _ in range(3)] == [first.update() for _ in range(3)]


def test_saving_changes_nothing_in_the_run(tmp_path):
    plain, saved = make(), make()
    for step in range(3):
        saved.save(tmp_path / f"{step}.safetensors")
        assert plain.update() == saved.update()
    assert_same_state(state_of(saved), state_of(plain))


def test_a_loaded_model_evaluates_as_the_saved_one(tmp_path):
    path = tmp_path / "best.safetensors"
    trainer = make()
    trainer.update()
    trainer.save(path)
    model = load_checkpoint(path).model
    assert not model.training
    validation = trainer.split.validation
    assert whole_split_loss(model, validation) == whole_split_loss(trainer.model, validation)


def test_a_checkpoint_of_another_shape_cannot_be_continued(tmp_path):
    path = tmp_path / "last.safetensors"
    make().save(path)
    other = make(n_layer=1)
    with pytest.raises(RunError, match=r"cannot be continued: [^\0]*unexpected  blocks\.1\."):
        other.restore(load_checkpoint(path))


def altered(path, change):
    """Rewrite a checkpoint after `change(tensors, metadata)`."""
    tensors, metadata = checkpoint.load(path)
    tensors = dict(tensors)
    change(tensors, metadata)
    checkpoint.save(path, tensors, metadata)


@pytest.mark.parametrize("name", ["step", "random", "best_loss", "best_step", "evaluated"])
def test_a_checkpoint_without_a_part_of_the_state_cannot_be_continued(tmp_path, name):
    path = tmp_path / "last.safetensors"
    make().save(path)
    altered(path, lambda tensors, metadata: metadata.pop(name))
    with pytest.raises(RunError, match=f"cannot be continued: '{name}'"):
        make().restore(load_checkpoint(path))


@pytest.mark.parametrize("random", [{}, None, {"seed": 1}])
def test_a_checkpoint_with_a_damaged_random_state_cannot_be_continued(tmp_path, random):
    path = tmp_path / "last.safetensors"
    make().save(path)
    altered(path, lambda tensors, metadata: metadata.update(random=random))
    with pytest.raises(RunError, match="cannot be continued"):
        make().restore(load_checkpoint(path))


def test_a_checkpoint_without_moments_cannot_be_continued_but_used(tmp_path):
    path = tmp_path / "last.safetensors"
    make().save(path)
    altered(path, lambda tensors, metadata: tensors.pop("optimizer.exp_avg"))
    loaded = load_checkpoint(path)
    with pytest.raises(RunError, match="'exp_avg' is nothing"):
        make().restore(loaded)


def test_a_checkpoint_of_something_else_holds_no_model(tmp_path):
    path = tmp_path / "other.safetensors"
    checkpoint.save(path, {"w": np.zeros(2)}, {"step": 1})
    with pytest.raises(RunError, match=r"other.safetensors' holds no model that can be used"):
        load_checkpoint(path)


def assert_refused(path, change, message):
    """Assert that a checkpoint of which tensors or metadata were changed is refused."""
    make().save(path)
    altered(path, change)
    with pytest.raises(RunError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, metadata: metadata.update(vocabulary="ab"),
        lambda tensors, metadata: metadata["config"]["gpt"].update(n_layer=3),
        lambda tensors, metadata: tensors.pop("model.norm.weight"),
        lambda tensors, metadata: tensors.update({"model.more": np.zeros(1, np.float32)}),
    ],
)
def test_weights_that_do_not_fit_the_settings_are_refused(tmp_path, change):
    message = "does not hold the model that its settings describe"
    assert_refused(tmp_path / "last.safetensors", change, message)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, metadata: metadata["config"].update(learning_rate=1),
        lambda tensors, metadata: metadata["config"].update(lr="fast"),
        lambda tensors, metadata: metadata.update(config=3),
        lambda tensors, metadata: metadata["config"].update(gpt=None),
        lambda tensors, metadata: metadata.update(vocabulary="ba"),
        lambda tensors, metadata: metadata.update(vocabulary=5),
        lambda tensors, metadata: metadata.pop("vocabulary"),
    ],
)
def test_settings_that_make_no_model_are_refused(tmp_path, change):
    assert_refused(tmp_path / "last.safetensors", change, "holds no model that can be used")


@pytest.mark.parametrize("model", ["gpt", "bigram"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n_layer", [1, 3])
def test_parameters_are_counted_without_making_them(model, bias, tied, n_layer):
    gpt = GPTConfig(block_size=5, n_layer=n_layer, n_head=2, n_embd=6, bias=bias, tied=tied)
    config = TrainConfig(model=model, gpt=gpt)
    parameters = list(build_model(config, 11, Generator(0)).parameters())
    expected = len(parameters), sum(each.size for each in parameters)
    assert parameter_count(config, 11) == expected


def test_a_model_is_built_as_its_settings_say():
    gpt = build_model(CONFIG, len(LETTERS), Generator(0))
    bigram = build_model(replace(CONFIG, model="bigram"), len(LETTERS), Generator(0))
    assert (gpt.block_size, gpt.vocab_size, gpt.config) == (6, len(LETTERS), CONFIG.gpt)
    assert (bigram.block_size, bigram.vocab_size) == (6, len(LETTERS))


# Diverging


def fail(trainer):
    """Make the update that must fail; check that it left everything as it was."""
    before = state_of(trainer)
    with np.errstate(all="ignore"), pytest.raises(DivergedError) as caught:
        trainer.update()
    assert_same_state(state_of(trainer), before)
    return str(caught.value)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_nan_among_the_weights_is_named_with_step_and_operation(accumulate):
    trainer = make(accumulate=accumulate, dropout=0.3)
    for _ in range(2):
        trainer.update()
    weight = trainer.model.blocks[1].feed_forward.expand.weight
    weight.array[3, 2] = np.nan
    message = fail(trainer)
    assert message.startswith("the loss is nan at step 2: forward of linear")
    assert "float32 (32, 8) from nan to nan with 1 not finite" in message
    assert "Try a lower --lr" in message


def test_a_run_goes_on_as_before_once_the_cause_is_gone():
    plain, hurt = make(dropout=0.3), make(dropout=0.3)
    for trainer in (plain, hurt):
        trainer.update()
    weight = hurt.model.norm.weight
    value = weight.array[0].copy()
    weight.array[0] = np.inf
    fail(hurt)
    weight.array[0] = value
    assert [hurt.update() for _ in range(3)] == [plain.update() for _ in range(3)]
    assert_same_state(state_of(hurt), state_of(plain))


@pytest.mark.parametrize("lr", [1e12, 1e30])
def test_a_learning_rate_that_is_far_too_large_is_found_out(lr):
    trainer = make(lr=lr, warmup=0, weight_decay=0.0)
    states = []

    def run():
        for _ in range(20):
            states.append(state_of(trainer))
            trainer.update()

    with np.errstate(all="ignore"), pytest.raises(DivergedError) as caught:
        run()
    assert_same_state(state_of(trainer), states[-1])
    message = str(caught.value)
    assert f" at step {len(states) - 1}: " in message
    assert " produced a value that is not finite; its inputs: " in message


def test_a_gradient_that_is_not_finite_is_found_where_the_loss_still_is():
    trainer = make(dropout=0.0)
    # What a hook makes is no operation's result.
    infinite = np.full(trainer.model.head.weight.shape, np.inf, np.float32)
    trainer.model.head.weight.register_hook(lambda grad: Tensor(infinite))
    message = fail(trainer)
    assert message.startswith("the norm of the gradient is inf at step 0: ")
    assert "every operation gave finite values when it was repeated" in message


@pytest.mark.parametrize("part", ["training", "validation"])
def test_an_evaluation_that_gives_no_number_is_found_out(part):
    trainer = make()
    trainer.update()
    if part == "training":
        trainer.model.norm.weight.array[0] = np.nan
    else:
        x, _ = trainer._fixed[1][0]
        only = 7 if 7 in x else int(x[0, 0])
        trainer._fixed[0] = [(np.full_like(x, 1), np.full_like(x, 1))]
        trainer._fixed[1] = [(np.full_like(x, only), np.full_like(x, 1))]
        trainer.model.token_embedding.weight.array[only] = np.nan
    before = state_of(trainer)
    with np.errstate(all="ignore"), pytest.raises(DivergedError) as caught:
        trainer.evaluate()
    message = str(caught.value)
    first = "embedding" if part == "validation" else "layernorm"
    assert message.startswith(f"the {part} loss is nan at step 1: forward of {first} produced")
    assert_same_state(state_of(trainer), before)
    assert trainer.model.training
    assert not trainer.evaluated
