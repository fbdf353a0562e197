import json
import os
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
import threadpoolctl

from tinygrad_char.kernels import backend
from tinygrad_char.models import cli, doctor

NAMES = [
    *("tinygrad_char", "python", "numpy", "cupy-cuda13x", "cupy-cuda12x", "torch"),
    *("processors", "matrix_products", "kernels", "bfloat16", "steps", "gpu", "corpus"),
]


@pytest.fixture
def examined(monkeypatch, tmp_path):
    """Return a function that examines this machine, without looking into the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TINYGRAD_CHAR_DATA", raising=False)
    return doctor.examine


def test_json_has_every_finding(examined, capsys):
    assert cli.run(["doctor", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert list(values) == NAMES
    assert values["numpy"] == np.__version__
    assert values["processors"] >= 1
    assert all(values[name] for name in NAMES)


def test_findings_are_one_a_line(examined, capsys):
    assert cli.run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [name.replace("_", " ") for name in NAMES]


def test_what_is_not_installed_is_said(examined, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert examined()["torch"] == "not installed"


def test_products_name_their_library_and_threads(examined, monkeypatch):
    blas = {
        "user_api": "blas",
        "internal_api": "openblas",
        "version": "0.3",
        "architecture": "Haswell",
        "num_threads": 1,
    }
    other = {"user_api": "openmp", "internal_api": "openmp", "num_threads": 7}
    monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: [other, blas])
    monkeypatch.setattr(doctor, "better_core_type", lambda: None)
    assert examined()["matrix_products"] == "openblas 0.3 for Haswell, 1 thread"
    monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: [{**blas, "num_threads": 2}])
    assert examined()["matrix_products"].endswith(", 2 threads")
    monkeypatch.setattr(threadpoolctl, "threadpool_info", list)
    assert "does not tell" in examined()["matrix_products"]


def test_a_missing_gpu_comes_with_its_reason(examined, monkeypatch):
    def refuse(device):
        raise backend.DeviceError("no driver here")

    monkeypatch.setattr(doctor, "get_backend", refuse)
    assert examined()["gpu"] == "no driver here"


def test_corpus_is_found_or_announced(examined, monkeypatch, tmp_path):
    assert "not downloaded yet" in examined()["corpus"]
    monkeypatch.setenv("TINYGRAD_CHAR_DATA", str(tmp_path))
    assert f"TINYGRAD_CHAR_DATA={str(tmp_path)!r} is not used" in examined()["corpus"]


@pytest.mark.parametrize(
    ("variables", "kernels", "steps"),
    [
        (
            {"TINYGRAD_CHAR_KERNELS": "layernorm=loops"},
            "loops, as TINYGRAD_CHAR_KERNELS asks: layernorm",
            "each on the tape: layernorm=loops is Python code, which nothing records",
        ),
        (
            {"TINYGRAD_CHAR_STEP": "tape"},
            "",
            "each on the tape: TINYGRAD_CHAR_STEP=tape in the environment",
        ),
        ({"TINYGRAD_CHAR_KERNELS": "attention=reference"}, "", "each on the tape: "),
        ({}, "", "recorded, and repeated without Python"),
    ],
)
@pytest.mark.skipif(backend.compiled is None, reason="the C extension is not built")
def test_which_versions_serve_and_how_steps_are_computed(variables, kernels, steps):
    done = subprocess.run(
        [sys.executable, "-m", "tinygrad_char.models", "doctor", "--json"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    values = json.loads(done.stdout)
    assert kernels in values["kernels"]
    assert values["steps"].startswith(steps)


def test_an_unknown_way_of_steps_is_wrong_usage(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tinygrad_char.models", "doctor"],
        env={**os.environ, "TINYGRAD_CHAR_STEP": "slow"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: TINYGRAD_CHAR_STEP='slow' in the environment; expected")
