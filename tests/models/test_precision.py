"""Training with products in bfloat16 on the CPU: `--precision bf16`, and `auto`."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_runs import finish, metrics, start, train

from tinygrad_char import checkpoint
from tinygrad_char import functional as F
from tinygrad_char.kernels import operations
from tinygrad_char.kernels.backend import status
from tinygrad_char.kernels.cpu import bfloat16
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.operations import using
from tinygrad_char.models import cli, precision
from tinygrad_char.models.batches import split_corpus
from tinygrad_char.models.build import build_model, load_checkpoint
from tinygrad_char.models.config import TrainConfig
from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.generate import Sampling, generate
from tinygrad_char.models.gpt import GPTConfig
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.models.trainer import Trainer
from tinygrad_char.modes import no_grad
from tinygrad_char.parallel import Workers
from tinygrad_char.random import Generator, sampling_streams

needs_kernels = pytest.mark.skipif(compiled is None, reason=status())
needs_instruction = pytest.mark.skipif(
    not bfloat16.has_instruction(), reason=precision.describe_instruction()
)
TOKENIZER = CharTokenizer("\nabcdefg")
TOKENS = np.random.default_rng(0).integers(0, 8, 900)
SHAPE = GPTConfig(block_size=12, n_layer=2, n_head=2, n_embd=24, dropout=0.1)
CONFIG = TrainConfig(
    gpt=SHAPE, steps=40, batch_size=4, shards=2, lr=1e-2, warmup=3, eval_batches=2, precision="bf16"
)
EMULATED = {bfloat16.VARIABLE: "emulated"}


def make(threads=None, **changes):
    return Trainer(replace(CONFIG, **changes), TOKENIZER, split_corpus(TOKENS, 12), threads=threads)


def weights(model):
    return {name: each.numpy().tobytes() for name, each in model.state_dict().items()}


@pytest.fixture
def without_instruction(monkeypatch):
    """Have this process compute as a processor without AVX512_BF16 does."""
    monkeypatch.setenv(bfloat16.VARIABLE, "emulated")
    bfloat16.has_instruction.cache_clear()
    assert not bfloat16.has_instruction()
    yield
    monkeypatch.undo()
    bfloat16.has_instruction.cache_clear()
    bfloat16.has_instruction()


# What is computed


@needs_kernels
def test_losses_are_those_of_float32_to_the_rounding_of_products():
    low, full = make(), make(precision="float32")
    losses = [[trainer.update().loss for _ in range(12)] for trainer in (low, full)]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(*losses, rtol=2e-3)
    assert {each.dtype for each in low.model.parameters()} == {np.dtype(np.float32)}


@needs_kernels
def test_recorded_steps_have_the_bits_of_the_tape():
    trainers = [make() for _ in range(2)]
    trainers[1].loss.reason = "to compare"
    updates = [[trainer.update() for _ in range(8)] for trainer in trainers]
    assert trainers[0].loss.reason is None
    assert updates[0] == updates[1]
    assert weights(trainers[0].model) == weights(trainers[1].model)


@needs_kernels
def test_the_number_of_threads_changes_no_bit():
    trainers = [make(shards=3) for _ in range(2)]
    for trainer, threads in zip(trainers, (1, 3), strict=True):
        trainer.workers = Workers(threads)
    updates = [[trainer.update() for _ in range(6)] for trainer in trainers]
    assert updates[0] == updates[1]
    assert trainers[0].evaluate() == trainers[1].evaluate()
    assert weights(trainers[0].model) == weights(trainers[1].model)


@needs_kernels
def test_emulation_trains_to_the_same_bits(without_instruction):
    emulated = make()
    updates = [emulated.update() for _ in range(5)], emulated.evaluate()
    bfloat16.has_instruction.cache_clear()
    if compiled.product_choose_bf16(bfloat16.BY_INSTRUCTION) != bfloat16.BY_INSTRUCTION:
        pytest.skip("this processor has no AVX512_BF16 to compare with")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(bfloat16.VARIABLE)
        assert bfloat16.has_instruction()
        other = make()
        assert ([other.update() for _ in range(5)], other.evaluate()) == updates
    assert weights(other.model) == weights(emulated.model)


def test_references_round_as_the_kernels_do():
    from tinygrad_char.kernels.operations import operations, using

    losses = []
    for versions in ({}, dict.fromkeys(operations(), "reference")):
        with using(versions):
            trainer = make()
            losses.append([trainer.update().loss for _ in range(4)])
    # a sum in another order may be rounded to another number in bfloat16
    np.testing.assert_allclose(*losses, rtol=1e-4)


@needs_kernels
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_products_in_float32(tied, monkeypatch):
    """What is wrong about them is wrong about the gradients of everything."""
    config = replace(CONFIG, gpt=replace(CONFIG.gpt, tied=tied))
    model = build_model(config, 8, Generator(1)).eval()
    asked, forward = [], F.linear

    def linear(x, weight, *options):
        asked.append((weight.shape, operations.current().bf16))
        return forward(x, weight, *options)

    monkeypatch.setattr(F, "linear", linear)
    model(TOKENS[None, :9])
    assert asked[-1] == ((8, 24), False)
    assert {low for _, low in asked[:-1]} <= {True}
    assert operations.current() is None


@needs_kernels
def test_cached_logits_are_those_without_a_cache():
    model = build_model(CONFIG, 8, Generator(1)).eval()
    tokens = TOKENS[None, :9]
    cache = model.new_cache()
    with no_grad():
        full = model(tokens)[0].numpy()
        parts = [model(tokens[:, :5], cache=cache)[0].numpy()]
        parts += [model(tokens[:, i : i + 1], cache=cache)[0].numpy() for i in range(5, 9)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), full, atol=2e-3)
    written = generate(model, tokens[0, :3], 12, Sampling(), sampling_streams(1, 2))
    assert [len(each) for each in written] == [2] * 12


# What begins, and what goes on


@needs_kernels
def test_a_run_resumes_to_the_same_bits(tmp_path):
    whole, first = make(), make()
    expected = [whole.update() for _ in range(9)]
    assert [first.update() for _ in range(4)] == expected[:4]
    first.save(tmp_path / "last.safetensors", data={}, metrics=0)
    loaded = load_checkpoint(tmp_path / "last.safetensors")
    assert loaded.config == CONFIG
    assert loaded.model.settings.bf16
    second = make()
    second.restore(loaded)
    assert [second.update() for _ in range(5)] == expected[4:]
    assert weights(second.model) == weights(whole.model)


@needs_instruction
def test_a_run_goes_on_without_the_instruction_to_the_same_bits_and_says_so_once(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("abcd efgh\n" * 200)
    options = ["train", "--data", text, "--precision", "bf16", "--n-layer", "1", "--n-head", "2"]
    options += ["--n-embd", "16", "--block-size", "8", "--batch-size", "2", "--eval-batches", "1"]
    options += ["--steps", "6", "--eval-every", "3", "--log-every", "1", "--sample-every", "0"]
    for name in ("here", "there"):
        process = start(*options, "--out", tmp_path / name, cwd=tmp_path)
        assert finish(process)[0] == 0
    for name, environment in (("here", {}), ("there", EMULATED)):
        folder = tmp_path / name
        process = start("train", "--resume", folder, "--steps", "9", cwd=tmp_path, env=environment)
        code, out, err = finish(process)
        assert code == 0, err
        assert (out + err).count("are emulated, slowly") == (name == "there")
    here, there = (
        load_checkpoint(tmp_path / name / "last.safetensors") for name in ("here", "there")
    )
    assert weights(here.model) == weights(there.model)
    assert metrics(tmp_path / "here") == metrics(tmp_path / "there")
    losses = []
    for environment in ({}, EMULATED):
        process = start("evaluate", tmp_path / "here", "--json", cwd=tmp_path, env=environment)
        code, out, err = finish(process)
        assert code == 0, err
        assert err.count("are emulated, slowly") == (environment is EMULATED)
        losses.append(json.loads(out)["nats_per_character"])
    assert losses[0] == losses[1]


@needs_kernels
def test_to_begin_without_the_instruction_is_refused(here, without_instruction, capsys):
    command = ["train", "--data", "text.txt", "--precision", "bf16", "--out", "run"]
    assert cli.run(command) == 2
    error = capsys.readouterr().err
    assert "precision is bf16, but TINYGRAD_CHAR_BF16=emulated in the environment" in error
    assert "--precision float32, or auto" in error
    assert not (here / "run").exists()


@needs_kernels
def test_to_change_to_bfloat16_without_the_instruction_is_refused(
    tmp_path, without_instruction, capsys
):
    assert train(tmp_path / "run") == 0
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    assert cli.run(["train", "--resume", str(tmp_path / "run"), "--precision", "bf16"]) == 2
    assert "precision is bf16, but" in capsys.readouterr().err
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


@pytest.mark.parametrize("way", ["instruction", "emulated"])
def test_auto_is_settled_once_and_kept(tmp_path, way, monkeypatch, capsys):
    expected = "float32"
    if way == "instruction" and bfloat16.has_instruction():
        expected = "bf16"
    monkeypatch.setenv(bfloat16.VARIABLE, way)
    bfloat16.has_instruction.cache_clear()
    folder = tmp_path / "run"
    assert train(folder, "--precision", "auto") == 0
    assert checkpoint.load(folder / "last.safetensors")[1]["config"]["precision"] == expected
    assert json.loads((folder / "config.json").read_text())["config"]["precision"] == expected
    assert cli.run(["train", "--resume", str(folder), "--steps", "5"]) == 0
    assert load_checkpoint(folder / "last.safetensors").config.precision == expected
    monkeypatch.undo()
    bfloat16.has_instruction.cache_clear()
    assert cli.run(["generate", str(folder), "--length", "5"]) == 0


@pytest.mark.parametrize(("major", "expected"), [(7, "float32"), (8, "bf16"), (9, "bf16")])
def test_auto_on_cuda_is_what_the_gpu_has(monkeypatch, major, expected):
    from types import SimpleNamespace

    runtime = SimpleNamespace(getDeviceProperties=lambda device: {"major": major})
    backend = SimpleNamespace(xp=SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    monkeypatch.setattr(precision, "get_backend", lambda device: backend)
    config = replace(CONFIG, device="cuda", precision="auto")
    assert precision.resolved(config).precision == expected
    on_cpu = replace(CONFIG, device="cuda-on-cpu", precision="auto")
    assert precision.resolved(on_cpu).precision == "float32"
    assert precision.resolved(replace(config, precision="tf32")).precision == "tf32"


def test_auto_is_float32_where_references_serve_products():
    with using(linear="reference"):
        assert precision.resolved(replace(CONFIG, precision="auto")).precision == "float32"


def test_without_kernels_in_c_no_equal_digits_are_promised(monkeypatch):
    assert "to the same digits" in precision.describe_emulation()
    monkeypatch.setattr(precision, "compiled", None)
    said = precision.describe_emulation()
    assert "equal to rounding alone: the kernels in C are not built" in said


def test_auto_is_nothing_to_build_a_model_of_or_to_keep():
    config = replace(CONFIG, precision="auto")
    with pytest.raises(UsageError, match="precision is auto; expected what"):
        build_model(config, 8, Generator(1))
    with pytest.raises(UsageError, match="settled when a run begins"):
        TrainConfig.from_json(config.to_json())


def test_no_preset_has_another_precision_than_float32():
    from tinygrad_char.models.config import PRESETS

    assert {each.precision for each in PRESETS.values()} == {"float32"}


def test_doctor_tells_how_products_in_bfloat16_are_computed(capsys):
    assert cli.run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bfloat16"] == precision.describe_instruction()


def test_an_unknown_way_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv(bfloat16.VARIABLE, "fast")
    bfloat16.has_instruction.cache_clear()
    assert train(tmp_path / "run", "--precision", "auto") == 2
    assert "TINYGRAD_CHAR_BF16='fast' in the environment" in capsys.readouterr().err
    monkeypatch.undo()
    bfloat16.has_instruction.cache_clear()
