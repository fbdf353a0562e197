"""Where the text comes from: tiny Shakespeare, Python's own documentation, or a file."""

import difflib
import errno
import hashlib
import logging
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tinygrad_char.models.encodings import candidates
from tinygrad_char.models.errors import RunError, UsageError
from tinygrad_char.models.escape import quoted
from tinygrad_char.models.text import (
    PIECE,
    NotUTF8Error,
    Text,
    TextChangedError,
    read_text,
    text_of,
)
from tinygrad_char.regular_file import open_regular

FOLDER_VARIABLE = "TINYGRAD_CHAR_DATA"
SHAKESPEARE_FILE = "tinyshakespeare.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
BUILT_IN = ("shakespeare", "pydoc")

# Seconds to connect, to one address of the host, and between two pieces of the answer.
_TIMEOUT = (10, 20)

# What is wrong with the path that was given, and not with what it leads to.
_ADVICE = {
    errno.EACCES: "check its rights",
    errno.EPERM: "check its rights",
    errno.EINVAL: "`--data` takes a text file, which can be read twice",
    errno.ELOOP: "give the file that its links should lead to",
    errno.ENAMETOOLONG: "check the name",
}

# Bytes on each side of one that is not UTF-8 that are looked at for its encoding.
_CONTEXT = 1 << 15

# The longer mark first: that of UTF-32LE begins with that of UTF-16LE.
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


@dataclass(frozen=True)
class Corpus:
    """A text with its name and where it came from."""

    name: str
    source: str
    content: Text
    argument: str
    """What to give to `load_corpus`, in any working directory, to get it again."""

    def __len__(self) -> int:
        return len(self.content)

    @property
    def text(self) -> str:
        """The whole text as a string, made anew: many times the memory of `content`."""
        return self.content.decode()

    @property
    def sha256(self) -> str:
        """SHA-256 of the text's UTF-8 bytes, in hexadecimal."""
        return self.content.sha256


def load_corpus(data: str | None, notify: Callable[[str], None]) -> Corpus:
    """Load the text that `data` names.

    Parameters
    ----------
    data : str or None
        "shakespeare", "pydoc", or the path of a UTF-8 text file (for a file of one of these two
        names write ./shakespeare). None is tiny Shakespeare, and where that cannot be had, pydoc.
    notify : callable
        Told in plain words of a download, and of everything that did not go as asked for.

    Raises
    ------
    UsageError
        If the file cannot be used.
    RunError
        If a built-in corpus that was asked for by name cannot be had.
    """
    if data == "pydoc":
        return _load_pydoc()
    if data is not None and data != "shakespeare":
        return _load_file(data)
    try:
        return _load_shakespeare(notify)
    except RunError as error:
        advice = (
            f"To have tiny Shakespeare, set {FOLDER_VARIABLE} to a folder that holds "
            f"{SHAKESPEARE_FILE}; for a text of your own use `--data FILE`"
        )
        if data is not None:
            raise RunError(f"{error}. {advice}, or use `--data pydoc`.") from error
        corpus = _load_pydoc()
        notify(
            f"{error}. Using the text of Python's documentation instead "
            f"({corpus.source}, {len(corpus):,} characters). {advice}."
        )
        return corpus


def corpus_status() -> str:
    """Say where tiny Shakespeare would come from, without touching the network."""
    remarks: list[str] = []
    corpus = _find_shakespeare(remarks.append)
    if corpus is not None:
        found = f"tiny Shakespeare: {corpus.source!r}"
    else:
        found = "tiny Shakespeare: not downloaded yet; the first use fetches it (1.1 MB)"
    return "\n".join([*remarks, found])


def _load_shakespeare(notify: Callable[[str], None]) -> Corpus:
    corpus = _find_shakespeare(notify)
    if corpus is not None:
        return corpus
    notify(f"downloading tiny Shakespeare (1.1 MB, once) to {str(_cache_folder())!r}")
    return _download_shakespeare()


def _find_shakespeare(notify: Callable[[str], None]) -> Corpus | None:
    """Look for tiny Shakespeare on this machine: the user's folder first, then the cache."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        path = Path(folder) / SHAKESPEARE_FILE
        try:
            return _shakespeare(path)
        except (OSError, RunError) as error:
            notify(
                f"{FOLDER_VARIABLE}={folder!r} is not used: {_reason(error)} "
                f"(it should name a folder that holds {SHAKESPEARE_FILE})"
            )
    try:
        cache = _cache_folder()
    except RunError:
        return None
    try:
        return _shakespeare(cache / SHAKESPEARE_FILE)
    except FileNotFoundError:
        return None
    except (OSError, RunError) as error:
        notify(f"the cached copy is not used: {_reason(error)}")
        return None


def _shakespeare(path: Path) -> Corpus:
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != SHAKESPEARE_SHA256:
            raise RunError(
                f"{str(path)!r} is not tiny Shakespeare as published: its SHA-256 is {digest}, "
                f"expected {SHAKESPEARE_SHA256}"
            )
        return Corpus("shakespeare", str(path), read_text(file), "shakespeare")


def _cache_folder() -> Path:
    # Importing pooch takes longer than reading the corpus: only those who need it pay.
    import pooch

    try:
        folder = Path(pooch.os_cache("tinygrad_char"))
    except RuntimeError:
        folder = Path("~")  # as other versions answer
    if not folder.is_absolute():
        raise RunError(
            "tiny Shakespeare could not be downloaded: there is no home directory to keep it in "
            "(HOME and XDG_CACHE_HOME are not set, and this user has none)"
        )
    return folder


def _download_shakespeare() -> Corpus:
    import pooch

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        path = pooch.retrieve(
            SHAKESPEARE_URL,
            known_hash=f"sha256:{SHAKESPEARE_SHA256}",
            fname=SHAKESPEARE_FILE,
            path=_cache_folder(),
            downloader=pooch.HTTPDownloader(timeout=_TIMEOUT),
        )
        return _shakespeare(Path(path))
    except (OSError, ValueError) as error:
        raise RunError(f"tiny Shakespeare could not be downloaded: {_reason(error)}") from error
    finally:
        logger.setLevel(level)


def _reason(error: Exception) -> str:
    """Put in one line what went wrong with a file or a download."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename else error.strerror
    response = getattr(error, "response", None)
    if response is not None:
        return f"{SHAKESPEARE_URL} answered with HTTP status {response.status_code}"
    if type(error).__module__.startswith("requests."):
        # Its text is a chain of wrapped objects that tells a reader at the terminal nothing.
        return f"no connection to {SHAKESPEARE_URL} ({type(error).__name__})"
    return " ".join(str(error).split())


def _load_pydoc() -> Corpus:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise RunError(
            "the corpus pydoc is not there: this Python comes without pydoc_data.topics "
            f"({error}). Give a text with `--data FILE`."
        ) from error
    text = "\n".join(topics[topic] for topic in sorted(topics))
    source = f"pydoc_data.topics of Python {platform.python_version()}"
    return Corpus("pydoc", source, text_of(text), "pydoc")


def _load_file(data: str) -> Corpus:
    if not data:
        raise UsageError(f"`--data` is empty: give a text file, or one of {_built_in_names()}")
    path = Path(data)
    try:
        with open_regular(path) as file:
            try:
                content = read_text(file)
            except NotUTF8Error as error:
                raise UsageError(_describe_undecodable(data, file, error)) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(_describe_missing(path)) from error
    except IsADirectoryError as error:
        raise UsageError(f"{data!r} is a folder: `--data` takes one text file") from error
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        kind = RunError if advice is None else UsageError
        raise kind(
            f"{data!r} cannot be read: {error.strerror or error}; {advice or 'check the disk'}"
        ) from error
    except TextChangedError as error:
        raise RunError(
            f"{data!r} was written to while it was being read: wait until it is complete"
        ) from error
    if not len(content):
        raise UsageError(f"{data!r} is empty: give a file with text to learn from")
    if len(content.characters) == 1:
        raise UsageError(
            f"{data!r} holds one distinct character ({content.characters!r}, {len(content)} "
            "times): there is nothing to learn. Give a text with at least two"
        )
    return Corpus(path.stem, str(path), content, str(path.resolve()))


def _describe_missing(path: Path) -> str:
    message = f"there is no file {str(path)!r}"
    try:
        neighbours = {entry.name.lower(): repr(str(entry)) for entry in path.parent.iterdir()}
    except OSError:
        neighbours = {}
        message += f" (its folder {str(path.parent)!r} cannot be listed)"
    neighbours.update({name: name for name in BUILT_IN})
    near = difflib.get_close_matches(path.name.lower(), list(neighbours))
    if near:
        message += f"; did you mean {' or '.join(neighbours[name] for name in near)}?"
    else:
        message += ";"
    return f"{message} `--data` takes a UTF-8 text file or one of {_built_in_names()}"


def _describe_undecodable(data: str, file: BinaryIO, error: NotUTF8Error) -> str:
    """Say where the text stops being UTF-8, and what it may be, by what it would read."""
    line = _count_lines(file, error.offset) + 1
    start = max(0, error.offset - _CONTEXT)
    file.seek(start)
    content = file.read(2 * _CONTEXT)
    at = error.offset - start
    file.seek(0)
    first = file.read(4)
    place = (
        f"{data!r} is not UTF-8: byte 0x{content[at]:02X} at offset {error.offset} (line {line})"
    )
    mark = next((mark for mark in _BYTE_ORDER_MARKS if first.startswith(mark)), None)
    if mark is not None:
        encoding = _BYTE_ORDER_MARKS[mark]
        place += f"; it starts with the byte order mark of {encoding}. "
        return place + f"Convert it with {_conversion(data, encoding)}"
    if b"\0" in content:
        return f"{place}; it holds NUL bytes, so it is probably not a text. Give a text file"
    if error.reason == "unexpected end of data":
        return f"{place}; it ends in the middle of a character. Is the file complete?"
    found = list(candidates(content, at))
    if not found:
        return f"{place}, and it reads as a text in no common encoding. Give a text file"
    width = max(len(name) for name, _ in found)
    previews = "".join(f"\n  {name:{width}}  {preview!r}" for name, preview in found)
    which = "It may be" if len(found) == 1 else "Which of these reads right?"
    advice = f"Convert it from that encoding: {_conversion(data, found[0][0])}"
    return f"{place}. {which}{previews}\n{advice}"


def _conversion(data: str, encoding: str) -> str:
    source = Path(data)
    target = source.with_name(f"{source.stem}.utf8{source.suffix}")
    return f"`iconv -f {encoding} -t UTF-8 {quoted(data)} > {quoted(target)}`"


def _count_lines(file: BinaryIO, offset: int) -> int:
    """Count the line ends in the first `offset` bytes of a file."""
    file.seek(0)
    count = 0
    while offset > 0 and (piece := file.read(min(PIECE, offset))):
        count += piece.count(b"\n")
        offset -= len(piece)
    return count


def _built_in_names() -> str:
    return ", ".join(BUILT_IN)
