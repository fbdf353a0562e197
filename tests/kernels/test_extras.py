import re
import runpy
from pathlib import Path
from unittest import mock

import pytest

from tinygrad_char.kernels.words import how_to_install

ROOT = Path(__file__).resolve().parents[2]
ADVISED = ("cuda12", "cuda13", "parity")


@pytest.mark.parametrize("extra", ADVISED)
def test_advice_installs_from_the_checkout(extra):
    assert how_to_install(extra) == f'pip install -e ".[{extra}]" in the checkout'
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    assert extra in setup.call_args.kwargs["extras_require"]


def test_nothing_advises_to_install_this_package_from_an_index():
    files = [path for kind in ("*.py", "*.md") for path in ROOT.rglob(kind)]
    advice = re.compile(r"pip install [^\n]*tinygrad-char\[")
    said = [path for path in files if advice.search(path.read_text(encoding="utf-8"))]
    assert [path for path in said if path != Path(__file__)] == []
