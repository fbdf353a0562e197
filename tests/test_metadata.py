"""What the installed package says of itself: its version, its licence, its words about either."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import BytesHeaderParser
from pathlib import Path

import tinygrad_char

ROOT = Path(__file__).resolve().parent.parent


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere(setup_arguments):
    version = tinygrad_char.__version__
    assert setup_arguments["version"] == version
    assert re.search(r"^version: (.+)$", read("CITATION.cff"), re.M)[1] == version
    newest = re.search(r"^## \[(.+)\] - (\d{4}-\d\d-\d\d)$", read("CHANGELOG.md"), re.M)
    assert newest[1] == version
    assert re.search(r"^date-released: (.+)$", read("CITATION.cff"), re.M)[1] == newest[2]


def test_the_version_is_told_at_the_terminal():
    command = [sys.executable, "-m", "tinygrad_char.models", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"tinygrad-char {tinygrad_char.__version__}\n", "")


def test_the_licence_is_named_in_the_metadata(setup_arguments):
    assert read("LICENSE").startswith("MIT License\n\nCopyright (c) 2026 the tinygrad_char authors")
    assert setup_arguments["license_expression"] == "MIT"
    assert setup_arguments["author"] == "the tinygrad_char authors"
    assert re.search(r"^license: (.+)$", read("CITATION.cff"), re.M)[1] == "MIT"


def test_archives_carry_the_licence(tmp_path, setup_arguments):
    # Without the extension: what is built here is the metadata.
    given = {key: setup_arguments[key] for key in SAID}
    (tmp_path / "LICENSE").write_text(read("LICENSE"))
    (tmp_path / "setup.py").write_text(
        f"from setuptools import setup\nsetup(**{given!r}, py_modules=[])\n"
    )
    build = "from setuptools import build_meta as b; b.build_wheel('.'); b.build_sdist('.')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, check=True)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith("dist-info/METADATA"))
        said = BytesHeaderParser().parsebytes(archive.read(metadata))
    assert any(name.endswith("licenses/LICENSE") for name in names)
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.getnames())
    assert said["License-Expression"] == "MIT"
    assert said["Author"] == "the tinygrad_char authors"
    assert said["Version"] == tinygrad_char.__version__


SAID = ("name", "version", "author", "license_expression", "license_files", "classifiers")
