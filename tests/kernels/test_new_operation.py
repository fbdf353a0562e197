"""An operation is added by the files of its own folder: it is found, served, tested and timed.

The folder is tests/kernels/toy, which is also the smallest example of one. It is put into a copy of
the checkout, in which nothing else changes.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_char.kernels.backend import DeviceError
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cuda.device_compiler import DeviceCompilerError, find_device_compiler
from tinygrad_char.kernels.devices import get_backend

ROOT = Path(__file__).resolve().parents[2]
TOY = Path(__file__).parent / "toy"
COPIED = ("tinygrad_char", "kernels", "models", "benchmarks", "setup.py", "pyproject.toml")
NEEDED = ("README.md", "LICENSE", "tests/kernels/conftest.py", "tests/kernels/closeness.py")


class Checkout:
    """A copy of this checkout with the toy in it, its extension built."""

    def __init__(self, folder):
        self.folder = folder
        for name in (*COPIED, *NEEDED):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.so")
                shutil.copytree(ROOT / name, target, ignore=ignored)
            else:
                shutil.copy(ROOT / name, target)
        shutil.copytree(
            TOY, folder / "kernels" / "toy", ignore=shutil.ignore_patterns("__pycache__", "test_*")
        )
        shutil.copy(TOY / "test_toy.py", folder / "tests" / "kernels")
        if compiled is not None:
            self.run("setup.py", "-q", "build_ext", "--inplace")

    def run(self, *arguments):
        """Run Python in the copy, and return what it printed."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, program):
        """Return what a program in the copy leaves in the variable `found`."""
        return json.loads(self.run("-c", f"{program}\nimport json\nprint(json.dumps(found))"))


SERVED = """
import numpy as np
from tinygrad_char.kernels import toy
from tinygrad_char.kernels.backend import CPU, asked_first
from tinygrad_char.kernels.operations import using
from tinygrad_char.models.doctor import examine

forward = CPU.kernels[toy.forward]
served = asked_first(forward).__module__
with using(toy="reference"):
    chosen = CPU.chosen().kernels[toy.forward].__module__
values = [forward(np.array([3], dtype)).tolist() for dtype in (np.float32, np.float64)]
found = [toy.__file__, served, chosen, values, examine()["kernels"]]
"""

ON_CUDA = """
import numpy as np
from tinygrad_char.benchmarks import gpu_checks, gpu_kernels
from tinygrad_char.kernels.backend import asked_first
from tinygrad_char.kernels import toy
from tinygrad_char.kernels.devices import get_backend
from tinygrad_char.kernels.operations import operations

backend = get_backend("cuda-on-cpu")
checks = [each for each in gpu_checks.checks(quick=True) if each.name == "toy"]
cases = {each.name: each for each in gpu_kernels.kernels(backend, quick=True)}
found = [
    type(asked_first(backend.kernels[toy.forward]).__self__).__name__,
    [gpu_checks.run(check, "float32", backend).passed for check in checks],
    [cases[f"toy{way} float32"].run()["bytes"] for way in ("", " backward")],
]
"""


def test_an_operation_is_added_by_its_own_folder_and_test(tmp_path):
    checkout = Checkout(tmp_path / "checkout")
    version = "reference" if compiled is None else "cpu"

    file, served, chosen, values, shown = checkout.ask(SERVED)
    assert Path(file).is_relative_to(checkout.folder)
    assert served == f"tinygrad_char.kernels.toy.{version}"
    assert chosen == "tinygrad_char.kernels.toy.reference"
    assert values == [[9.0], [9.0]]
    assert (" toy" in shown) == (compiled is not None)

    passed = checkout.run(
        "-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/kernels/test_toy.py"
    )
    for each in ("reference", "c"):
        assert passed.count(f"[{each}-") == 9, passed
    assert passed.count("PASSED") == (9 if compiled is None else 18), passed

    if compiled is not None:
        against = ("--against", "torch") if importlib.util.find_spec("torch") else ()
        timed = ("--only", "toy", "--size", "smoke", "--json", "found.json")
        checkout.run("-m", "tinygrad_char.benchmarks.ops", *timed, *against)
        rows = json.loads((checkout.folder / "found.json").read_text())["results"]
        sides = ["fused", "reference", *(["PyTorch"] if against else [])]
        assert {
            (row["task"], row["contender"]) for row in rows if row["contender"] != "machine"
        } == {(f"toy {way}", side) for way in ("forward", "backward") for side in sides}
        assert all(row["agrees"] and row["per_second"] > 0 for row in rows)

    try:
        get_backend("cuda-on-cpu")
    except DeviceError as error:
        pytest.skip(f"all but the kernels in CUDA C: {error}")
    served, checks, moved = checkout.ask(ON_CUDA)
    assert served == "Toy"
    assert checks == [True] * 2
    assert moved == [2 * 4 * 8 * 64, 3 * 4 * 8 * 64]

    try:
        find_device_compiler(None)
    except DeviceCompilerError as error:
        pytest.skip(f"all but the compilation for devices: {error}")
    said = checkout.run("-m", "tinygrad_char.kernels.cuda.compile", "toy", "--arch", "sm_90")
    assert "toy_forward" in said
    assert "toy_backward" in said
