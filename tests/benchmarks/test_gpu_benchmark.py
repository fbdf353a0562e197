"""The benchmark for machines with a GPU, tried out on the CPU runner."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu, gpu_checks
from kernels.backend import DeviceError, get_backend

ROOT = Path(__file__).resolve().parents[2]
BARE = """
import sys
for name in ("tyro", "rich", "safetensors", "threadpoolctl", "pooch", "matplotlib", "filelock"):
    sys.modules[name] = None
"""


@pytest.fixture
def on_cpu():
    try:
        return get_backend("cuda-on-cpu")
    except DeviceError as error:
        pytest.skip(str(error))


def run_bare(program):
    return subprocess.run(
        [sys.executable, "-c", BARE + program], capture_output=True, text=True, cwd=ROOT
    )


def test_without_a_gpu_it_ends_with_the_reason(monkeypatch, capsys):
    def refuse(device):
        raise DeviceError(f"no device {device} here")

    monkeypatch.setattr(gpu, "get_backend", refuse)
    assert gpu.main([]) == 1
    assert capsys.readouterr().err == "error: no device cuda here\n"


@pytest.mark.usefixtures("on_cpu")
def test_every_section_runs_with_few_packages(tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("".join(map(chr, range(32, 97))) * 20)
    sections = ("memory", "attention", "steps", "training")
    results = tmp_path / "gpu.json"
    program = f"""
from models.corpus import Corpus
from benchmarks import gpu
gpu.load_corpus = lambda *arguments: Corpus("x", "x", open({str(text)!r}).read(), "x")
arguments = ["--device", "cuda-on-cpu", "--quick", "--json", {str(results)!r}, "--sections"]
sys.exit(gpu.main([*arguments, *{sections!r}]))
"""
    done = run_bare(program)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(results.read_text())
    assert found["machine"]["numpy"] == np.__version__
    assert "none: CUDA kernels on the CPU" in found["machine"]["gpu"]
    rows = {name: section["rows"] for name, section in found["sections"].items()}
    assert tuple(rows) == sections
    assert {row["kernel"] for row in rows["memory"]} >= {"copy", "layernorm backward", "adamw"}
    assert rows["attention"][0]["shape"] == [1, 6, 16, 64]
    assert [row["precision"] for row in rows["steps"]] == ["float32", "tf32", "bf16"]
    assert all(row["graph_reason"] is None for row in rows["steps"])
    (trained,) = rows["training"]
    assert trained["validation_loss"] == pytest.approx(np.log(65), rel=0.05)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_the_side_of_pytorch_needs_no_more_packages():
    done = run_bare("import benchmarks.gpu_torch")
    assert done.returncode == 0, done.stderr


def test_the_checks_pass_and_are_of_every_kernel(on_cpu):
    names = set()
    for check in gpu_checks.checks(quick=True):
        for precision in check.precisions:
            outcome = gpu_checks.run(check, precision, on_cpu)
            assert outcome.passed, outcome
        names.add(check.name)
    served = {name for name, each in vars(on_cpu).items() if hasattr(each, "launcher")}
    assert served | {"linear", "matmul"} == names


@pytest.mark.parametrize("wrong", [lambda y: y * 1.001, lambda y: y * np.nan, lambda y: y + 1e-4])
def test_a_wrong_result_does_not_pass(on_cpu, wrong):
    def compute(ops, arrays):
        y = ops.softmax.forward(arrays.x)
        return [wrong(y) if ops is on_cpu else y]

    x = np.random.default_rng(0).standard_normal((5, 33), np.float32)
    check = gpu_checks.Check("softmax", "wrong", compute, {"x": x})
    outcome = gpu_checks.run(check, "float32", on_cpu)
    assert not outcome.passed
    assert outcome.error > 10 * outcome.allowed


def test_a_section_that_fails_is_told_and_the_others_go_on(on_cpu, monkeypatch, capsys, tmp_path):
    def break_down(*arguments):
        yield {"case": 1}
        raise ValueError("something broke")

    monkeypatch.setitem(gpu._SECTIONS, "memory", break_down)
    monkeypatch.setitem(gpu._SECTIONS, "checks", lambda *arguments: [{"passed": False}])
    monkeypatch.setitem(gpu._SECTIONS, "steps", lambda *arguments: [{"seconds": 1.0}])
    path = tmp_path / "x.json"
    arguments = ["--device", "cuda-on-cpu", "--json", str(path), "--sections"]
    assert gpu.main([*arguments, "memory", "checks", "steps"]) == 1
    shown = capsys.readouterr().out
    assert "failed: ValueError: something broke" in shown
    assert "failed: memory, checks" in shown
    sections = json.loads(path.read_text())["sections"]
    assert "something broke" in sections["memory"]["error"]
    assert sections["steps"]["rows"] == [{"seconds": 1.0}]
