"""Print the lower bounds of setup.py as exact versions, for `pip install --constraint`.

A bound is said once, in setup.py; this makes `name==version` of each `name>=version` there.
"""

import re
import runpy
from pathlib import Path
from unittest import mock

SETUP = Path(__file__).resolve().parent.parent / "setup.py"
EXTRAS = ("test",)  # those that are installed with it


def lowest() -> list[str]:
    """Return a constraint for each requirement; ValueError for one without a lower bound."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(SETUP))
    arguments = setup.call_args.kwargs
    requirements = list(arguments["install_requires"])
    for extra in EXTRAS:
        requirements += arguments["extras_require"][extra]
    constraints = []
    for each in requirements:
        match = re.fullmatch(r"([\w-]+)(?:\[[\w,-]+\])?>=([\w.]+)", each)
        if match is None:
            raise ValueError(f"{each!r} in {SETUP} has no lower bound of the form name>=version")
        constraints.append(f"{match[1]}=={match[2]}")
    return constraints


if __name__ == "__main__":
    print("\n".join(lowest()))
