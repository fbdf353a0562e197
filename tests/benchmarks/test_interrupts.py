"""Ctrl-C in commands other than `tinygrad-char`."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tinygrad_char.kernels.cpu import interrupts

COMMANDS = ["benchmarks.ops", "benchmarks.replay", "benchmarks.compare", "kernels.cuda.compile"]
AT_NUMPY = """
import os, runpy, signal, sys

class Sender:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), getattr(signal, number))

module, number = sys.argv.pop(1), sys.argv.pop(1)
sys.meta_path.insert(0, Sender())
sys.argv[0] = "-m"  # as it is under `python -m`
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""A command that gets a signal while NumPy is loaded."""


def end(process):
    """Return the exit code, and what was written, of a process in a session of its own."""
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error


def start(*command, cwd):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt_while_numpy_is_loaded(command, tmp_path):
    name = f"tinygrad_char.{command}"
    found = end(start("-c", AT_NUMPY, name, "SIGINT", cwd=tmp_path))
    assert found == (130, "", "\ninterrupted\n")
    found = end(start("-c", AT_NUMPY, name, "SIGTERM", cwd=tmp_path))
    assert found == (-signal.SIGTERM, "", "")


def test_an_interrupt_of_all_processes_of_a_comparison(tmp_path):
    """As a terminal sends it: no process of a checkout has anything to say."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))  # noqa: PTH120
    process = start("-m", "tinygrad_char.benchmarks.compare", root, "--tasks=tape", cwd=tmp_path)
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    assert end(process) == (130, "", "\ninterrupted\n")


def test_other_exceptions_are_shown_as_ever(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["-m", "x"])
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    interrupts.answer_interrupts()
    sys.excepthook(ValueError, ValueError("bad"), None)
    assert capsys.readouterr().err == "ValueError: bad\n"
    with pytest.raises(SystemExit) as ended:
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert ended.value.code == 130


@pytest.mark.parametrize("arguments", [[], ["program.py"], ["-c"], [""]])
def test_programs_that_import_the_packages_keep_their_hook(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", arguments)
    before = sys.excepthook
    interrupts.answer_interrupts()
    assert sys.excepthook is before
