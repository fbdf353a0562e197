"""A training step with each operation's version exchanged, and versions of one's own."""

import json
import math
import subprocess
import sys

import pytest

from tinygrad_char.kernels.backend import CPU
from tinygrad_char.kernels.operations import operations

MINE = """
import numpy as np
from tinygrad_char.kernels.layernorm import reference

class Right:
    def forward(self, x, weight, bias, eps=1e-5):
        mean = x.mean(-1, keepdims=True, dtype=np.float64)
        rstd = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)
        y = (x - mean) * rstd * (1 if weight is None else weight) + (0 if bias is None else bias)
        return tuple(each.astype(x.dtype) for each in (y, mean, rstd))

    def backward(self, *arguments):
        return reference.backward(*arguments)

class WrongForward(Right):
    def forward(self, x, weight, bias, eps=1e-5):
        return super().forward(x, None, bias, eps)

class WrongBackward(Right):
    def backward(self, *arguments):
        dx, dweight, dbias = super().backward(*arguments)
        return dx * np.float32(1.01), dweight, dbias

class Fails(Right):
    def forward(self, *arguments):
        raise KeyError("no such thing")

class Never:
    def forward(self, *arguments):
        return NotImplemented

class NotOne:
    pass

right = Right()
"""


def run(*arguments, cwd):
    (cwd / "mine.py").write_text(MINE)
    done = subprocess.run(
        [sys.executable, "-m", "tinygrad_char.benchmarks.versions", "--size", "smoke", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_each_operation_of_a_step_is_exchanged_in_turn(tmp_path):
    files = ("--json", "found.json", "--chart", "found.png")
    code, out, error = run(*files, "--with", "layernorm=mine:Right", cwd=tmp_path)
    assert (code, error) == (0, "")
    assert "mine:Right computes layernorm as the reference does" in out
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG\r\n")
    values = json.loads((tmp_path / "found.json").read_text(), parse_constant=pytest.fail)
    rows = {(row["size"], row["contender"]): row for row in values["results"]}
    assert values["agree"] is True
    assert {row["task"] for row in values["results"]} == {"step of smoke", "step of loops"}
    assert ("smoke", "layernorm: mine:Right") in rows
    for name in ("layernorm", "attention", "embedding", "cross_entropy"):
        assert ("loops", f"{name}: loops") in rows
        if CPU.version_of(name) == "c":
            assert ("smoke", f"{name}: reference") in rows
    for (_, contender), row in rows.items():
        assert row["seconds"] > 0
        assert math.log(30) < row["loss"] < math.log(130)  # of 65 characters, nothing learned yet
        if contender.startswith("as served"):
            assert row["share"] is row["share_as_served"] is None
        else:
            assert contender.partition(":")[0] in operations()
            assert 0 < row["share"] < 1
            assert 0 < row["share_as_served"] < 1
    slow = rows["loops", "attention: loops"]
    assert slow["share"] > slow["share_as_served"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("WrongForward", "differs from the reference by "),
        ("WrongBackward", "differs from the reference by 0.0"),
        ("Fails", "KeyError: 'no such thing'"),
        ("Never", "every call returned NotImplemented"),
    ],
)
def test_a_version_that_is_wrong_is_refused_with_the_difference(given, message, tmp_path):
    code, out, error = run("--with", f"layernorm=mine:{given}", cwd=tmp_path)
    assert (code, out) == (1, "")
    assert error.startswith(f"error: mine:{given} is not layernorm")
    assert message in error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("layernrm=mine:Right", "there is no operation 'layernrm'"),
        ("layernorm=mine:NotOne", "or an object with functions of its reference"),
        ("layernorm=mine:Nothing", "has no attribute 'Nothing'"),
        ("layernorm=nowhere:Right", "No module named 'nowhere'"),
        ("layernorm=mine", "expected OPERATION=MODULE:OBJECT"),
        ("layernorm", "expected OPERATION=MODULE:OBJECT"),
        ("matmul=mine:right", "a training step calls no matmul; expected one of "),
    ],
)
def test_what_is_no_version_is_wrong_usage(given, message, tmp_path):
    code, out, error = run("--with", given, cwd=tmp_path)
    assert (code, out) == (2, "")
    said = " ".join(error.replace("│", " ").split())
    assert message in said
