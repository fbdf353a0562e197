import json
from importlib import metadata

import numpy as np
import pytest
import threadpoolctl

from tinygrad_char.kernels import backend
from tinygrad_char.models import cli, doctor

NAMES = [
    *("tinygrad_char", "python", "numpy", "cupy-cuda13x", "cupy-cuda12x", "torch"),
    *("processors", "matrix_products", "kernels", "steps", "gpu", "corpus"),
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
