import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygrad_char.models import text as text_module
from tinygrad_char.models.text import NotUTF8Error, TextChangedError, read_text, text_of
from tinygrad_char.models.tokenizer import CharTokenizer

ROOT = Path(__file__).resolve().parents[2]
any_text = st.text(st.one_of(st.sampled_from("ab \n"), st.characters(exclude_categories=())))
several = st.sampled_from("ab\u00e9\u4e00\U0001f600\n\ufeff")
utf8 = st.text(st.one_of(several, st.characters(codec="utf-8")))


@pytest.fixture(params=[1, 2, 3, 5, 1 << 18])
def piece(request, monkeypatch):
    """Cut files and texts at every place that a piece may end."""
    monkeypatch.setattr(text_module, "PIECE", request.param)
    return request.param


fixture_is_constant = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@fixture_is_constant
@given(text=utf8)
def test_a_file_reads_as_its_characters(piece, text):
    read = read_text(io.BytesIO(text.encode()))
    expected = text.removeprefix("\ufeff")
    assert read.decode() == expected
    assert read.characters == "".join(sorted(set(expected)))
    assert read.sha256 == hashlib.sha256(expected.encode()).hexdigest()
    assert len(read) == len(expected)
    assert read.lines == expected.count("\n")
    assert read == text_of(expected)


@fixture_is_constant
@given(content=st.binary(max_size=12))
def test_the_first_byte_that_is_not_utf8_is_found(piece, content):
    wrong = undecodable(content)
    if wrong is None:
        assert read_text(io.BytesIO(content)).decode() == content.decode().removeprefix("\ufeff")
        return
    with pytest.raises(NotUTF8Error) as caught:
        read_text(io.BytesIO(content))
    assert (caught.value.offset, caught.value.reason) == (wrong.start, wrong.reason)


def undecodable(content):
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error
    return None


@fixture_is_constant
@given(text=any_text, vocabulary=any_text.filter(len))
def test_a_text_is_encoded_as_its_string_is(piece, text, vocabulary):
    tokenizer = CharTokenizer.from_text(vocabulary)
    known = [each for each in text if each in vocabulary]
    assert tokenizer.decode(tokenizer.encode(text_of(text), "skip")) == "".join(known)
    for policy in ("skip", "replace"):
        assert np.array_equal(
            tokenizer.encode(text_of(text), policy), tokenizer.encode(text, policy)
        )
    own = text_of(vocabulary)
    assert tokenizer.encode(own) is own.tokens


class Changing(io.BytesIO):
    """A file that has another content when it is read again."""

    def __init__(self, first, second):
        super().__init__(first)
        self.second, self.readings = second, 0

    def seek(self, offset, whence=0):
        self.readings += 1
        if self.readings == 2:
            super().seek(0)
            self.truncate()
            self.write(self.second)
        return super().seek(offset, whence)


@pytest.mark.parametrize("second", [b"", b"to b", b"to be or not", b"to eb", b"To be"])
def test_a_file_that_changed_is_refused(piece, second):
    assert read_text(Changing(b"to be", b"to be")).decode() == "to be"
    with pytest.raises(TextChangedError):
        read_text(Changing(b"to be", second))


KINDS = {
    "ascii": ("abcdefgh ijklmn\n", ""),
    "cjk": ("".join(map(chr, range(0x4E00, 0x4E00 + 3000))) + "\n", ""),
    "one emoji": ("abcdefgh ijklmn\n", "\U0001f600"),
    "all of Unicode": ("".join(map(chr, [*range(0xD800), *range(0xE000, 70_000)])), ""),
}
MEASURE = """
import json, re, sys
from pathlib import Path
from tinygrad_char.models import cli

def memory(name):
    return int(re.search(rf"^{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text(), re.M)[1])

small, large, *options = sys.argv[1:]
command = [large if each == "TEXT" else each for each in options]
assert cli.run([small if each == "TEXT" else each for each in options]) == 0
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
idle = memory("VmRSS")
assert cli.run(command) == 0
print(json.dumps((memory("VmHWM") - idle) * 1024), file=sys.stderr)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts the peak")
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_takes_at_most_four_bytes_for_a_character(kind, tmp_path):
    assert peak(kind, tmp_path, "data", "TEXT") <= 4


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts the peak")
@pytest.mark.parametrize("kind", ["cjk", "one emoji"])
def test_training_on_a_text_takes_at_most_four_bytes_for_a_character(kind, tmp_path):
    options = [
        *("--n-layer", "1", "--n-head", "1", "--n-embd", "4", "--block-size", "8"),
        *("--batch-size", "2", "--steps", "1", "--eval-batches", "1"),
        *("--sample-every", "0", "--data", "TEXT"),
    ]
    assert peak(kind, tmp_path, "train", *options) <= 4


def peak(kind, folder, *command):
    """Return the bytes for each character that a command takes at its peak, above being idle."""
    alphabet, last = KINDS[kind]
    block = alphabet * (100_000 // len(alphabet))
    with (folder / "large.txt").open("w", encoding="utf-8") as file:
        for _ in range(120):
            file.write(block)
        file.write(last)
    (folder / "small.txt").write_text(block, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, folder / "small.txt", folder / "large.txt", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stderr.splitlines()[-1]) / (120 * len(block) + len(last))
