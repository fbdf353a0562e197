"""Every test of an operation that has a fused version runs on both: one body for all versions."""

import pytest

import kernels
from kernels import fused

NAMES = ("adamw", "attention", "cross_entropy", "dropout", "layernorm")


class Overlay:
    """A reference's module with some of its functions replaced; what is set goes to the module."""

    def __init__(self, module, functions):
        self.__dict__.update(vars(functions), _module=module)

    def __getattr__(self, name):
        return getattr(self._module, name)

    def __setattr__(self, name, value):
        setattr(self._module, name, value)


def pytest_generate_tests(metafunc):
    if any(getattr(metafunc.module, name, None) is getattr(kernels, name) for name in NAMES):
        metafunc.fixturenames.append("version")
        metafunc.parametrize("version", ["reference", "fused"], indirect=True)


@pytest.fixture
def version(request, monkeypatch):
    if request.param == "reference":
        return
    if not fused.TABLE:
        pytest.skip(fused.status())
    for name in NAMES:
        module = getattr(kernels, name)
        if getattr(request.module, name, None) is module:
            monkeypatch.setattr(request.module, name, Overlay(module, fused.TABLE[name]))
