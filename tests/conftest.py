"""What tests of several folders share; processes that run side by side leave each other a core."""

import os
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


@pytest.fixture
def eager_switching():
    """Let Python change threads as often as it can, so that what is shared without a lock shows."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(scope="session")
def setup_arguments():
    """Return what setup.py says of the package."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(Path(__file__).resolve().parent.parent / "setup.py"))
    return setup.call_args.kwargs
