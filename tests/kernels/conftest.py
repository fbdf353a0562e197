"""Every test of an operation that has a fused version runs on both: one body for all versions."""

import pytest
from versions import NAMES

from tinygrad_char import kernels
from tinygrad_char.kernels import fused


class Overlay:
    """A reference's module with some of its functions replaced."""

    def __init__(self, module, functions):
        self.__dict__.update(vars(functions), _module=module)

    def __getattr__(self, name):
        return getattr(self._module, name)


def pytest_generate_tests(metafunc):
    if any(getattr(metafunc.module, name, None) is getattr(kernels, name) for name in NAMES):
        metafunc.parametrize("version", ["reference", "fused"], indirect=True)


@pytest.fixture(autouse=True)  # a name that is only added to a test's would not be set up
def version(request, monkeypatch):
    if getattr(request, "param", "reference") == "reference":
        return
    if not fused.TABLE:
        pytest.skip(fused.status())
    for name in NAMES:
        module = getattr(kernels, name)
        if getattr(request.module, name, None) is module:
            monkeypatch.setattr(request.module, name, Overlay(module, fused.TABLE[name]))
