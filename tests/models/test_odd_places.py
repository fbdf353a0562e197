"""No home directory, no working directory, no locks: one line that says so, and the right code."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import TEXT, TINY, finish, start, train

from tinygrad_char.models import cli
from tinygrad_char.models.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]

# As for a user that the system does not know, with nothing set.
STRANGER = """
import os, pwd, sys

def unknown(*arguments):
    raise KeyError(f"uid not found: {arguments}")

pwd.getpwuid = pwd.getpwnam = unknown
for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TINYGRAD_CHAR_DATA"):
    os.environ.pop(name, None)
from tinygrad_char.models import cli

sys.exit(cli.run(sys.argv[1:]))
"""


def as_a_stranger(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_without_a_home_the_default_text_is_replaced_and_nothing_is_left(tmp_path):
    code, out, error = as_a_stranger("data", cwd=tmp_path)
    assert (code, error) == (0, "")
    assert "there is no home directory to keep it in" in out.splitlines()[0]
    assert "name             pydoc" in out
    assert list(tmp_path.iterdir()) == []


def test_without_a_home_shakespeare_by_name_is_an_error(tmp_path):
    code, out, error = as_a_stranger("data", "shakespeare", cwd=tmp_path)
    assert (code, out) == (1, "")
    assert error.startswith("error: tiny Shakespeare could not be downloaded: there is no home")
    assert error.count("\n") == 1


def test_without_a_home_training_and_the_rest_work(trained, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    code, _, error = as_a_stranger("train", "--data", "text.txt", *TINY, cwd=tmp_path)
    assert (code, error) == (0, "")
    assert (tmp_path / "runs" / "small-text" / "loss.png").exists()
    for command in (["generate", trained, "--length", "5"], ["evaluate", trained], ["doctor"]):
        code, _out, error = as_a_stranger(*command, cwd=tmp_path)
        assert (code, error) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "text.txt"}


def test_without_a_home_compiled_kernels_are_not_kept(trained, tmp_path):
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("there is no C++ compiler here")
    command = ["generate", trained, "--length", "5", "--device", "cuda-on-cpu"]
    code, _out, error = as_a_stranger(*command, cwd=tmp_path)
    assert code == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "set XDG_CACHE_HOME" in error


IN_NOWHERE = """
import os, sys, tempfile
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)
from tinygrad_char.models import cli

sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such a folder cannot be deleted")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["data", "TEXT"], 0),
        (["data", "text.txt"], 2),
        (["data", "./"], 2),
        (["generate"], 2),
        (["generate", "RUN", "--length", "5"], 0),
        (["evaluate", "RUN"], 0),
        (["evaluate"], 2),
        (["train", "--data", "TEXT", *TINY], 1),
        (["train", "--data", "TEXT", "--out", "run", *TINY], 1),
        (["train", "--data", "TEXT", "--out", "OUT", *TINY], 0),
        (["train", "--resume", "run"], 2),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else str(value),
)
def test_a_deleted_working_directory_is_named_where_it_matters(arguments, code, trained, tmp_path):
    places = {"TEXT": trained.parent / "text.txt", "RUN": trained, "OUT": tmp_path / "out"}
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            IN_NOWHERE,
            *(str(places.get(each, each)) for each in arguments),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code:
        assert done.stderr.startswith("error: ")
        assert done.stderr.endswith("(the working directory is gone: go to another one)\n")
        assert done.stderr.count("\n") == 1
    else:
        assert done.stderr == ""


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL])
def test_a_file_system_without_locks_is_refused(number, tmp_path, monkeypatch, capsys):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert train(tmp_path / "run") == 1
    assert capsys.readouterr().err == (
        f"error: {str(tmp_path / 'run')!r} is on a file system without locks "
        f"({os.strerror(number)}), where two runs could write over each other. Train in a folder "
        "on another one with --out.\n"
    )


def test_a_trial_of_locks_leaves_nothing_and_disturbs_nobody(trained):
    before = sorted(trained.iterdir())
    folder = RunFolder(trained)
    with folder.lock():
        folder._check_locks()
    assert sorted(trained.iterdir()) == before


def test_a_run_folder_that_was_moved_is_used_where_it_is(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained.parent, tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "second")
    run = str(tmp_path / "second" / "run")
    text = str(tmp_path / "second" / "text.txt")
    assert cli.run(["generate", run, "--length", "5"]) == 0
    assert cli.run(["train", "--resume", run, "--data", text, "--steps", "6"]) == 0
    assert cli.run(["evaluate", run, "--data", text]) == 0


def test_a_run_folder_that_is_moved_while_it_trains_is_one_line(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    options = [*TINY, "--steps", "1000000", "--eval-every", "1000000"]
    process = start("train", "--data", "text.txt", "--out", "run", *options, cwd=tmp_path)
    assert process.stdout.readline().startswith("model ")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    code, _out, error = finish(process)
    assert code == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert (tmp_path / "elsewhere" / "last.safetensors").exists()


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "/dev/stdin"])
@pytest.mark.parametrize("command", ["data", "train", "evaluate"])
def test_what_is_no_file_is_refused_as_a_text_without_waiting(kind, command, trained, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    arguments = {
        "data": ["data", kind],
        "train": ["train", "--data", kind],
        "evaluate": ["evaluate", trained, "--data", kind],
    }[command]
    process = start(*arguments, cwd=tmp_path, stdin=subprocess.PIPE)
    out, error = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert error.startswith(f"error: {kind!r} cannot be read: not a regular file; ")
    assert error.count("\n") == 1
