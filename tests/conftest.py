"""What tests of several folders share; processes that run side by side leave each other a core."""

import os
import runpy
import shutil
import subprocess
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


@pytest.fixture
def on_cpu():
    """Return the backend of CUDA kernels that are executed on the CPU, where it can be had."""
    from tinygrad_char.kernels.backend import DeviceError
    from tinygrad_char.kernels.devices import get_backend

    try:
        return get_backend("cuda-on-cpu")
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture
def mounted(tmp_path):
    """Mount a filesystem in memory, of the options that a test gives, and return its folder.

    What a full disk or one that cannot be written to does is seen there alone: permission bits do
    not bind root.
    """
    folder = tmp_path / "disk"

    def mount(options):
        folder.mkdir()
        program = shutil.which("mount")
        command = [str(program), "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if program is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this user cannot mount a tmpfs")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)
