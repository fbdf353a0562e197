import os
import pickle
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from tiny_runs import TEXT, TINY

from tinygrad_char import checkpoint
from tinygrad_char.models import cli
from tinygrad_char.models.build import load_checkpoint
from tinygrad_char.models.config import TrainConfig

INTEGERS = {
    **dict.fromkeys(
        ["steps", "batch-size", "accumulate", "shards", "eval-every", "eval-batches"], 1
    ),
    **dict.fromkeys(["log-every", "block-size", "n-layer", "n-head", "n-embd"], 1),
    **dict.fromkeys(["warmup", "sample-every", "seed", "convolution"], 0),
}
"""Options of train, each with the least value that it takes."""
NUMBERS = {
    **dict.fromkeys(["lr", "muon-lr", "weight-decay"], ("-1", "nan", "inf", "-inf")),
    **dict.fromkeys(["muon-weight-decay", "clip"], ("-1", "nan", "inf", "-inf")),
    **dict.fromkeys(["min-lr", "cooldown"], ("-0.1", "1.5", "nan", "inf")),
    **dict.fromkeys(["beta1", "beta2", "muon-momentum"], ("-0.1", "1", "1.5", "nan", "inf")),
    **dict.fromkeys(["ema", "dropout"], ("-0.1", "1", "1.5", "nan", "inf")),
}
"""Options of train, each with values that it refuses."""


@pytest.fixture
def here(here, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return here


@pytest.fixture
def run_folder(here, trained):
    """Return a finished run of the text that lies beside it, ready to be spoiled."""
    shutil.copytree(trained, here / "run")
    return Path("run")


@pytest.fixture
def refuse(capsys):
    """Return a function that runs a command and returns what it says against its arguments."""

    def contents():
        return {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")}

    def refused(*arguments, code=2):
        before = contents()
        capsys.readouterr()
        assert cli.run([*map(str, arguments)]) == code
        out, error = capsys.readouterr()
        assert out == ""
        assert error.startswith("error: ") or "--help" in error
        assert "Traceback" not in error
        assert "tyro" not in error
        assert contents() == before
        return " ".join(error.replace("│", " ").split())

    return refused


def says(message, *parts):
    missing = [part for part in parts if part not in message]
    assert missing == [], message


def test_unknown_command(here, refuse):
    says(refuse("trian"), "trian", "train, generate, evaluate, data, doctor", "--help")


@pytest.mark.parametrize("command", ["train", "generate", "evaluate", "data", "doctor"])
def test_unknown_option(command, here, refuse):
    says(refuse(command, "--nonsense"), "--nonsense", "tinygrad-char", "--help")


def test_misspelt_option_is_recognised(here, refuse):
    says(refuse("train", "--batchsize", "3"), "--batchsize", "Perhaps you meant", "--batch-size")


def test_option_without_its_value(here, refuse):
    says(refuse("train", "--out"), "--out", "--help")


@pytest.mark.parametrize(
    ("option", "value", "known"),
    [
        ("--preset", "huge", ("tiny", "small", "medium", "full", "lecture", "nanogpt-full")),
        ("--device", "tpu", ("cpu", "cuda")),
        ("--model", "lstm", ("gpt", "bigram")),
        ("--activation", "swish", ("relu", "gelu", "gelu_tanh")),
        ("--optimizer", "sgd", ("adamw", "muon")),
        ("--decayed", "biases", ("matrices", "embeddings")),
        ("--schedule", "step", ("cosine", "linear", "wsd", "wsd-sqrt")),
    ],
)
def test_unknown_choice(option, value, known, here, refuse):
    says(refuse("train", "--data", "text.txt", option, value), value, option, *known)


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_unknown_choices_of_the_other_commands(command, run_folder, refuse):
    says(refuse(command, run_folder, "--checkpoint", "first"), "first", "best", "last")
    says(refuse(command, run_folder, "--unknown", "drop"), "drop", "error", "skip", "replace")


def test_missing_file(here, refuse):
    for command in (["train", "--data"], ["data"]):
        message = refuse(*command, "txt.txt")
        says(
            message, "no file 'txt.txt'", "did you mean 'text.txt'?", "UTF-8", "shakespeare, pydoc"
        )


def test_missing_file_without_a_near_name(here, refuse):
    says(refuse("data", "nothing-like-it"), "no file 'nothing-like-it'; `--data` takes")


def test_folder_as_a_text(here, refuse):
    (here / "folder").mkdir()
    says(refuse("train", "--data", "folder"), "'folder' is a folder", "one text file")


def test_empty_name_of_a_text(here, run_folder, refuse):
    for command in (["train"], ["evaluate", "run"], ["train", "--resume", "run"]):
        says(refuse(*command, "--data", ""), "`--data` is empty", "shakespeare, pydoc")


def test_empty_file(here, refuse):
    (here / "empty.txt").touch()
    says(refuse("train", "--data", "empty.txt"), "'empty.txt' is empty", "give a file with text")


def test_bytes_that_are_not_utf8(here, refuse):
    (here / "latin.txt").write_bytes(b"abc\ncaf\xe9\n" * 50)
    message = refuse("train", "--data", "latin.txt")
    says(
        message, "'latin.txt' is not UTF-8", "0xE9 at offset 7 (line 2)", "WINDOWS-1252 'caf\u00e9'"
    )


def test_one_distinct_character(here, refuse):
    (here / "one.txt").write_text("a" * 500)
    says(
        refuse("train", "--data", "one.txt"), "one distinct character ('a', 500 times)", "at least"
    )


@pytest.mark.parametrize("model", ["gpt", "bigram"])
def test_text_too_short_for_the_context_and_the_shortest_that_is_not(model, here, refuse, capsys):
    options = [*TINY, "--out", "run", "--model", model]
    (here / "short.txt").write_text("ab" * 4)
    message = refuse("train", "--data", "short.txt", *options)
    says(message, "too short: 8 characters", "block_size + 1 = 9", "at least 81", "`--block-size`")
    (here / "short.txt").write_text("ab" * 40)
    refuse("train", "--data", "short.txt", *options)
    (here / "short.txt").write_text("ab" * 40 + "a")
    assert cli.run(["train", "--data", "short.txt", *options]) == 0


@pytest.mark.parametrize("option", INTEGERS)
def test_whole_numbers_of_train(option, here, refuse):
    least = INTEGERS[option]
    for value in (str(least - 1), "-7"):
        message = refuse("train", "--data", "text.txt", f"--{option}", value)
        says(message, f"{option.replace('-', '_')} is {value}", "expected an integer")
    for value in ("abc", "1.5", "nan", "inf", ""):
        says(refuse("train", "--data", "text.txt", f"--{option}", value), f"--{option}", value)


@pytest.mark.parametrize("option", NUMBERS)
def test_numbers_of_train(option, here, refuse):
    for value in NUMBERS[option]:
        message = refuse("train", "--data", "text.txt", f"--{option}={value}")
        says(message, f"{option.replace('-', '_')} is {float(value):g}", "expected a")
    for value in ("abc", ""):
        message = refuse("train", "--data", "text.txt", f"--{option}", value)
        says(message, f"--{option}", f"'{value}'", "float")


def test_learning_rate_of_zero(here, refuse):
    says(refuse("train", "--lr", "0"), "lr is 0", "above 0")


LONG = {"400 digits": "9" * 400, "negative": "-" + "9" * 400, "5000 digits": "9" * 5000}


@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
@pytest.mark.parametrize("option", [*INTEGERS, *NUMBERS])
def test_a_number_of_hundreds_of_digits(option, value, here, refuse):
    message = refuse("train", "--data", "text.txt", f"--{option}={value}")
    assert len(message) < 6000
    for command in ("resume", "out"):
        refuse("train", "--data", "text.txt", f"--{command}={value}")


@pytest.mark.parametrize("value", [*LONG.values(), str(2**63)], ids=[*LONG, "2^63"])
@pytest.mark.parametrize("option", ["length", "samples", "top-k", "seed", "temperature", "top-p"])
def test_a_number_of_hundreds_of_digits_for_generate(option, value, run_folder, refuse):
    if (option, value) not in (("seed", str(2**63)), ("temperature", str(2**63))):
        says(refuse("generate", run_folder, f"--{option}={value}"), option)


@pytest.mark.parametrize("number", [2**63, 2**64, 10**30])
@pytest.mark.parametrize("option", [each for each in INTEGERS if each != "seed"])
def test_a_number_beyond_63_bits(option, number, here, refuse):
    message = refuse("train", "--data", "text.txt", f"--{option}", number)
    says(message, f"{option.replace('-', '_')} is {number}", "below 2^63")


@pytest.mark.parametrize(
    "options",
    [
        ["--eval-batches", 10**13],
        ["--accumulate", 10**13],
        ["--n-layer", 10**10],
        ["--n-layer", 2**62],
        ["--n-embd", 10**8],
        ["--n-embd", 2**62],
        ["--batch-size", 2**62],
        ["--batch-size", 2**62, "--accumulate", 2**62, "--eval-batches", 2**62],
    ],
)
def test_what_could_never_fit_is_found_before_anything_is_made(options, here, refuse):
    arguments = ["train", "--data", "text.txt", "--out", "run", *TINY, *options]
    started = time.monotonic()
    says(refuse(*arguments, code=1), "out of memory", "GiB are needed", "lower --batch-size")
    assert time.monotonic() - started < 5
    assert not Path("run").exists()


@pytest.mark.parametrize("options", [["--block-size", 2**62], ["--block-size", 2**63 - 1]])
def test_a_context_longer_than_any_text(options, here, refuse):
    says(refuse("train", "--data", "text.txt", *options), "the text is too short")


def test_seed_beyond_64_bits(here, refuse):
    says(refuse("train", "--seed", 2**64), "seed is 18446744073709551616", "2^64")


def test_channels_that_the_heads_cannot_share(here, refuse):
    message = refuse("train", "--data", "text.txt", "--n-embd", "30", "--n-head", "4")
    says(message, "n_embd 30", "n_head 4", "try n_embd 32")


@pytest.mark.parametrize("value", ["-0.5", "nan", "inf", "-inf"])
def test_temperature(value, run_folder, refuse):
    says(refuse("generate", run_folder, f"--temperature={value}"), "temperature is", "expected 0")


@pytest.mark.parametrize("value", ["-0.5", "0", "1.5", "nan", "inf"])
def test_top_p(value, run_folder, refuse):
    says(refuse("generate", run_folder, f"--top-p={value}"), "top-p is", "up to 1")


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("--top-k", "0", ("top-k is 0", "at least 1")),
        ("--top-k", "-3", ("top-k is -3", "at least 1")),
        ("--length", "-1", ("length is -1", "integer from 0")),
        ("--samples", "0", ("samples is 0", "integer from 1")),
        ("--seed", "-1", ("seed -1", "integer from 0 to 2^64 - 1")),
        ("--seed", str(2**64), ("seed 18446744073709551616", "2^64 - 1")),
    ],
)
def test_whole_numbers_of_generate(option, value, parts, run_folder, refuse):
    says(refuse("generate", run_folder, option, value), *parts)


@pytest.mark.parametrize("option", ["length", "samples", "top-k", "seed", "temperature", "top-p"])
def test_text_for_a_number_of_generate(option, run_folder, refuse):
    for value in ("abc", "", "None"):
        says(refuse("generate", run_folder, f"--{option}", value), f"--{option}", f"'{value}'")


@pytest.mark.parametrize("command", ["train", "generate", "evaluate"])
def test_cuda_without_cupy(command, run_folder, refuse, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    arguments = {
        "train": ["train", "--data", "text.txt", "--out", "other", *TINY],
        "generate": ["generate", run_folder],
        "evaluate": ["evaluate", run_folder],
    }[command]
    message = refuse(*arguments, "--device", "cuda", code=1)
    says(message, "cuda", "CuPy", "pip install", "cpu")


def test_run_of_a_gpu_is_used_without_one(run_folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    tensors, metadata = checkpoint.load(run_folder / "last.safetensors")
    metadata["config"]["device"] = "cuda"
    for name in ("last.safetensors", "best.safetensors"):
        checkpoint.save(run_folder / name, tensors, metadata)
    assert cli.run(["generate", "run", "--length", "5"]) == 0
    assert cli.run(["evaluate", "run"]) == 0
    assert cli.run(["train", "--resume", "run", "--steps", "6"]) == 1
    assert "cuda" in capsys.readouterr().err
    assert cli.run(["train", "--resume", "run", "--steps", "6", "--device", "cpu"]) == 0
    assert load_checkpoint(run_folder / "last.safetensors").metadata["step"] == 6


def test_prompt_with_unknown_characters(run_folder, refuse):
    message = refuse("generate", run_folder, "--prompt", "caf\u00e9 \u2603")
    says(message, "2 of the text's 6", "U+00E9", "the vocabulary has 'e'", "U+2603 SNOWMAN")
    says(message, "line 1, column 4", "--unknown replace", "--unknown skip")


def test_text_with_unknown_characters(run_folder, here, refuse):
    (here / "other.txt").write_text("caf\u00e9 " * 20)
    says(refuse("evaluate", run_folder, "--data", "other.txt"), "20 of the text's", "--unknown")


def test_text_too_short_to_measure(run_folder, here, refuse):
    (here / "other.txt").write_text("\u00e9a\u00e9")
    arguments = ["evaluate", run_folder, "--data", "other.txt", "--unknown", "skip"]
    says(refuse(*arguments, "--split", "all"), "'other' has 1 known characters", "at least 2")
    says(refuse(*arguments), "too short")


@pytest.mark.parametrize("command", [["generate"], ["evaluate"], ["train", "--resume"]])
def test_missing_run(command, run_folder, refuse):
    says(refuse(*command, "rum"), "no checkpoint or run folder 'rum'", "Did you mean 'run'?")
    says(refuse(*command, "missing"), "missing", "tinygrad-char train")


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_no_run_yet(command, here, refuse):
    says(refuse(command), "no run under runs/", "`tinygrad-char train`")


@pytest.mark.parametrize("command", [["generate"], ["evaluate"], ["train", "--resume"]])
def test_folder_that_is_no_run(command, here, refuse):
    (here / "folder").mkdir()
    says(refuse(*command, "folder"), "'folder' holds no checkpoint", "tinygrad-char train")


def spoil_cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def spoil_cut_in_the_header(path):
    path.write_bytes(path.read_bytes()[:500])


def spoil_empty(path):
    path.write_bytes(b"")


def spoil_alter(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def spoil_foreign(path):
    safetensors.numpy.save_file({"weight": np.zeros(3)}, path)


def spoil_pickle(path):
    path.write_bytes(pickle.dumps({"weight": 1}))


def spoil_shape(path):
    tensors, metadata = checkpoint.load(path)
    metadata["config"]["gpt"]["n_embd"] = 16
    checkpoint.save(path, tensors, metadata)


def spoil_vocabulary(path):
    tensors, metadata = checkpoint.load(path)
    metadata["vocabulary"] += "\u2603"
    checkpoint.save(path, tensors, metadata)


def spoil_setting(path):
    tensors, metadata = checkpoint.load(path)
    metadata["config"]["momentum"] = 0.5
    checkpoint.save(path, tensors, metadata)


def spoil_weights(path):
    tensors, metadata = checkpoint.load(path)
    tensors["model.norm.weight"][1] = np.nan
    checkpoint.save(path, tensors, metadata)


def spoil_dtype(path):
    tensors, metadata = checkpoint.load(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float64)
    checkpoint.save(path, tensors, metadata)


def spoil_fifo(path):
    path.unlink()
    os.mkfifo(path)


def spoil_device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


SPOILED = {
    spoil_weights: "1 of the 8 elements of 'norm.weight' are not finite",
    spoil_dtype: "does not hold the model that its settings describe",
    spoil_fifo: "not a regular file",
    spoil_device: "not a regular file",
    spoil_cut: "cut short or altered",
    spoil_cut_in_the_header: "cut short or altered",
    spoil_empty: "empty",
    spoil_alter: "altered after it was saved",
    spoil_foreign: "of another program",
    spoil_pickle: "pickle",
    spoil_shape: "does not hold the model that its settings describe",
    spoil_vocabulary: "does not hold the model that its settings describe",
    spoil_setting: "momentum",
}


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("command", [["generate"], ["evaluate"], ["train", "--resume"]])
def test_spoiled_checkpoint(command, spoil, run_folder, refuse):
    path = run_folder / "last.safetensors"
    spoil(path)
    says(refuse(*command, path, code=1), str(path), SPOILED[spoil])


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_weights_that_give_no_numbers(temperature, run_folder, capsys):
    """Finite ones, whose products are not."""
    for name in ("last.safetensors", "best.safetensors"):
        tensors, metadata = checkpoint.load(run_folder / name)
        for each, array in tensors.items():
            if each.startswith("model.") and array.ndim == 1:
                array[...] = 3e38
        checkpoint.save(run_folder / name, tensors, metadata)
    capsys.readouterr()
    assert cli.run(["generate", "run", "--temperature", temperature]) == 1
    says(capsys.readouterr().err, "error: row 0 of the logits gives no probabilities", "another")
    assert cli.run(["evaluate", "run"]) == 1
    says(capsys.readouterr().err, "error: the loss on", "is nan", "another checkpoint")


def hostile(path, change):
    tensors, metadata = checkpoint.load(path)
    change(tensors, metadata)
    checkpoint.save(path, tensors, metadata)


STATES = {
    "inc": lambda t, m: m["random"]["batches"]["bits"]["state"].update(state=0, inc=0),
    "state": lambda t, m: m["random"]["init"]["bits"]["state"].update(state=2**128),
    "generator": lambda t, m: m["random"]["init"]["bits"].update(bit_generator="MT19937"),
    "calls": lambda t, m: m["random"]["dropout"].update(calls=2**64),
    "key": lambda t, m: m["random"]["dropout"].update(key=-1),
    "step": lambda t, m: m.update(step=2**63),
    "no step": lambda t, m: m.update(step="3"),
    "best_step": lambda t, m: m.update(best_step=10**6),
    "best_loss": lambda t, m: m.update(best_loss=float("nan")),
    "evaluated": lambda t, m: m.update(evaluated="yes"),
    "metrics": lambda t, m: m.update(metrics=-1),
    "data": lambda t, m: m["data"].update(argument="a\0b"),
    "characters": lambda t, m: m["data"].update(characters="many"),
    "sha256": lambda t, m: m["data"].update(sha256=5),
    "updates": lambda t, m: t["optimizer.updates"].fill(-1),
    "more updates": lambda t, m: t["optimizer.updates"].fill(10**6),
    "squares": lambda t, m: t["optimizer.exp_avg_sq"].fill(-1),
    "moments": lambda t, m: t["optimizer.exp_avg"].fill(np.inf),
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_a_state_that_no_run_was_in(change, run_folder, refuse):
    hostile(run_folder / "last.safetensors", change)
    message = refuse("train", "--resume", run_folder, "--steps", "6", code=1)
    says(message, "last.safetensors", "cannot be")


@pytest.mark.parametrize(
    "change",
    [
        lambda t, m: m["config"]["gpt"].update(n_embd=2**40, positions="learned"),
        lambda t, m: m["config"]["gpt"].update(n_layer=2**40),
        lambda t, m: m["config"]["gpt"].update(block_size=2**40, positions="learned"),
        lambda t, m: m.update(vocabulary="".join(map(chr, range(32, 0xD800)))),
        lambda t, m: m["config"].update(model="bigram"),
    ],
)
def test_sizes_are_compared_before_anything_is_built(change, run_folder, refuse, monkeypatch):
    hostile(run_folder / "last.safetensors", change)
    monkeypatch.setattr(
        "tinygrad_char.models.build.build_model", lambda *arguments: pytest.fail("it was built")
    )
    message = refuse("generate", run_folder / "last.safetensors", code=1)
    says(message, "does not hold the model that its settings describe")


def test_a_context_that_no_memory_holds_is_refused_before_anything_is_built(run_folder, refuse):
    hostile(
        run_folder / "last.safetensors", lambda t, m: m["config"]["gpt"].update(block_size=2**40)
    )
    message = refuse("generate", run_folder / "last.safetensors", code=1)
    says(message, "holds no model that can be used", "block_size is 1099511627776")


def test_an_error_of_a_file_is_not_one_of_the_output(run_folder, refuse, monkeypatch):
    def fail(*arguments):
        raise OSError(5, "Input/output error", "text.txt")

    monkeypatch.setattr("tinygrad_char.models.cli.load_corpus", fail)
    says(refuse("data", "text.txt", code=1), "error: Input/output error: 'text.txt'")


def test_other_files_as_a_checkpoint(run_folder, refuse):
    says(refuse("generate", "text.txt", code=1), "text.txt", "not a safetensors file")
    says(refuse("train", "--resume", "run/metrics.jsonl", code=1), "metrics.jsonl")


@pytest.mark.parametrize(
    ("option", "value", "before"),
    [
        *(("n-embd", "16", "8"), ("n-layer", "2", "1"), ("n-head", "4", "2")),
        *(("block-size", "16", "8"), ("activation", "gelu", "'relu'"), ("dropout", "0.5", "0.0")),
        *(("model", "bigram", "'gpt'"), ("bias", None, "False"), ("no-tied", None, "True")),
    ],
)
def test_resuming_with_another_shape(option, value, before, run_folder, refuse):
    values = [] if value is None else [value]
    message = refuse("train", "--resume", run_folder, f"--{option}", *values)
    says(message, option.removeprefix("no-").replace("-", "_"), f"checkpoint's is {before}")
    says(message, "leave the option out")


def test_resuming_with_another_text(run_folder, here, refuse):
    (here / "other.txt").write_text(TEXT + "more")
    message = refuse("train", "--resume", run_folder, "--data", "other.txt")
    says(message, "trained on another text", f"{len(TEXT):,} characters", "other.txt", "--data")


def test_resuming_with_another_vocabulary(run_folder, here, refuse):
    (here / "other.txt").write_text(TEXT.replace("fox", "f\u00e9x"))
    message = refuse("train", "--resume", run_folder, "--data", "other.txt")
    says(message, "trained on another text")


def test_resuming_after_the_text_has_changed_or_gone(trained, run_folder, refuse):
    text = trained.parent / "text.txt"
    text.write_text(TEXT + "!")
    says(refuse("train", "--resume", run_folder), "trained on another text", str(text))
    text.unlink()
    says(refuse("train", "--resume", run_folder), "no file", str(text))
    text.write_text(TEXT)


@pytest.fixture
def opened():
    """Return the names of the files that this process opens from now on."""
    names = []
    watching = True

    def audit(event, arguments):  # it stays for good
        if watching and event == "open":
            names.append(arguments[0])

    sys.addaudithook(audit)
    yield names
    watching = False


@pytest.mark.parametrize("command", [["evaluate"], ["train", "--resume"]])
@pytest.mark.parametrize("forget", [True, False])
def test_a_file_that_only_the_checkpoint_names_is_not_opened(
    command, forget, run_folder, refuse, opened
):
    Path("secret.txt").write_text(TEXT)
    secret = str(Path("secret.txt").resolve())
    for name in ("last.safetensors", "best.safetensors"):
        tensors, metadata = checkpoint.load(run_folder / name)
        metadata["data"]["argument"] = secret
        if forget:
            del metadata["data"]["inode"]
        checkpoint.save(run_folder / name, tensors, metadata)
    message = refuse(*command, run_folder)
    assert secret not in map(str, opened)
    says(message, secret, "was not opened", "--data FILE")
    assert cli.run([*command, "run", "--data", secret]) == 0
    assert secret in map(str, opened)


def test_resuming_into_another_folder(run_folder, refuse):
    message = refuse("train", "--resume", run_folder, "--out", "other")
    says(message, "--out", "--resume", "exclude each other")


def test_a_run_is_not_overwritten(run_folder, refuse):
    message = refuse("train", "--data", "text.txt", "--out", run_folder, *TINY)
    says(message, "never overwritten", "`tinygrad-char train --resume run`", "another --out")


def test_a_folder_with_other_files_is_not_used(here, refuse):
    message = refuse("train", "--data", "text.txt", "--out", ".", *TINY)
    says(message, "not empty", "text.txt", "another --out")
    assert "delete" not in message
    refuse("train", "--data", "text.txt", "--out", "", *TINY)


def test_a_file_as_the_run_folder(here, refuse):
    for out in ("text.txt", "text.txt/run"):
        message = refuse("train", "--data", "text.txt", "--out", out, *TINY)
        says(message, out, "is a file", "another --out")


def test_a_file_named_runs(here, refuse):
    (here / "runs").touch()
    says(refuse("train", "--data", "text.txt", *TINY), "runs", "is a file", "--out")


def test_more_memory_than_there_is(here, refuse):
    arguments = ["train", "--data", "text.txt", "--out", "run", *TINY, "--batch-size", 10**15]
    for _ in range(2):
        says(refuse(*arguments, code=1), "out of memory", "lower --batch-size")


def test_every_number_of_the_settings_is_tried_here():
    settings = TrainConfig().to_json()
    values = {**settings.pop("gpt"), **settings}
    numbers = {
        name.replace("_", "-")
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    assert numbers == {*INTEGERS, *NUMBERS}


@pytest.mark.parametrize("value", ["9" * 400, "-" + "9" * 400, "x" + "9" * 400, "9" * 5000])
@pytest.mark.parametrize("option", [*INTEGERS, *NUMBERS])
def test_long_values_of_train_are_shortened(option, value, here, capsys):
    assert cli.run(["train", "--data", "text.txt", f"--{option}={value}"]) == 2
    error = capsys.readouterr().err
    assert option.replace("-", "") in error.replace("-", "").replace("_", "")
    assert "9" * 100 not in error


@pytest.mark.parametrize("value", ["9" * 400, "-" + "9" * 400, "x" + "9" * 400, "9" * 5000])
@pytest.mark.parametrize("option", ["length", "samples", "seed", "temperature", "top-k", "top-p"])
def test_long_values_of_generate_are_shortened(option, value, run_folder, capsys):
    assert cli.run(["generate", str(run_folder), f"--{option}={value}"]) == 2
    error = capsys.readouterr().err
    assert option.replace("-", "") in error.replace("-", "")
    assert "9" * 100 not in error


def test_a_long_prompt_is_used_as_it_is(run_folder, capsys):
    prompt = "the quick brown fox " * 20
    assert cli.run(["generate", str(run_folder), "--prompt", prompt, "--length", "1"]) == 0
    assert capsys.readouterr().out.startswith(prompt)
