import fcntl
import itertools
import json
import os
import pty
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import TEXT, TINY, finish, metrics, popen, start, train

from tinygrad_char import checkpoint
from tinygrad_char.models import cli, plot
from tinygrad_char.models import train as train_module
from tinygrad_char.models.build import load_checkpoint
from tinygrad_char.models.console import PlainConsole
from tinygrad_char.models.display import Display
from tinygrad_char.models.run_folder import RunFolder
from tinygrad_char.models.trainer import Trainer

STEPS = 40
LONG = [*TINY, "--steps", str(STEPS), "--dropout", "0.2", "--accumulate", "2"]
LONG += ["--eval-every", "1", "--sample-every", "10"]

OTHER_RECIPE = [*LONG, "--optimizer", "muon", "--ema", "0.9", "--schedule", "wsd-sqrt"]

STOPPING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]

AT_IMPORT = """
import importlib.abc, os, signal, sys

class Interrupter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), getattr(signal, number))

module, number = sys.argv.pop(1), sys.argv.pop(1)
sys.meta_path.insert(0, Interrupter())
from tinygrad_char.models.__main__ import main
main()
"""
"""A command that gets a signal when it imports a module."""

AT_CALL = """
import os, signal, sys
from pathlib import Path

name, count = sys.argv.pop(1), int(sys.argv.pop(1))
owner = {"fsync": os, "replace": Path}[name]
original = getattr(owner, name)

def counted(*arguments):
    global count
    count -= 1
    if not count:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)

setattr(owner, name, counted)
from tinygrad_char.models.__main__ import main
main()
"""
"""A command that is killed just before its n-th call of os.fsync or of Path.replace."""

THREE_TIMES = """
import signal, sys
from tinygrad_char.models.trainer import Trainer

def update(trainer):
    signal.raise_signal(signal.SIGINT)
    try:
        signal.raise_signal(signal.SIGINT)
    except SystemExit:  # as it is lost in a finalizer
        print("second", flush=True)
    signal.raise_signal(signal.SIGINT)
    raise AssertionError("nothing answers the third one")

Trainer.update = update
from tinygrad_char.models.__main__ import main
main()
"""
"""A command that gets three signals in one step."""

AT_EXIT = """
import atexit, os, signal, sys, threading, time

def interrupt():
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)

moment = sys.argv.pop(1)
if moment == "atexit":
    atexit.register(interrupt)
else:
    threading.Thread(target=lambda: (threading.main_thread().join(), interrupt())).start()
from tinygrad_char.models.__main__ import main
main()
"""
"""A command that gets signals when its work is done, from inside or while it waits for a thread."""

TWICE = """
import os, signal, sys
import tinygrad_char.models.generate

def generate(*arguments, **options):
    try:
        yield [0]
        os.kill(os.getpid(), signal.SIGINT)
        yield [0]
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("nothing answers the second one")

tinygrad_char.models.generate.generate = generate
from tinygrad_char.models.__main__ import main
main()
"""
"""A command that gets a second signal while it answers the first one."""

HOLDER = """
import sys
from tinygrad_char.models.run_folder import RunFolder

with RunFolder.open(sys.argv[1]).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def known_handlers():
    """Let a signal that the program does not answer fail one test, not end them all."""

    def unanswered(number, frame):
        raise AssertionError(f"nothing answers {signal.Signals(number).name}")

    handlers = dict.fromkeys(STOPPING, unanswered)
    handlers[signal.SIGINT] = signal.default_int_handler
    before = {number: signal.signal(number, each) for number, each in handlers.items()}
    yield
    for number, each in before.items():
        signal.signal(number, each)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Return the folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert train(folder, *LONG) == 0
    return folder


@pytest.fixture
def limit_file_size():
    """Return a function that limits the size of the files that this process may write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size=before[0]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    limit()


@pytest.fixture
def small_disk(mounted):
    """Return a folder on a filesystem of 256 KiB."""
    return mounted("size=256k")


def launch(program, *arguments, cwd):
    """Run a program that runs the command, with a signal on the way; return code and outputs."""
    return finish(
        popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )


def signal_at(monkeypatch, owner, name, number=signal.SIGINT, after=0):
    """Send a signal to this process at a call of a function, or `after` calls later."""
    original = getattr(owner, name)
    calls = itertools.count()

    def interrupted(*arguments, **options):
        if next(calls) == after:
            signal.raise_signal(number)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, interrupted)


def resume(folder, *options):
    return cli.run(["train", "--resume", str(folder), *options])


def assert_same_run(folder, reference):
    """Assert equal metrics, and equal weights, optimizer, random state and best loss."""
    assert metrics(folder) == metrics(reference)
    for name in ("last.safetensors", "best.safetensors"):
        tensors, metadata = checkpoint.load(folder / name)
        expected, expected_metadata = checkpoint.load(reference / name)
        for each in (metadata, expected_metadata):
            del each["data"]["argument"], each["data"]["inode"]
        assert metadata == expected_metadata
        assert tensors.keys() == expected.keys()
        for key, array in tensors.items():
            np.testing.assert_array_equal(array, expected[key], err_msg=key, strict=True)


def names(folder):
    return {entry.name for entry in folder.iterdir()}


def test_the_state_that_is_compared_is_the_whole_state(reference):
    tensors, metadata = checkpoint.load(reference / "last.safetensors")
    prefixes = {name.split(".")[0] for name in tensors}
    assert prefixes == {"model", "optimizer", "training"}
    assert {"random", "step", "best_loss", "best_step", "metrics", "config"} <= metadata.keys()
    assert metadata["step"] == STEPS
    assert metadata["metrics"] == len(metrics(reference))


def test_kills_during_saves_change_nothing(here, reference):
    draw = random.Random(1)
    arguments = ["train", "--data", "text.txt", "--out", "run", *LONG]
    for name in ("fsync", "replace") * 4:
        code, _, error = launch(AT_CALL, name, draw.randrange(2, 30), *arguments, cwd=here)
        assert (code, error) == (-signal.SIGKILL, "")
        load_checkpoint(here / "run" / "last.safetensors")
        arguments = ["train", "--resume", "run"]
    assert resume("run") == 0
    assert_same_run(here / "run", reference)
    assert not [name for name in names(here / "run") if name.endswith(".tmp")]


def test_kills_at_any_moment_change_nothing(here, reference):
    draw = random.Random(2)
    arguments = ["train", "--data", "text.txt", "--out", "run", *LONG]
    for _ in range(6):
        process = start(*arguments, cwd=here)
        while (line := process.stdout.readline()) and not line.startswith("step "):
            assert process.poll() is None
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        process.communicate()
        load_checkpoint(here / "run" / "last.safetensors")
        arguments = ["train", "--resume", "run"]
    assert resume("run") == 0
    assert_same_run(here / "run", reference)


def test_kills_change_nothing_in_a_run_of_muon_with_a_mean_of_weights(here, tmp_path_factory):
    undisturbed = tmp_path_factory.mktemp("muon") / "run"
    assert train(undisturbed, *OTHER_RECIPE) == 0
    tensors, _ = checkpoint.load(undisturbed / "last.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"model", "optimizer", "training"}
    draw = random.Random(3)
    arguments = ["train", "--data", "text.txt", "--out", "run", *OTHER_RECIPE]
    for name in ("fsync", "replace") * 2:
        code, _, error = launch(AT_CALL, name, draw.randrange(2, 30), *arguments, cwd=here)
        assert (code, error) == (-signal.SIGKILL, "")
        arguments = ["train", "--resume", "run"]
    assert resume("run") == 0
    assert_same_run(here / "run", undisturbed)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_kill_in_the_first_saves_does_not_block_the_next_try(count, here):
    arguments = ["train", "--data", "text.txt", "--out", "run", *TINY]
    code, _, _ = launch(AT_CALL, "replace", count, *arguments, cwd=here)
    assert code == -signal.SIGKILL
    if (here / "run" / "last.safetensors").exists():
        assert resume("run") == 0
    else:
        assert cli.run(arguments) == 0
    assert metrics(here / "run")[-1]["step"] == 4


@pytest.mark.parametrize("number", STOPPING)
def test_signals_save_and_change_nothing(number, here, reference, monkeypatch, capsys):
    draw = random.Random(int(number))
    arguments = ["train", "--data", "text.txt", "--out", "run", *LONG]
    for _ in range(6):
        with monkeypatch.context() as patch:
            signal_at(patch, Trainer, "update", number, draw.randrange(6))
            assert cli.run(arguments) == 128 + number
        out, error = capsys.readouterr()
        step = load_checkpoint(here / "run" / "last.safetensors").metadata["step"]
        assert error == ""
        assert f"stopped at step {step}, everything is saved; continue with" in out
        assert "loss.png are in 'run'\n\nWrite with it:  tinygrad-char generate run --prompt" in out
        assert (here / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
        (here / "run" / "loss.png").unlink()
        for what, key in (("training", "loss"), ("validation", "validation_loss")):
            logged = [each for each in metrics(here / "run") if key in each]
            if logged:
                last = f"{what} loss {logged[-1][key]:.4f} nats per character at step "
                assert last + f"{logged[-1]['step']}\n" in out
        assert out.endswith("\n  tinygrad-char train --resume run\n")
        arguments = ["train", "--resume", "run"]
    assert resume("run") == 0
    assert_same_run(here / "run", reference)


MOMENTS = {
    "before the first checkpoint": (checkpoint, "save", 0),
    "in the first evaluation": (Trainer, "evaluate", 0),
    "between the two parts of an evaluation": (train_module.Trainer, "note_evaluation", 1),
    "in a save": (checkpoint, "save", 4),
    "in a sample": (train_module, "sample_text", 0),
    "in a step": (Trainer, "_backward", 3),
    "in the final evaluation": (train_module, "whole_split_loss", 0),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_at_each_stage_of_a_run(number, moment, here, reference, monkeypatch, capsys):
    owner, name, after = MOMENTS[moment]
    handlers = [signal.getsignal(each) for each in STOPPING]
    with monkeypatch.context() as patch:
        signal_at(patch, owner, name, number, after)
        code = cli.run(["train", "--data", "text.txt", "--out", "run", *LONG])
    assert code == 128 + number
    assert "continue with\n  tinygrad-char train --resume run\n" in capsys.readouterr().out
    assert [signal.getsignal(each) for each in STOPPING] == handlers
    assert resume("run") == 0
    assert_same_run(here / "run", reference)


def test_a_signal_when_all_is_done_but_the_picture_lets_it_end(here, monkeypatch, capsys):
    signal_at(monkeypatch, train_module, "plot_losses")
    assert cli.run(["train", "--data", "text.txt", "--out", "run", *TINY]) == 0
    assert "Write with it" in capsys.readouterr().out
    assert (here / "run" / "loss.png").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(number, here, reference, monkeypatch):
    with monkeypatch.context() as patch:
        signal_at(patch, Trainer, "update", number, 5)
        signal_at(patch, Trainer, "_backward", number, 5)
        assert cli.run(["train", "--data", "text.txt", "--out", "run", *LONG]) == 128 + number
    assert load_checkpoint(here / "run" / "last.safetensors").metadata["step"] == 5
    assert resume("run") == 0
    assert_same_run(here / "run", reference)


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGHUP, signal.SIGHUP),  # of a terminal and of its shell
        (signal.SIGUSR1, signal.SIGTERM),  # of a scheduler, some time later
        (signal.SIGINT, signal.SIGHUP),
        (signal.SIGHUP, signal.SIGINT),
    ],
)
def test_a_second_signal_that_is_not_meant_to_hurry_does_not(numbers, here, monkeypatch):
    with monkeypatch.context() as patch:
        signal_at(patch, Trainer, "update", numbers[0], 5)
        signal_at(patch, Trainer, "_backward", numbers[1], 5)
        assert cli.run(["train", "--data", "text.txt", "--out", "run", *LONG]) == 128 + numbers[0]
    assert load_checkpoint(here / "run" / "last.safetensors").metadata["step"] == 6


def test_a_third_signal_ends_the_process_whatever_it_does(here):
    arguments = ["train", "--data", "text.txt", "--out", "run", *TINY]
    code, out, error = launch(THREE_TIMES, *arguments, cwd=here)
    assert (code, error) == (130, "")
    assert out.endswith("second\n")
    assert resume("run") == 0


def test_a_process_that_is_ended_gives_the_terminal_its_cursor_back():
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:  # noqa: PTH123
        display = Display(PlainConsole(file=terminal), 4, 0, 1)
        assert display.console.is_terminal
        display.leaving()
        assert b"\x1b[?25h" in os.read(ours, 100)
    os.close(ours)
    with open(os.devnull, "w") as nothing:  # noqa: PTH123
        Display(PlainConsole(file=nothing), 4, 0, 1).leaving()


@pytest.mark.parametrize("moment", ["atexit", "thread"])
@pytest.mark.parametrize("command", ["doctor", "train"])
def test_signals_when_the_work_is_done_show_no_trace(command, moment, here):
    arguments = ["--data", "text.txt", "--out", "run", *TINY] if command == "train" else []
    code, out, error = launch(AT_EXIT, moment, command, *arguments, cwd=here)
    assert (code, error) == (130, "")
    assert out


def test_a_second_interrupt_of_another_command(here, reference):
    code, _, error = launch(TWICE, "generate", reference, cwd=here)
    assert (code, error) == (130, "")


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(number, here):
    def ignore():
        signal.signal(number, signal.SIG_IGN)

    command = [
        sys.executable,
        "-m",
        "tinygrad_char.models",
        "train",
        "--data",
        "text.txt",
        "--out",
        "run",
    ]
    process = subprocess.Popen(
        [*command, *TINY, "--steps", "300"],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=ignore,
    )
    assert process.stdout.readline().startswith("model ")
    for _ in range(3):
        process.send_signal(number)
        time.sleep(0.02)
    code, _, error = finish(process)
    assert (code, error) == (0, "")
    assert load_checkpoint(here / "run" / "last.safetensors").metadata["step"] == 300


def test_a_process_that_was_forked_in_training_ends_at_its_first_signal(here):
    program = (
        "import multiprocessing, signal, time\n"
        "from tinygrad_char.models.signals import stop_on_signals\n"
        "with stop_on_signals(lambda: print('noted')) as stop:\n"
        "    ours, theirs = multiprocessing.Pipe()\n"
        "    def work():\n"
        "        theirs.send('runs')\n"  # Python forgets a signal that comes before
        "        time.sleep(600)\n"
        "    child = multiprocessing.get_context('fork').Process(target=work)\n"
        "    child.start()\n"
        "    assert ours.recv() == 'runs'\n"
        "    child.terminate()\n"
        "    child.join()\n"
        "    assert (child.exitcode, stop()) == (-signal.SIGTERM, False)\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    assert stop.exit_code == 143\n"
    )
    assert launch(program, cwd=here) == (0, "noted\n", "")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_terminal_that_closes_leaves_a_saved_run(options, here):
    ours, theirs = pty.openpty()

    def take_the_terminal():
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    slowly = (
        "import time\n"
        "from tinygrad_char.models.trainer import Trainer\n"
        "update = Trainer.update\n"
        "def slow_update(trainer):\n"
        "    time.sleep(0.3)\n"  # so that the progress bar finds the terminal closed
        "    return update(trainer)\n"
        "Trainer.update = slow_update\n"
        "from tinygrad_char.models.__main__ import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", slowly, "train", "--data", "text.txt", "--out", "run"]
    with (here / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [*command, *LONG, "--steps", "1000000", *options],
            cwd=here,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs if options else errors,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm"},
            preexec_fn=take_the_terminal,
        )
        os.close(theirs)
        seen = b""
        while b"step" not in seen:
            seen += os.read(ours, 1 << 16)
        os.close(ours)
        assert process.wait() == 129
    assert (here / "errors").read_text() == ""
    step = load_checkpoint(here / "run" / "last.safetensors").metadata["step"]
    assert resume("run", "--steps", str(step + 2)) == 0


def test_training_outside_the_main_thread_answers_no_signals(here):
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(cli.run, ["train", "--data", "text.txt", "--out", "run", *TINY])
        assert done.result() == 0


def test_the_result_as_json_tells_of_the_signal(here, monkeypatch, capsys):
    signal_at(monkeypatch, Trainer, "update", signal.SIGTERM, 2)
    assert cli.run(["train", "--data", "text.txt", "--out", "run", *TINY, "--json"]) == 143
    out, error = capsys.readouterr()
    values = json.loads(out)
    assert (values["exit_code"], values["steps"], values["validation_loss"]) == (143, 3, None)
    assert values["training_loss"] == metrics(here / "run")[-1]["loss"]
    assert "continue with" in error


@pytest.mark.parametrize(
    "module",
    ["tinygrad_char.models.cli", "numpy", "tyro", "tinygrad_char.models.train", "rich.live"],
)
def test_an_interrupt_during_imports(module, here):
    arguments = ["train", "--data", "text.txt", "--out", "run", *TINY]
    code, out, error = launch(AT_IMPORT, module, "SIGINT", *arguments, cwd=here)
    assert (code, out, error) == (130, "", "\ninterrupted\n")
    assert names(here) == {"text.txt"}
    for name in ("SIGTERM", "SIGHUP"):
        code, out, error = launch(AT_IMPORT, module, name, *arguments, cwd=here)
        assert (code, out, error) == (-getattr(signal, name), "", "")
    assert names(here) == {"text.txt"}


def test_an_interrupt_before_training_leaves_no_folder(here, monkeypatch):
    signal_at(monkeypatch, train_module.CharTokenizer, "encode")
    with pytest.raises(KeyboardInterrupt):
        cli.run(["train", "--data", "text.txt", "--out", "run", *TINY])
    assert names(here) == {"text.txt"}


@pytest.mark.parametrize("number", STOPPING)
def test_signals_at_any_moment_of_a_process(number, here):
    draw = random.Random(3)
    (here / "text.txt").write_text(TEXT)
    command = ["train", "--data", "text.txt", "--out", "run", *TINY, "--steps", "1000000"]
    for _ in range(3):
        process = start(*command, cwd=here)
        assert process.stdout.readline().startswith("model ")
        time.sleep(draw.uniform(0, 0.5))
        process.send_signal(number)
        code, out, error = finish(process)
        assert (code, error) == (128 + number, "")
        assert out.endswith("continue with\n  tinygrad-char train --resume run\n")
        load_checkpoint(here / "run" / "last.safetensors")
        command = ["train", "--resume", "run"]


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_an_interrupt_of_the_other_commands(command, here, reference):
    module = {
        "generate": "tinygrad_char.models.generate",
        "evaluate": "tinygrad_char.models.evaluate",
    }[command]
    code, out, error = launch(AT_IMPORT, module, "SIGINT", command, reference, cwd=here)
    assert (code, out, error) == (130, "", "\ninterrupted\n")


def test_an_interrupt_while_text_is_written(here, reference):
    process = start("generate", reference, "--length", "1000000", cwd=here)
    assert process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    code, _, error = finish(process)
    assert (code, error) == (130, "\ninterrupted\n")


def test_a_full_disk_at_the_start_leaves_nothing(here, limit_file_size, capsys):
    for _ in range(2):
        limit_file_size(5000)
        code = cli.run(["train", "--data", "text.txt", "--out", "run", *TINY])
        limit_file_size()
        assert code == 1
        error = capsys.readouterr().err
        assert re.search(r"could not save 'run/last.safetensors' \([\d,]+ bytes needed", error)
        assert "File too large" in error
        assert "ulimit -f" in error
        assert names(here) == {"text.txt"}
    assert cli.run(["train", "--data", "text.txt", "--out", "run", *TINY]) == 0


def test_a_full_disk_later_keeps_the_former_checkpoint(
    here, reference, limit_file_size, monkeypatch, capsys
):
    save, calls = Trainer.save, itertools.count()

    def save_on_a_full_disk(trainer, path, **more):
        limit_file_size(5000 if next(calls) == 20 else resource.RLIM_INFINITY)
        save(trainer, path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", save_on_a_full_disk)
        code = cli.run(["train", "--data", "text.txt", "--out", "run", *LONG])
        limit_file_size()
    assert code == 1
    assert "The former file of that name is intact." in capsys.readouterr().err
    assert not [name for name in names(here / "run") if name.endswith(".tmp")]
    assert 0 < load_checkpoint(here / "run" / "last.safetensors").metadata["step"] < STEPS
    assert resume("run") == 0
    assert_same_run(here / "run", reference)


def test_a_full_filesystem_keeps_the_former_checkpoint(here, small_disk, reference, capsys):
    folder = small_disk / "run"
    text = ["--data", "text.txt", "--out", str(folder)]
    assert cli.run(["train", *text, *LONG, "--steps", "3"]) == 0
    before = (folder / "last.safetensors").read_bytes()
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        while shutil.disk_usage(small_disk).free > 8192:
            filler.write(bytes(4096))
    capsys.readouterr()
    assert resume(folder, "--steps", str(STEPS)) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "Free space there" in error
    assert (folder / "last.safetensors").read_bytes() == before
    (small_disk / "filler").unlink()
    assert resume(folder, "--steps", str(STEPS)) == 0
    assert load_checkpoint(folder / "last.safetensors").metadata["step"] == STEPS


def test_a_folder_that_cannot_be_written_to(here, small_disk, capsys):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for out in (small_disk, small_disk / "run"):
        assert cli.run(["train", "--data", "text.txt", "--out", str(out), *TINY]) == 1
        error = capsys.readouterr().err
        assert str(out) in error
        assert "Read-only file system. Choose a folder on a filesystem" in error


def test_a_run_on_a_read_only_disk_is_read_but_not_continued(small_disk, here, capsys):
    folder = small_disk / "run"
    assert cli.run(["train", "--data", "text.txt", "--out", str(folder), *TINY]) == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert cli.run(["generate", str(folder), "--length", "5"]) == 0
    assert cli.run(["evaluate", str(folder)]) == 0
    assert resume(folder) == 1
    assert "Read-only file system" in capsys.readouterr().err


def test_a_run_in_use_is_left_alone(here, capsys):
    assert cli.run(["train", "--data", "text.txt", "--out", "run", *TINY]) == 0
    before = {name: (here / "run" / name).read_bytes() for name in names(here / "run")}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, "run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "locked\n"
        capsys.readouterr()
        assert resume("run", "--steps", "8") == 1
        error = capsys.readouterr().err
        assert f"'run' is in use by process {holder.pid}. Wait until it ends" in error
        assert cli.run(["evaluate", "run"]) == 0
        holder.stdin.close()
        assert holder.wait() == 0
    assert {name: (here / "run" / name).read_bytes() for name in names(here / "run")} == before
    assert resume("run", "--steps", "8") == 0


def test_a_run_is_continued_from_what_it_is_when_its_folder_is_free(here, monkeypatch, capsys):
    assert cli.run(["train", "--data", "text.txt", "--out", "run", *TINY]) == 0
    lock = RunFolder.lock

    def lock_later(folder):
        monkeypatch.setattr(RunFolder, "lock", lock)
        assert resume("run", "--steps", "6") == 0  # as another process would, just before
        return lock(folder)

    monkeypatch.setattr(RunFolder, "lock", lock_later)
    assert resume("run", "--steps", "8") == 0
    made = re.findall(r"^(\d+) steps in ", capsys.readouterr().out, re.MULTILINE)
    assert made == ["4", "2", "2"]


@pytest.mark.parametrize("lr", ["1e12", "1e30"])
def test_a_loss_that_is_not_finite_ends_the_run(lr, here, capsys):
    options = [*TINY, "--lr", lr, "--warmup", "0", "--clip", "0", "--steps", "50"]
    assert cli.run(["train", "--data", "text.txt", "--out", "run", *options]) == 1
    error = capsys.readouterr().err
    assert re.match(r"error: the .*(loss|gradient) is (nan|inf) at step \d+: ", error)
    assert re.search(r"(forward|backward) of \w+ produced a value that is not finite", error)
    assert re.search(r"inputs: float32 \([\d, ]+\) from \S+ to \S+", error)
    assert "Try a lower --lr" in error
    assert "The checkpoints in 'run' are as they were" in error
    for name in ("last.safetensors", "best.safetensors"):
        tensors, _ = checkpoint.load(here / "run" / name)
        assert all(np.isfinite(array).all() for array in tensors.values())
    assert cli.run(["generate", "run", "--length", "5"]) == 0


def test_a_run_that_diverged_is_continued_with_other_settings(here):
    options = [*TINY, "--lr", "1e30", "--warmup", "0", "--clip", "0"]
    assert cli.run(["train", "--data", "text.txt", "--out", "run", *options]) == 1
    assert resume("run", "--lr", "0.001") == 0
    assert metrics(here / "run")[-1]["step"] == 4


def test_a_picture_that_cannot_be_written_leaves_a_finished_run(here, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise checkpoint.CheckpointError("could not save loss.png: no space")

    with monkeypatch.context() as patch:
        patch.setattr(plot, "write_atomically", fail)
        assert cli.run(["train", "--data", "text.txt", "--out", "run", *TINY]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert "\n'run/loss.png' was not drawn: could not save loss.png: no space\n" in out
    assert load_checkpoint(here / "run" / "last.safetensors").metadata["step"] == 4
    assert resume("run") == 0
    assert (here / "run" / "loss.png").exists()


def test_records_that_a_power_loss_took_are_missed_once_and_never_doubled(here, capsys):
    assert cli.run(["train", "--data", "text.txt", "--out", "run", *TINY]) == 0
    file = here / "run" / "metrics.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.index(b'{"step": 3')] + b'{"step": 3, "lo\0\0')
    capsys.readouterr()
    assert resume("run", "--steps", "6") == 0
    out = capsys.readouterr().out
    assert "4 of 7 records of the checkpoint are kept: 'run/metrics.jsonl' has no" in out
    assert [each["step"] for each in metrics(here / "run")] == [0, 1, 2, 2, 5, 6, 6]
    assert resume("run", "--steps", "7") == 0
    assert "are kept" not in capsys.readouterr().out
    assert [each["step"] for each in metrics(here / "run")] == [0, 1, 2, 2, 5, 6, 6, 7, 7]


def test_a_process_that_ended_without_its_last_word_does_not_keep_the_folder(here):
    assert cli.run(["train", "--data", "text.txt", "--out", "run", *TINY]) == 0
    (here / "run" / "run.pid").write_text(str(os.getppid()))
    assert resume("run", "--steps", "6") == 0
    assert "run.pid" not in names(Path("run"))
