"""Every test of an operation runs on each of its versions for the host: one body for all.

Loops in Python take a while: calls with more than LARGEST elements are none of theirs. Within an
example of hypothesis the reference serves such a call instead, else the test is skipped.
"""

import math
from functools import wraps
from pathlib import Path

import hypothesis
import pytest

from tinygrad_char import kernels
from tinygrad_char.kernels.backend import CPU, asked_first, status
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.operations import Settings, operations

LARGEST = 15_000
collect_ignore = ["toy"]  # an operation that test_new_operation.py adds to a copy


class Overlay:
    """An operation's package with the functions of its reference as a version serves them."""

    def __init__(self, package, functions):
        self.__dict__.update(vars(functions), _package=package)

    def __getattr__(self, name):
        return getattr(self._package, name)


def elements(argument):
    """Return how many elements an argument has, or those of a named tuple together."""
    if hasattr(argument, "_fields"):
        return sum(map(elements, argument))
    return math.prod(max(side, 1) for side in getattr(argument, "shape", (0,)))


def limited(functions, reference):
    """Return the functions of a version for calls of at most LARGEST elements."""

    def limit(function, instead):
        @wraps(function)
        def call(*arguments, **options):
            size = sum(map(elements, arguments))
            if size <= LARGEST:
                return function(*arguments, **options)
            if hypothesis.currently_in_test_context():
                return instead(*arguments, **options)
            pytest.skip(f"{size} elements are too many for loops in Python")

        vars(call)["__self__"] = (asked_first(function), instead)
        return call

    served = {
        name: limit(function, getattr(reference, name))
        for name, function in vars(functions).items()
        if asked_first(function) is not function
    }
    return type(functions)(**{**vars(functions), **served})


def tested(module):
    """Return the operations that a test module of this folder imports by name."""
    if Path(module.__file__).parent != Path(__file__).parent:
        return []
    return [
        name
        for name in operations()
        if getattr(module, name, None) is getattr(kernels, name, kernels)
    ]


def pytest_generate_tests(metafunc):
    names = tested(metafunc.module)
    versions = {
        version: None
        for name in names
        for version in operations()[name].versions
        if version != "cuda"
    }
    if len(versions) > 1:
        metafunc.parametrize("version", versions, indirect=True)


@pytest.fixture(autouse=True)  # a name that is only added to a test's would not be set up
def version(request, monkeypatch):
    wanted = getattr(request, "param", "reference")
    if wanted == "c" and compiled is None:
        pytest.skip(status())
    for name in tested(request.module):
        if wanted != "reference" and wanted in operations()[name].versions:
            served = CPU.under(Settings(((name, wanted),))).operation(name)
            if wanted == "loops":
                served = limited(served, operations()[name].module("reference"))
            monkeypatch.setattr(request.module, name, Overlay(getattr(kernels, name), served))


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch")
