"""Names that are loaded when they are first used."""

import ast
import importlib
import pickle
import pkgutil
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import tinygrad_char as tg

PACKAGE = Path(tg.__file__).resolve().parent
MODULES = sorted(each.name for each in pkgutil.iter_modules([str(PACKAGE)]))
SHARED = sorted(set(MODULES) & set(tg.__all__) - {"functional", "nn", "optim", "random"})
"""Names of modules and of what is public and no module."""

AT_ONCE = """
import random, sys, threading, time

ways = [
    "import tinygrad_char; tinygrad_char.Tensor",
    "import tinygrad_char; tinygrad_char.nn.Linear",
    "import tinygrad_char as t; t.trace(t.tensor([[1.0]]))",
    "import tinygrad_char; tinygrad_char.kernels.using",
    "from tinygrad_char import *; tensor([1.0]).softmax(-1)",
    "from tinygrad_char import functional, optim, random; random.Generator",
    "from tinygrad_char import gradcheck; gradcheck.__call__",
    "import tinygrad_char.nn as nn; nn.Module",
    "from tinygrad_char.nn import LayerNorm",
    "from tinygrad_char.parallel import Workers",
]
later = [
    "from tinygrad_char.kernels.backend import CPU; CPU.kernels",
    "from tinygrad_char.models.gpt import GPT",
    "from tinygrad_char.models.trainer import Trainer",
    "from tinygrad_char.kernels import softmax; softmax.forward",
    "from tinygrad_char.kernels.words import shorten",
]
if sys.argv[1] == "after the package":
    import tinygrad_char
    ways += later
draw = random.Random(int(sys.argv[2]))
draw.shuffle(ways)
failed = []

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("tinygrad_char."):
            time.sleep(draw.uniform(0, 0.002))  # and another thread goes on

sys.meta_path.insert(0, Slow())
ready = threading.Barrier(len(ways))

def run(way):
    ready.wait()
    try:
        exec(way, {})
    except BaseException as error:
        failed.append(f"{way}: {error!r}")

threads = [threading.Thread(target=run, args=(way,)) for way in ways]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*failed, sep="\\n")
"""
"""Threads that import at once.

The package's file tells where a checkout has the packages inside it, and threads that import these
do not wait for it: that is Python's way.
"""


def run(program, *arguments):
    """Return what a fresh process prints."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def imported_for_types():
    """Yield the name and the module of each import that type checkers see."""
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name  # else no public name, for type checkers
                yield alias.name, node.module


def test_types_and_names_are_of_the_same_modules():
    found = dict(imported_for_types())
    assert sorted(found) == sorted(tg.__all__)
    for name, module in found.items():
        if module == "tinygrad_char":
            assert getattr(tg, name) is importlib.import_module(f"tinygrad_char.{name}")
        else:
            assert getattr(tg, name) is getattr(importlib.import_module(module), name)


def test_nothing_is_loaded_before_it_is_used():
    program = "import sys, tinygrad_char; "
    program += "print(*sorted(each for each in sys.modules if each.startswith('tinygrad_char')))"
    assert run(program) == "tinygrad_char tinygrad_char.lazy"
    program = "import sys, tinygrad_char; assert 'numpy' not in sys.modules; "
    assert run(program + "print(tinygrad_char.zeros(2).shape)") == "(2,)"


def test_some_names_are_shared_with_modules():
    assert SHARED == ["gradcheck", "tensor"]


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_name_does_not_depend_on_what_was_imported(name):
    checks = [
        f"import tinygrad_char.{name}",
        f"import tinygrad_char; tinygrad_char.{name}; import tinygrad_char.{name}",
        "import tinygrad_char.models.trainer, tinygrad_char",
        f"import tinygrad_char; del tinygrad_char.__dict__['lazy']; tinygrad_char.{name}",
    ]
    for check in checks:
        program = f"{check}; found = tinygrad_char.{name}; from tinygrad_char import {name}; "
        program += f"assert found is {name}; print(type(found).__name__)"
        assert run(program) == "function"
    assert callable(getattr(tg, name))
    assert importlib.import_module(f"tinygrad_char.{name}").__name__ == f"tinygrad_char.{name}"


def test_a_name_may_be_set_to_anything_else(monkeypatch):
    monkeypatch.setattr(tg, "tensor", 1)
    assert tg.tensor == 1
    monkeypatch.undo()
    assert tg.tensor is importlib.import_module("tinygrad_char.creation").tensor
    monkeypatch.delattr(tg, "tensor")
    assert tg.tensor is importlib.import_module("tinygrad_char.creation").tensor


def test_modules_of_the_package_are_attributes():
    program = (
        "import tinygrad_char as t; print(t.nn.Linear.__name__, t.autograd.grad is t.grad, "
        "t.kernels.using is t.using, t.models.__name__)"
    )
    assert run(program) == "Linear True True tinygrad_char.models"


@pytest.mark.parametrize("name", ["tests", "setup", "no_such", "_c", "__wrapped__", "py.typed"])
def test_nothing_else_is_an_attribute(name):
    with pytest.raises(AttributeError, match=rf"'tinygrad_char' has no attribute '{name}'"):
        getattr(tg, name)


def test_an_unknown_name_cannot_be_imported():
    with pytest.raises(ImportError, match="cannot import name 'tensors' from 'tinygrad_char'"):
        exec("from tinygrad_char import tensors")


def test_what_goes_wrong_while_a_name_is_loaded_is_told():
    program = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "tinygrad_char.coerce":
            raise AttributeError("of something else")
sys.meta_path.insert(0, Broken())
try:
    from tinygrad_char import Tensor
except ImportError as error:
    print(error, type(error.__cause__).__name__)
"""
    expected = "tinygrad_char.Tensor cannot be loaded: of something else AttributeError"
    assert run(program) == expected


def test_a_star_brings_all_names():
    program = "from tinygrad_char import *; import tinygrad_char as t; "
    program += "print(all.__module__, [n for n in t.__all__ if n not in globals()])"
    assert run(program) == "tinygrad_char.functions []"
    assert set(tg.__all__) <= set(dir(tg))
    assert run("import tinygrad_char as t; print('einsum' in dir(t), 'tests' in dir(t))") == (
        "True False"
    )


def test_help_and_pickles_know_the_names():
    assert "einsum" in pydoc.plain(pydoc.render_doc(tg))
    for each in (tg.Tensor, tg.trace, tg.tensor, tg.nn.Linear, tg.exp):
        assert pickle.loads(pickle.dumps(each)) is each
    text = pickle.dumps(tg.tensor).hex()
    program = f"import pickle; print(pickle.loads(bytes.fromhex('{text}')).__module__)"
    assert run(program) == "tinygrad_char.creation"


def test_the_package_can_be_loaded_again():
    program = "import importlib, tinygrad_char as t; f = t.tensor; importlib.reload(t); "
    assert run(program + "import tinygrad_char.tensor; print(t.tensor is f, t.eye(1))") == (
        "True Tensor([[1.]])"
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("when", ["after the package", "before"])
def test_threads_may_import_at_once(when, seed):
    assert run(AT_ONCE, when, str(seed)) == ""
