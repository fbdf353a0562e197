"""With which macros a `.cu` file is compiled, as the file itself says.

A line of a comment such as `Variants: SCALAR=float VECTOR=1|4` gives the values of each macro; all
combinations are variants of the file. There may be several lines; a file without any has no macros.
"""

import re
from itertools import product

Variant = tuple[tuple[str, str], ...]
"""Macros and their values, sorted."""

HINT = "a file that needs macros says so in a comment, as in `Variants: SCALAR=float VECTOR=1|4`"

_LINE = re.compile(r"^\W*Variants:(.*)$", re.MULTILINE)
_MACRO = re.compile(r"(\w+)=([\w|]+)")


def variants(text: str) -> list[Variant]:
    """Return the sets of macros that a `.cu` text names: one without macros if it names none.

    Raises
    ------
    ValueError
        A line is not a list of NAME=value or NAME=value|value.
    """
    found: dict[Variant, None] = {}
    for line in _LINE.findall(text):
        words = line.replace("*/", "").split()
        macros = [_MACRO.fullmatch(word) for word in words]
        if not words or not all(macros):
            raise ValueError(f"`Variants:{line}` is not NAME=value|value ...: {HINT}")
        names = [macro[1] for macro in macros if macro]
        values = [macro[2].split("|") for macro in macros if macro]
        for combination in product(*values):
            found[tuple(sorted(zip(names, combination, strict=True)))] = None
    return list(found) or [()]
