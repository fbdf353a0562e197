"""A text as tokens of its own vocabulary, read in pieces: one to three bytes for each character."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from tinygrad_char.models.packed_tokens import integers, packed, token_dtype

PIECE = 1 << 18  # bytes of a file, or characters, that are looked at together
CODE_POINTS = 0x110000
_MARK = b"\xef\xbb\xbf"  # of UTF-8 in files that Windows programs wrote; not a part of the text


class TextChangedError(Exception):
    """The file was written to while it was being read."""


class NotUTF8Error(Exception):
    """Bytes that are no UTF-8: `offset` of the first one in the file, and what Python says."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(offset, reason)
        self.offset, self.reason = offset, reason


@dataclass(frozen=True)
class Text:
    """A text of n characters.

    Attributes
    ----------
    characters
        The vocabulary: its distinct characters, sorted by code point.
    tokens
        (n,), of the smallest dtype that holds the vocabulary, see `packed_tokens`; each character's
        place in `characters`.
    sha256
        SHA-256 of the text's UTF-8 bytes, in hexadecimal.
    """

    characters: str
    tokens: np.ndarray = field(compare=False)
    sha256: str

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lines(self) -> int:
        """The number of line ends, as `wc -l` counts."""
        at = self.characters.find("\n")
        if at < 0:
            return 0
        return sum(int(np.count_nonzero(integers(part) == at)) for part in pieces(self.tokens))

    def decode(self) -> str:
        """Return the whole text, which takes several times the memory of the tokens."""
        codes = code_points(self.characters)
        return codes[integers(self.tokens)].tobytes().decode("utf-32-le", "surrogatepass")


def read_text(file: BinaryIO) -> Text:
    """Read a UTF-8 file that can be read twice; a byte order mark at its start is left out.

    Memory: the tokens and a few megabytes.

    Raises
    ------
    NotUTF8Error
        The file is not UTF-8.
    TextChangedError
        It changed between the first reading and the second.
    """
    return _build(lambda update: _decoded(file, update), TextChangedError)


def text_of(text: str) -> Text:
    """Return the tokens of a text in memory, lone surrogates included."""

    def parts(update: Callable[[bytes], object]) -> Iterator[np.ndarray]:
        for start in range(0, len(text), PIECE):
            part = text[start : start + PIECE]
            update(part.encode("utf-8", "surrogatepass"))
            yield code_points(part)

    return _build(parts, AssertionError)


def pieces(tokens: np.ndarray) -> Iterator[np.ndarray]:
    """Cut an array into views that are short enough for temporary arrays of any dtype."""
    return (tokens[start : start + PIECE] for start in range(0, len(tokens), PIECE))


def code_points(text: str) -> np.ndarray:
    """Code points of `text`: (len(text),), uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


Parts = Callable[[Callable[[bytes], object]], Iterator[np.ndarray]]


def _build(parts: Parts, changed: type[Exception]) -> Text:
    """Go through the code points twice: for the vocabulary and the length, then for the tokens.

    So the tokens are put where they stay, in the dtype that they keep.
    """
    used = np.zeros(CODE_POINTS, np.bool_)
    size, digest = 0, hashlib.sha256()
    for codes in parts(digest.update):
        used[codes] = True
        size += len(codes)
    vocabulary = np.flatnonzero(used).astype("<u4")
    token_of_code = np.zeros(CODE_POINTS, token_dtype(len(vocabulary)))
    token_of_code[vocabulary] = packed(np.arange(len(vocabulary)), token_of_code.dtype)
    tokens = np.empty(size, token_of_code.dtype)
    end, again = 0, hashlib.sha256()
    for codes in parts(again.update):
        start, end = end, end + len(codes)
        if end > size:
            raise changed
        token_of_code.take(codes, out=tokens[start:end], mode="clip")
    if end != size or again.digest() != digest.digest():
        raise changed
    characters = vocabulary.tobytes().decode("utf-32-le", "surrogatepass")
    return Text(characters, tokens, digest.hexdigest())


def _decoded(file: BinaryIO, update: Callable[[bytes], object]) -> Iterator[np.ndarray]:
    """Yield the code points of a UTF-8 file from its start; `update` gets the bytes of the text."""
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, piece = 0, file.read(len(_MARK))
    if piece == _MARK:
        offset, piece = len(_MARK), file.read(PIECE)
    while True:
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            raise NotUTF8Error(offset - pending + error.start, error.reason) from error
        if not piece:
            return
        update(piece)
        yield code_points(text)
        offset, piece = offset + len(piece), file.read(PIECE)
