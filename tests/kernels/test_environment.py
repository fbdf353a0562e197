"""Variables of the environment: the values that they take, and what is said about others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_char.kernels.cuda_on_cpu.runner import CpuExecutor
from tinygrad_char.kernels.words import EnvironmentVariableError, choice

ROOT = Path(__file__).parents[2]


def start(*command, **variables):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("value", "expected"), [(None, "a"), ("", "a"), ("a", "a"), ("b", "b")])
def test_a_choice_is_the_value_or_the_default(monkeypatch, value, expected):
    if value is None:
        monkeypatch.delenv("CHOSEN", raising=False)
    else:
        monkeypatch.setenv("CHOSEN", value)
    assert choice("CHOSEN", ("a", "b"), "a") == expected


@pytest.mark.parametrize("value", ["c", "A", "a ", "a,b", "9" * 400, "\x1b[31m"])
def test_another_value_is_refused_in_one_line(monkeypatch, value):
    monkeypatch.setenv("CHOSEN", value)
    with pytest.raises(EnvironmentVariableError, match="expected one of a, b, or nothing") as error:
        choice("CHOSEN", ("a", "b"), "a")
    assert str(error.value).startswith("CHOSEN='")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("value", ["bogus", "Reference", "c", "add=loop", "sum=reference", "add="])
def test_unknown_kernels_are_an_error_where_they_are_first_used(value):
    program = "import tinygrad_char as t; t.ones(2) + t.ones(2)"
    code, _, error = start("-c", program, TINYGRAD_CHAR_KERNELS=value)
    assert code == 1
    last = error.splitlines()[-1]
    assert last.startswith(
        "tinygrad_char.kernels.words.EnvironmentVariableError: TINYGRAD_CHAR_KERNELS="
    )
    assert f"{value!r} in the environment; " in last
    assert "expected one of" in last


@pytest.mark.parametrize(
    ("variable", "arguments"),
    [
        ("TINYGRAD_CHAR_KERNELS", ["doctor"]),
        ("TINYGRAD_CHAR_KERNELS", ["train", "--steps", "1"]),
        ("TINYGRAD_CHAR_DEVICE", ["generate"]),
    ],
)
def test_at_the_command_line_it_is_wrong_usage(variable, arguments, tmp_path):
    code, out, error = start("-m", "tinygrad_char.models", *arguments, **{variable: "bogus"})
    assert (code, out) == (2, "")
    assert error.startswith(f"error: {variable}='bogus' in the environment; expected one of ")
    assert error.count("\n") == 1


def test_an_unknown_mode_of_the_runner_is_refused_where_it_is_used(monkeypatch):
    monkeypatch.setenv("TINYGRAD_CHAR_RUNNER", "slow")
    with pytest.raises(EnvironmentVariableError, match="expected one of fast, check, debug"):
        CpuExecutor()
    assert CpuExecutor("check").mode == "check"


@pytest.mark.parametrize("value", ["reference", "fused", ""])
def test_known_kernels_are_what_is_used(value):
    program = (
        "from tinygrad_char.kernels.cpu import extension as e; "
        "print(e.wanted is e.compiled is not None)"
    )
    code, out, error = start("-c", program, TINYGRAD_CHAR_KERNELS=value)
    assert (code, error) == (0, "")
    built = start(
        "-c", "from tinygrad_char.kernels.cpu.extension import compiled; print(bool(compiled))"
    )[1]
    assert out == ("False\n" if value == "reference" else built)
