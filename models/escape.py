"""Texts of others, and names of files, on a terminal and in a shell."""

import os
import re
import shlex
from typing import TextIO

# What a terminal would obey, or what would make it show a text in another order than it has:
# control characters other than newline and tab, and those for the direction of writing.
_OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escaped(text: str) -> str:
    r"""Return the text with what a terminal would obey written as in Python: \x1b, \u202e."""
    return _OBEYED.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def write(stream: TextIO, text: str) -> None:
    """Write a text that is not ours: as it is to a file or a pipe, escaped to a terminal."""
    stream.write(escaped(text) if stream.isatty() else text)


def quoted(path: str | os.PathLike[str]) -> str:
    r"""Return a path as a shell reads it: where it is not printable, in the form $'a\x1bb'."""
    name = os.fspath(path)
    if name.isprintable():
        return shlex.quote(name)
    plain = (chr(each) if 32 <= each < 127 else f"\\x{each:02x}" for each in os.fsencode(name))
    special = {"'": "\\'", "\\": "\\\\"}
    return "$'" + "".join(special.get(each, each) for each in plain) + "'"
