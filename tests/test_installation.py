"""What setup.py builds, and for which Pythons; `.ci/installs` installs it."""

import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("tinygrad_char", "kernels", "models", "benchmarks")


@pytest.fixture
def checkout(tmp_path):
    """Return a copy of this checkout without what was built in it."""
    copy = tmp_path / "checkout"
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "results")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=unwanted)
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    return copy


def build_packages(checkout, *options):
    """Copy the packages to where wheels are made from; return that folder."""
    command = [sys.executable, "setup.py", "-q", "build_py", *options]
    subprocess.run(command, cwd=checkout, capture_output=True, check=True)
    (found,) = checkout.glob("build/lib*")
    return found / "tinygrad_char"


def test_a_module_that_was_deleted_is_not_in_the_next_build(checkout):
    built = build_packages(checkout)
    assert (built / "kernels/reduce.py").is_file()
    assert (built / "kernels/softmax/reference.py").is_file()
    (checkout / "kernels/reduce.py").unlink()
    shutil.rmtree(checkout / "kernels/softmax")
    (checkout / "models/added.py").touch()
    assert build_packages(checkout) == built
    assert not (built / "kernels/reduce.py").exists()
    assert not (built / "kernels/softmax").exists()
    assert (built / "models/added.py").is_file()


def test_a_build_leaves_the_links_of_an_editable_installation(checkout):
    link = checkout / "build/__editable__.tinygrad_char/tinygrad_char/tensor.py"
    link.parent.mkdir(parents=True)
    link.symlink_to(checkout / "tinygrad_char/tensor.py")
    build_packages(checkout)
    assert link.is_file()


@pytest.mark.parametrize("folder", ["elsewhere", "."])
def test_a_folder_that_was_named_is_not_emptied(checkout, folder):
    kept = checkout / folder / "tinygrad_char/mine.txt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("mine")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", folder]
    subprocess.run(command, cwd=checkout, capture_output=True, check=True)
    assert kept.read_text() == "mine"
    assert (checkout / folder / "tinygrad_char/kernels/reduce.py").is_file()
    assert (checkout / "setup.py").is_file()


@pytest.mark.parametrize("without_gil", [0, None, 1])
def test_one_build_serves_later_pythons_where_there_is_a_gil(without_gil):
    real = sysconfig.get_config_var

    def get_config_var(name):
        return without_gil if name == "Py_GIL_DISABLED" else real(name)

    with (
        mock.patch("sysconfig.get_config_var", get_config_var),
        mock.patch("setuptools.setup") as setup,
    ):
        runpy.run_path(str(ROOT / "setup.py"))
    (extension,) = setup.call_args.kwargs["ext_modules"]
    tags = setup.call_args.kwargs["options"].get("bdist_wheel")
    if without_gil:
        assert (extension.py_limited_api, extension.define_macros, tags) == (False, [], None)
    else:
        assert extension.py_limited_api
        assert extension.define_macros == [("Py_LIMITED_API", "0x030B0000")]
        assert tags == {"py_limited_api": "cp311"}
        assert setup.call_args.kwargs["python_requires"] == ">=3.11"
