"""What tests of documents share: the files that they name, the links, the programs and commands."""

import doctest
import re
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = "kernels|tests|benchmarks|tinygrad_char|models|docs"


def named_files(text):
    """Return the paths, from the root, that a text has between backquotes, without patterns."""
    found = re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", text)
    return sorted({each for each in found if "NAME" not in each})


def links(text):
    """Return the targets of links to files."""
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [each.partition("#")[0] for each in found if not re.match(r"https?:|#", each)]


def missing(path):
    """Return what a document names or links to and what does not exist."""
    text = path.read_text(encoding="utf-8")
    return [
        *(each for each in named_files(text) if not (ROOT / each).exists()),
        *(each for each in links(text) if not (path.parent / each).exists()),
    ]


def quotes(text):
    """Return the quoted code, each with the file that was named last before it."""
    fence = r"^```(?:python|c)\n(.*?)^```"
    name = rf"`((?:{FOLDERS})/[\w./-]+\.\w+)`"
    found, path = [], None
    for code, named in re.findall(f"{fence}|{name}", text, re.DOTALL | re.MULTILINE):
        if named:
            path = named
        elif ">>>" not in code:
            found.append((path, code))
    return found


def misquoted(text):
    """Return the quotes that are not in their file, whatever the space between words is."""
    return [
        (path, code)
        for path, code in quotes(text)
        if " ".join(code.split()) not in " ".join((ROOT / path).read_text("utf-8").split())
    ]


def commands(text):
    """Return the commands in indented blocks, each without its comment, as lists of words."""
    lines = re.findall(r"^    ((?:pytest|python -m tinygrad_char\.) ?.*)$", text, re.MULTILINE)
    return [line.partition("  #")[0].split() for line in lines]


def wrong_commands(text):
    """Return the commands whose files or modules do not exist."""
    wrong = []
    for words in commands(text):
        if any("NAME" in each for each in words):
            continue
        if words[0] == "pytest":
            exists = all((ROOT / each).exists() for each in words[1:] if each.endswith(".py"))
        else:
            exists = find_spec(words[2]) is not None
        if not exists:
            wrong.append(" ".join(words))
    return wrong


def failures(text, name="document"):
    """Run the Python sessions of a text, which go on from block to block; return what differs."""
    parser, out = doctest.DocTestParser(), []
    blocks = [each for each in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if ">>>" in each]
    examples = [each for block in blocks for each in parser.get_examples(block)]
    test = doctest.DocTest(examples, {}, name, None, None, text)
    doctest.DocTestRunner(verbose=False).run(test, out=out.append)
    return "".join(out)
