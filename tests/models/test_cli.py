import contextlib
import hashlib
import json
import os
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from tiny_runs import TEXT, TINY, finish, metrics, start, train

from tinygrad_char import checkpoint
from tinygrad_char.models import cli
from tinygrad_char.models.build import load_checkpoint
from tinygrad_char.models.config import PRESETS

COMMANDS = {
    "train": [
        *("--preset", "--data", "--out", "--resume", "--json", "--model", "--steps"),
        *("--batch-size", "--accumulate", "--lr", "--min-lr", "--warmup", "--beta1", "--beta2"),
        *("--weight-decay", "--clip", "--eval-every", "--eval-batches", "--log-every"),
        *("--sample-every", "--seed", "--device", "--block-size", "--n-layer", "--n-head"),
        *("--n-embd", "--dropout", "--bias", "--activation", "--tied"),
    ],
    "generate": [
        *("RUN", "--prompt", "--length", "--samples", "--temperature", "--top-k", "--top-p"),
        *("--stop", "--seed", "--unknown", "--checkpoint", "--slide", "--device", "--json"),
    ],
    "evaluate": ["RUN", "--data", "--split", "--checkpoint", "--unknown", "--device", "--json"],
    "data": ["FILE", "--json"],
    "doctor": ["--json"],
}


PREDICTED = len(TEXT) - int(0.9 * len(TEXT)) - 1  # characters of the validation split


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Let no download reach beyond this machine, and no earlier one be found."""
    monkeypatch.delenv("TINYGRAD_CHAR_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def result(capsys, *arguments):
    """Run a command that prints JSON and return what it printed, which is all that it printed."""
    assert cli.run([*map(str, arguments), "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_no_command_shows_the_commands(capsys):
    assert cli.run([]) == 0
    shown = capsys.readouterr().out
    assert cli.run(["--help"]) == 0
    assert shown == capsys.readouterr().out
    assert all(f"• {name} " in shown for name in COMMANDS)
    assert "tinygrad-char train" in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_names_its_options(command, capsys):
    assert cli.run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: tinygrad-char {command}" in shown
    assert [option for option in COMMANDS[command] if option not in shown] == []
    assert "None" not in shown
    assert "config" not in shown


@pytest.mark.parametrize("preset", PRESETS)
def test_help_of_train_shows_the_defaults_of_the_preset(preset, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.run(["train", "--preset", preset, "--help"]) == 0
    shown = capsys.readouterr().out
    config = PRESETS[preset]
    assert f"Updates of the weights. (default: {config.steps})" in shown
    assert f"Characters of context (T). (default: {config.gpt.block_size})" in shown


def test_help_of_train_with_resume_shows_the_settings_of_the_run(trained, capsys):
    assert cli.run(["train", f"--resume={trained}", "--help"]) == 0
    assert "Updates of the weights. (default: 4)" in capsys.readouterr().out


def test_training_shows_and_keeps_what_it_should(here, capsys):
    assert cli.run(["train", "--data", "text.txt", *TINY, "--sample-every", "2"]) == 0
    out = capsys.readouterr().out
    folder = Path("runs/small-text")
    assert "model   GPT of " in out
    assert f"text    text, {len(TEXT):,} characters" in out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("step ")] == [
        "0",
        "2",
        "4",
    ]
    assert f"over the whole split of {PREDICTED} characters" in out
    assert f"tinygrad-char generate {folder}" in out
    assert f"tinygrad-char train --resume {folder} --steps 8" in out
    assert {entry.name for entry in folder.iterdir()} == {
        *("best.safetensors", "last.safetensors", "config.json", "metrics.jsonl"),
        *("loss.png", "run.lock"),
    }
    sample = next(record["sample"] for record in metrics(folder) if "sample" in record)
    assert len(sample) == 200
    assert set(sample) <= set(TEXT)
    assert sample.strip("\n").splitlines()[0] in out


def test_metrics_have_a_line_for_each_evaluation_and_logged_step(trained):
    records = metrics(trained)
    assert [(each["step"], sorted(set(each) - {"step"})) for each in records] == [
        (0, ["train_loss", "validation_loss"]),
        (1, ["loss", "lr", "muon_lr", "norm"]),
        (2, ["loss", "lr", "muon_lr", "norm"]),
        (2, ["train_loss", "validation_loss"]),
        (3, ["loss", "lr", "muon_lr", "norm"]),
        (4, ["loss", "lr", "muon_lr", "norm"]),
        (4, ["train_loss", "validation_loss"]),
    ]


def test_picture_of_the_losses_is_a_png_of_a_readable_size(trained):
    data = (trained / "loss.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", data[16:24])
    assert 600 <= width <= 2000
    assert 300 <= height <= 1500


def test_settings_are_kept_with_the_run(trained):
    kept = json.loads((trained / "config.json").read_text())
    assert kept["config"]["gpt"]["n_embd"] == 8
    assert kept["data"]["argument"] == str(trained.parent / "text.txt")
    assert kept["data"]["characters"] == len(TEXT)


def test_bigram_is_trained_generated_and_evaluated(here, capsys):
    made = result(capsys, "train", "--data", "text.txt", *TINY, "--model", "bigram")
    assert made["folder"] == "runs/bigram-text"
    assert cli.run(["generate", "--length", "20"]) == 0
    measured = result(capsys.readouterr() and capsys, "evaluate")
    assert measured["checkpoint"] == "runs/bigram-text/best.safetensors"


def test_result_of_training_as_json_is_that_of_evaluate(here, capsys):
    made = result(capsys, "train", "--data", "text.txt", *TINY)
    assert made["folder"] == "runs/small-text"
    assert made["steps"] == 4
    assert made["exit_code"] == 0
    last = result(capsys, "evaluate", "--checkpoint", "last")
    assert last["nats_per_character"] == made["validation_loss"]
    assert last["bits_per_character"] == made["bits_per_character"]
    best = result(capsys, "evaluate", made["folder"])
    assert best["nats_per_character"] == made["best_validation_loss"]
    assert best["step"] == made["best_step"]


def test_a_number_is_added_to_a_name_that_is_taken(here, capsys):
    for name in ("small-text", "small-text-2", "small-text-3"):
        made = result(capsys, "train", "--data", "text.txt", *TINY, "--steps", "1")
        assert made["folder"] == f"runs/{name}"


def test_an_empty_folder_is_used(here):
    (here / "run").mkdir()
    assert train(here / "run") == 0


def test_equal_settings_give_equal_runs(here):
    for name in ("a", "b"):
        assert train(here / name, "--dropout", "0.3") == 0
    for name in ("last.safetensors", "best.safetensors", "metrics.jsonl"):
        assert (here / "a" / name).read_bytes() == (here / "b" / name).read_bytes()


def test_another_seed_gives_another_run(here):
    for seed in ("1", "2"):
        assert train(here / seed, "--seed", seed) == 0
    assert metrics(here / "1") != metrics(here / "2")


@pytest.mark.parametrize("name", ["shakespeare.txt", "pydoc.txt", "shakespeare"])
def test_a_file_with_the_name_of_a_built_in_text_is_found_again(name, here, capsys):
    (here / name).write_text(TEXT)
    assert cli.run(["train", "--data", f"./{name}", "--out", "run", *TINY]) == 0
    assert cli.run(["train", "--resume", "run", "--steps", "5"]) == 0
    capsys.readouterr()
    assert result(capsys, "evaluate", "run")["characters"] == PREDICTED


def test_a_run_is_continued_from_any_folder(here, monkeypatch):
    assert cli.run(["train", "--data", "text.txt", "--out", "run", *TINY]) == 0
    monkeypatch.chdir("run")
    assert cli.run(["train", "--resume", ".", "--steps", "6"]) == 0
    assert metrics(here / "run")[-1]["step"] == 6


def test_a_finished_run_that_is_resumed_stays_as_it_is(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    assert cli.run(["train", "--resume", str(tmp_path / "run")]) == 0
    assert "has made its 4 steps; for more, add --steps NUMBER" in capsys.readouterr().out
    for name in ("last.safetensors", "best.safetensors", "metrics.jsonl", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes()


def test_a_run_goes_on_from_a_named_checkpoint(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    checkpoint = tmp_path / "run" / "last.safetensors"
    assert cli.run(["train", "--resume", str(checkpoint), "--steps", "6"]) == 0
    assert load_checkpoint(checkpoint).metadata["step"] == 6


def test_other_settings_than_the_shape_may_change_on_resuming(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    options = ["--lr", "0.5", "--steps", "6", "--batch-size", "3", "--weight-decay", "0"]
    assert cli.run(["train", "--resume", str(tmp_path / "run"), *options]) == 0
    config = load_checkpoint(tmp_path / "run" / "last.safetensors").config
    assert (config.lr, config.steps, config.batch_size, config.weight_decay) == (0.5, 6, 3, 0)


def test_generated_text_is_the_prompt_and_what_follows(trained, capsys):
    assert cli.run(["generate", str(trained), "--prompt", "The", "--length", "30"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("The")
    assert out.endswith("\n")
    assert len(out) == 3 + 30 + 1
    values = result(capsys, "generate", trained, "--prompt", "The", "--length", "30")
    assert values["texts"] == [out[:-1]]
    assert values["prompt"] == "The"
    assert values["checkpoint"] == str(trained / "best.safetensors")


def test_samples_do_not_depend_on_how_many_there_are(trained, capsys):
    three = result(capsys, "generate", trained, "--length", "20", "--samples", "3")["texts"]
    two = result(capsys, "generate", trained, "--length", "20", "--samples", "2")["texts"]
    assert len(set(three)) == 3
    assert three[:2] == two
    assert cli.run(["generate", str(trained), "--length", "20", "--samples", "3"]) == 0
    out = capsys.readouterr().out
    assert out == f"{three[0]}\n\n--- 2 ---\n{three[1]}\n\n--- 3 ---\n{three[2]}\n"


def test_seeds_decide_the_text(trained, capsys):
    texts = [
        result(capsys, "generate", trained, "--length", "40", "--seed", seed)["texts"]
        for seed in ("1", "1", "2")
    ]
    assert texts[0] == texts[1] != texts[2]


def test_temperature_zero_does_not_depend_on_the_seed(trained, capsys):
    first, second = (
        result(capsys, "generate", trained, "--temperature", "0", "--seed", seed)["texts"]
        for seed in ("1", "2")
    )
    assert first == second


def test_top_k_beyond_the_vocabulary_changes_nothing(trained, capsys):
    plain, wide = (
        result(capsys, "generate", trained, *more)["texts"] for more in ([], ["--top-k", "99999"])
    )
    assert plain == wide


def test_top_k_of_one_is_temperature_zero(trained, capsys):
    greedy, one = (
        result(capsys, "generate", trained, *more)["texts"]
        for more in (["--temperature", "0"], ["--top-k", "1"])
    )
    assert greedy == one


def test_the_text_ends_before_the_stop_string(trained, capsys):
    whole = result(capsys, "generate", trained, "--length", "60", "--prompt", "fox")["texts"][0]
    stop = whole[20:22]
    arguments = ["generate", trained, "--length", "60", "--prompt", "fox", "--stop", stop]
    text = result(capsys, *arguments)["texts"][0]
    assert text == "fox" + whole[3:].split(stop)[0]
    assert cli.run([*map(str, arguments)]) == 0
    assert capsys.readouterr().out == text + "\n"


def test_no_length_gives_the_prompt(trained, capsys):
    assert cli.run(["generate", str(trained), "--length", "0", "--prompt", "dog"]) == 0
    assert capsys.readouterr().out == "dog\n"


@pytest.mark.parametrize("prompt", [[], ["--prompt", ""], ["--prompt="]])
def test_empty_prompt_starts_at_a_new_line(prompt, trained, capsys):
    empty = result(capsys, "generate", trained, "--length", "30", *prompt)["texts"][0]
    newline = result(capsys, "generate", trained, "--length", "30", "--prompt", "\n")["texts"][0]
    assert "\n" + empty == newline


def test_unknown_characters_of_the_prompt_follow_the_policy(trained, capsys):
    odd = "fox\N{SNOWMAN}"
    for policy, like, done in (("skip", "fox", "left out"), ("replace", "fox ", "replaced")):
        arguments = ["generate", trained, "--length", "30"]
        assert cli.run([*map(str, arguments), "--prompt", odd, "--unknown", policy]) == 0
        shown, said = capsys.readouterr()
        plain = result(capsys, *arguments, "--prompt", like)
        assert shown == plain["texts"][0] + "\n"
        assert plain["prompt"] == like
        assert "U+2603 SNOWMAN: once at character 4 (line 1, column 4)" in said
        assert f"What is unknown is {done}" in said


def test_a_prompt_of_which_nothing_is_known_is_an_empty_one(trained, capsys):
    arguments = ["generate", trained, "--length", "30"]
    skipped = result(capsys, *arguments, "--prompt", "\N{SNOWMAN}", "--unknown", "skip")
    assert skipped == result(capsys, *arguments)


def test_text_longer_than_the_context_is_written_both_ways(trained, capsys):
    for option in ([], ["--slide"]):
        text = result(capsys, "generate", trained, "--length", "50", *option)["texts"][0]
        assert len(text) == 50


def test_checkpoints_of_a_run_are_told_apart(here, capsys):
    assert train(here / "run", "--lr", "100", "--warmup", "0", "--clip", "0") == 0
    capsys.readouterr()
    best, last = (result(capsys, "evaluate", "run", "--checkpoint", x) for x in ("best", "last"))
    assert (best["step"], last["step"]) == (0, 4)
    assert best["nats_per_character"] < last["nats_per_character"]


def test_splits_of_a_text_are_measured(trained, capsys):
    characters = {
        split: result(capsys, "evaluate", trained, "--split", split)["characters"]
        for split in ("validation", "train", "all")
    }
    train = int(0.9 * len(TEXT)) - 1
    assert characters == {"validation": PREDICTED, "train": train, "all": len(TEXT) - 1}


def test_another_text_is_measured(trained, here, capsys):
    (here / "other.txt").write_text("fox dog " * 9)
    values = result(capsys, "evaluate", trained, "--data", "other.txt", "--split", "all")
    assert values["text"] == "other"
    assert values["characters"] == 71
    assert values["perplexity"] == pytest.approx(2 ** values["bits_per_character"])


def test_values_for_a_reader_are_those_of_the_json(trained, capsys):
    values = result(capsys, "evaluate", trained)
    assert cli.run(["evaluate", str(trained)]) == 0
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert [name.replace(" ", "_") for name in rows] == list(values)
    assert rows["nats per character"].strip() == f"{values['nats_per_character']:.4f}"


def test_a_text_is_described(here, capsys):
    values = result(capsys, "data", "text.txt")
    assert values["characters"] == len(TEXT)
    assert values["training"] + values["validation"] == len(TEXT)
    assert values["vocabulary"] == "".join(sorted(set(TEXT)))
    assert values["vocabulary_size"] == len(set(TEXT))
    assert values["lines"] == TEXT.count("\n")
    assert cli.run(["data", "text.txt"]) == 0
    assert f"characters       {len(TEXT):,}" in capsys.readouterr().out


def test_documentation_of_python_is_a_text(capsys):
    values = result(capsys, "data", "pydoc")
    assert values["name"] == "pydoc"
    assert values["characters"] > 400_000


def test_without_network_the_default_falls_back_and_says_so(offline, here, capsys):
    assert cli.run(["data"]) == 0
    out = capsys.readouterr().out
    assert "tiny Shakespeare could not be downloaded: no connection to https://" in out
    assert "Using the text of Python's documentation instead" in out
    assert "TINYGRAD_CHAR_DATA" in out
    assert "name             pydoc" in out


def test_a_run_that_fell_back_is_continued_on_the_same_text(offline, here, capsys):
    options = [*TINY, "--steps", "1", "--model", "bigram"]
    made = result(capsys, "train", *options)
    assert made["folder"] == "runs/bigram-pydoc"
    assert cli.run(["train", "--resume", made["folder"], "--steps", "2"]) == 0
    assert "downloaded" not in capsys.readouterr().out


def test_without_network_shakespeare_by_name_is_an_error(offline, here, capsys):
    assert cli.run(["train", "--data", "shakespeare"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: tiny Shakespeare could not be downloaded")
    assert "--data pydoc" in error
    assert not (here / "runs").exists()


@pytest.mark.parametrize("reader", ["tinygrad-char", "python -m tinygrad_char.models"])
def test_both_names_of_the_program_do_the_same(reader, trained, tmp_path):
    script = shutil.which("tinygrad-char", path=sysconfig.get_path("scripts"))
    if reader == "tinygrad-char" and script is None:
        pytest.skip("the package is not installed, so there is no script")
    program = (
        [script] if reader == "tinygrad-char" else [sys.executable, "-m", "tinygrad_char.models"]
    )
    for arguments, code in (
        (["data", str(trained.parent / "text.txt"), "--json"], 0),
        (["evaluate", str(trained), "--json"], 0),
        (["evaluate"], 2),
        (["generate", str(trained / "config.json")], 1),
    ):
        done = subprocess.run(
            [*program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        assert bool(done.stdout) == (code == 0)
    assert list(tmp_path.iterdir()) == []


def test_the_module_is_a_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["models", "--help"])
    monkeypatch.delitem(sys.modules, "tinygrad_char.models.__main__", raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module("tinygrad_char.models", run_name="__main__")
    assert end.value.code == 0
    assert "usage: tinygrad-char" in capsys.readouterr().out


def closed_pipe():
    """Return the end for writing of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["data", "pydoc"],
        ["doctor"],
        ["evaluate", "RUN"],
        ["generate", "RUN", "--length", "10"],
        ["generate", "RUN", "--json"],
    ],
    ids=" ".join,
)
def test_a_reader_that_has_gone_is_no_error(arguments, trained, tmp_path):
    pipe = closed_pipe()
    arguments = [str(trained) if each == "RUN" else each for each in arguments]
    process = start(*arguments, cwd=tmp_path, stdout=pipe)
    os.close(pipe)
    assert finish(process) == (0, None, "")


def test_training_whose_reader_has_gone_stops_and_saves(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    process = start(
        "train", "--data", "text.txt", "--out", "run", *TINY, "--steps", "100000", cwd=tmp_path
    )
    assert process.stdout.readline().startswith("model ")
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == ""
    process.stderr.close()
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").config.steps == 100000


def read_terminal(descriptor):
    """Return all that was written to a terminal, once the last process on it has ended."""
    pieces = []
    with contextlib.suppress(OSError):  # how Linux reports that end
        while piece := os.read(descriptor, 65536):
            pieces.append(piece)
    os.close(descriptor)
    return b"".join(pieces).decode()


@pytest.mark.parametrize("interrupted", [False, True])
def test_progress_is_shown_on_a_terminal_and_wiped_out_at_the_end(interrupted, tmp_path):
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
    (tmp_path / "text.txt").write_text(TEXT)
    here, there = pty.openpty()
    steps = "1000000" if interrupted else "30"
    process = start(
        *("train", "--data", "text.txt", *TINY, "--steps", steps, "--eval-every", "10"),
        cwd=tmp_path,
        stdout=there,
        env={"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(there)
    seen = ""
    if interrupted:
        while "loss" not in seen:
            seen += os.read(here, 65536).decode()
        process.send_signal(signal.SIGINT)
    seen += read_terminal(here)
    assert finish(process) == (130 if interrupted else 0, None, "")
    for part in ("training", "loss", "chars/s", "left", f"/{steps}", "step      0  train "):
        assert part in seen
    assert ("stopping (Ctrl-C again: without saving)" in seen) == interrupted
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h")
    after = seen[seen.rindex("\x1b[?25h") :]
    assert "\u2501" not in after  # of the bar
    assert "chars/s" not in after


def test_errors_reach_the_exit_code_where_nobody_reads_them(tmp_path):
    pipe = closed_pipe()
    process = start("generate", "missing", cwd=tmp_path, stderr=pipe)
    os.close(pipe)
    assert finish(process)[0] == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("command", ["data", "train"])
def test_an_output_that_is_full_is_said(command, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = {
        "data": ["data", "text.txt"],
        "train": ["train", "--data", "text.txt", "--out", "run", *TINY],
    }[command]
    with Path("/dev/full").open("w") as full:
        code, _, error = finish(start(*arguments, cwd=tmp_path, stdout=full))
    assert (code, error) == (1, "error: cannot write the output: No space left on device\n")


@pytest.mark.skipif(os.name != "posix", reason="closing streams before the start is for shells")
def test_closed_streams_are_no_error(trained, tmp_path):
    command = f"exec {sys.executable} -m tinygrad_char.models evaluate {trained} >&- 2>&-"
    assert subprocess.run(command, shell=True, cwd=tmp_path, check=False).returncode == 0


def test_text_that_a_stream_cannot_encode_is_escaped(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT + "f\xfcchse", encoding="utf-8")
    process = start(
        *("data", "text.txt", "--json"), cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"}
    )
    assert finish(process)[0] == 0
    process = start("data", "text.txt", cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"})
    code, out, error = finish(process)
    assert (code, error) == (0, "")
    assert "z\\xfc'" in out
    for name, shown in (("fox\xfc", "'fox\\xfc'"), ("fox\udcff", "'fox\\udcff'")):
        process = start("data", name, cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"})
        code, out, error = finish(process)
        assert (code, out) == (2, "")
        assert f"there is no file {shown}" in error


@pytest.mark.parametrize(
    ("command", "unused"),
    [
        ("--help", ["matplotlib", "pooch", "threadpoolctl", "rich.progress"]),
        ("train --help", ["matplotlib", "pooch", "threadpoolctl", "rich.progress"]),
        ("doctor", ["matplotlib", "pooch", "rich.progress"]),
        ("data", ["matplotlib", "pooch", "rich.progress"]),
    ],
)
def test_nothing_is_imported_that_is_not_needed(command, unused, tmp_path):
    unused = [*unused, "cupy", "torch", "requests"]
    program = (
        f"import sys; from tinygrad_char.models import cli; code = cli.run({command.split()}); "
        f"print('imported:', *[name for name in {unused} if name in sys.modules]); sys.exit(code)"
    )
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    program = (
        f"import tinygrad_char.models.corpus as c; c.SHAKESPEARE_SHA256 = {digest!r}; " + program
    )
    (tmp_path / "tinyshakespeare.txt").write_text(TEXT)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TINYGRAD_CHAR_DATA": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "imported:"


@pytest.mark.parametrize("content", ["ab", "ab\n", "\n\nab", "a\r\nb\rc\x0bd\u2028e"])
def test_lines_are_counted_as_wc_does(content, here, capsys):
    (here / "text.txt").write_text(content, encoding="utf-8", newline="")
    assert result(capsys, "data", "text.txt")["lines"] == content.count("\n")


@pytest.mark.parametrize("shell", cli.SHELLS)
@pytest.mark.parametrize("flag", ["--tyro-print-completion", "--tyro_print_completion"])
def test_a_completion_is_printed(shell, flag, capsys):
    assert cli.run([flag, shell]) == 0
    out, error = capsys.readouterr()
    assert "generate" in out
    assert error == ""


def test_a_completion_for_another_shell_is_refused(capsys):
    for shell in ("tcsh", "nosuch"):
        assert cli.run(["--tyro-print-completion", shell]) == 2
        assert f"no completion for {shell!r}; expected one of bash, zsh" in capsys.readouterr().err


def test_a_preset_is_not_taken_for_a_resumed_run(trained, capsys):
    for options in (["--preset", "small"], ["--preset=tiny"]):
        assert cli.run(["train", "--resume", str(trained), *options]) == 2
        assert "--preset and --resume exclude each other" in capsys.readouterr().err


def finished(here, name, step, when):
    """Make a run folder whose last checkpoint, with untrained weights, tells this step."""
    assert train(here / "runs" / name, "--steps", "1") == 0
    last = here / "runs" / name / "last.safetensors"
    tensors, metadata = checkpoint.load(last)
    checkpoint.save(last, tensors, {**metadata, "step": step, "evaluated": False})
    (last.parent / "best.safetensors").unlink()
    os.utime(last, (when, when))


def test_the_latest_run_that_has_made_a_step_is_taken_and_named(here, capsys):
    (here / "runs").mkdir()
    finished(here, "old", 7, 1000)
    finished(here, "middle", 8, 2000)
    finished(here, "new", 0, 3000)
    capsys.readouterr()
    for command in (["generate", "--length", "5"], ["evaluate"]):
        assert cli.run(command) == 0
        said = capsys.readouterr().err
        assert said.splitlines()[0].startswith("using 'runs/middle/last.safetensors', step 8")
        assert "untrained" not in said


def test_untrained_weights_are_said_to_be(here, capsys):
    (here / "runs").mkdir()
    finished(here, "new", 0, 3000)
    capsys.readouterr()
    for command in (["generate", "--length", "5"], ["generate", "runs/new", "--length", "5"]):
        assert cli.run(command) == 0
        out, said = capsys.readouterr()
        assert len(out) == 6
        assert "the model in 'runs/new/last.safetensors' is untrained (step 0)" in said
        assert "tinygrad-char train --resume runs/new" in said
        assert said.startswith("using") == (len(command) == 3)


def test_where_only_the_best_weights_are_untrained_the_last_ones_are_named(here, capsys):
    assert train(here / "run", "--lr", "100", "--warmup", "0", "--clip", "0") == 0
    capsys.readouterr()
    assert cli.run(["generate", "run", "--length", "5"]) == 0
    assert "its last one has made 4 steps: --checkpoint last" in capsys.readouterr().err
    assert cli.run(["generate", "run", "--length", "5", "--checkpoint", "last"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["train", "generate", "evaluate", "data"])
def test_advice_without_memory_is_about_the_command(command, trained, here, monkeypatch, capsys):
    def exhaust(*arguments, **options):
        raise MemoryError("no room")

    monkeypatch.setattr(cli, "load_corpus", exhaust)
    monkeypatch.setattr(cli, "load_checkpoint", exhaust)
    arguments = {"generate": [str(trained)], "evaluate": [str(trained)]}.get(command, [])
    assert cli.run([command, *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory (no room); ")
    assert ("--batch-size" in said) == (command == "train")


@pytest.mark.parametrize("columns", ["1", "5"])
def test_help_is_laid_out_in_a_terminal_of_any_width(columns):
    done = subprocess.run(
        [sys.executable, "-m", "tinygrad_char.models", "train", "--help"],
        env={**os.environ, "COLUMNS": columns},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,  # a hang, not a measurement
    )
    assert "--steps" in done.stdout
