import codecs
import dataclasses
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pooch
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.models import corpus as corpus_module
from tinygrad_char.models.corpus import Corpus, corpus_status, load_corpus
from tinygrad_char.models.encodings import ENCODINGS
from tinygrad_char.models.errors import RunError, UsageError
from tinygrad_char.models.text import read_text, text_of

PLAY = b"First Citizen:\nBefore we proceed any further, hear me speak.\n"


class Downloader:
    """Stands where pooch's downloader stands; writes `content` or raises it."""

    def __init__(self, content):
        self.content = content
        self.calls = 0

    def __call__(self, url, output_file, pooch_object):
        self.calls += 1
        if isinstance(self.content, Exception):
            raise self.content
        Path(output_file).write_bytes(self.content)


@pytest.fixture
def downloads(monkeypatch):
    """Install a downloader with the given answer."""

    def install(content):
        downloader = Downloader(content)
        monkeypatch.setattr(pooch, "HTTPDownloader", lambda **options: downloader)
        return downloader

    return install


@pytest.fixture
def cache(monkeypatch, tmp_path, downloads):
    """An empty cache, no folder in the environment, no network; PLAY is the published text."""
    folder = tmp_path / "cache"
    monkeypatch.delenv("TINYGRAD_CHAR_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: folder / project)
    monkeypatch.setattr(corpus_module, "SHAKESPEARE_SHA256", hashlib.sha256(PLAY).hexdigest())
    downloads(requests.exceptions.ConnectionError("<object at 0x7f>: Max retries exceeded"))
    return folder / "tinygrad_char"


@pytest.fixture
def notes():
    return []


def refuse(message):
    raise AssertionError(f"nothing should be said here: {message}")


def test_the_folder_in_the_environment_comes_first_and_silently(cache, tmp_path, monkeypatch):
    (tmp_path / "tinyshakespeare.txt").write_bytes(PLAY)
    monkeypatch.setenv("TINYGRAD_CHAR_DATA", str(tmp_path))
    for data in (None, "shakespeare"):
        corpus = load_corpus(data, refuse)
        assert corpus.text == PLAY.decode()
        assert corpus.name == "shakespeare"
        assert corpus.source == str(tmp_path / "tinyshakespeare.txt")
    assert corpus_status() == f"tiny Shakespeare: {str(tmp_path / 'tinyshakespeare.txt')!r}"


def test_a_missing_folder_is_said_and_the_cache_is_used(cache, tmp_path, monkeypatch, notes):
    cache.mkdir(parents=True)
    (cache / "tinyshakespeare.txt").write_bytes(PLAY)
    missing = tmp_path / "missing"
    monkeypatch.setenv("TINYGRAD_CHAR_DATA", str(missing))
    corpus = load_corpus(None, notes.append)
    assert corpus.source == str(cache / "tinyshakespeare.txt")
    assert len(notes) == 1
    assert f"TINYGRAD_CHAR_DATA={str(missing)!r} is not used" in notes[0]
    assert "No such file" in notes[0]
    assert "folder that holds tinyshakespeare.txt" in notes[0]
    assert corpus_status().splitlines()[:-1] == notes


def test_a_folder_with_another_text_is_said(cache, tmp_path, monkeypatch, notes):
    (tmp_path / "tinyshakespeare.txt").write_bytes(PLAY + b"!")
    monkeypatch.setenv("TINYGRAD_CHAR_DATA", str(tmp_path))
    assert load_corpus(None, notes.append).name == "pydoc"
    assert "not tiny Shakespeare as published" in notes[0]
    assert hashlib.sha256(PLAY + b"!").hexdigest() in notes[0]


def test_an_empty_variable_counts_as_unset(cache, monkeypatch):
    monkeypatch.setenv("TINYGRAD_CHAR_DATA", "")
    assert "TINYGRAD_CHAR_DATA" not in corpus_status()


def test_a_download_is_announced_and_the_cached_copy_used_from_then_on(
    cache, downloads, notes, capfd
):
    assert "not downloaded yet" in corpus_status()
    downloader = downloads(PLAY)
    first = load_corpus(None, notes.append)
    assert first.text == PLAY.decode()
    assert first.source == str(cache / "tinyshakespeare.txt")
    assert len(notes) == 1
    assert "downloading" in notes[0]
    assert str(cache) in notes[0]
    assert load_corpus("shakespeare", refuse) == first
    assert downloader.calls == 1
    assert corpus_status() == f"tiny Shakespeare: {str(cache / 'tinyshakespeare.txt')!r}"
    assert capfd.readouterr() == ("", "")


def test_an_altered_cached_copy_is_said_and_fetched_again(cache, downloads, notes):
    cache.mkdir(parents=True)
    (cache / "tinyshakespeare.txt").write_bytes(b"altered")
    assert "not downloaded yet" in corpus_status()
    downloads(PLAY)
    assert load_corpus(None, notes.append).text == PLAY.decode()
    assert "the cached copy is not used" in notes[0]
    assert (cache / "tinyshakespeare.txt").read_bytes() == PLAY


def http_error(status):
    response = requests.Response()
    response.status_code = status
    return requests.exceptions.HTTPError("wrapped", response=response)


FAILURES = [
    (requests.exceptions.ConnectTimeout("<object>"), "no connection to https://raw.github"),
    (requests.exceptions.ChunkedEncodingError("<object>"), "no connection to https://raw.github"),
    (http_error(404), "HTTP status 404"),
    (OSError(28, "No space left on device"), "No space left on device"),
    (b"an error page", "does not match"),
]


@pytest.mark.parametrize(("failure", "reason"), FAILURES, ids=[f[1] for f in FAILURES])
def test_a_failed_download_is_said_and_pydoc_used(cache, downloads, notes, capfd, failure, reason):
    downloads(failure)
    corpus = load_corpus(None, notes.append)
    assert corpus.name == "pydoc"
    assert len(notes) == 2
    assert "could not be downloaded" in notes[1]
    assert reason in notes[1]
    assert "Using the text of Python's documentation instead" in notes[1]
    assert "TINYGRAD_CHAR_DATA" in notes[1]
    assert "--data FILE" in notes[1]
    assert "\n" not in notes[1]
    assert "<object" not in notes[1]
    assert not (cache / "tinyshakespeare.txt").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("failure", "reason"), FAILURES, ids=[f[1] for f in FAILURES])
def test_a_failed_download_is_an_error_when_shakespeare_was_asked_for(
    cache, downloads, notes, failure, reason
):
    downloads(failure)
    with pytest.raises(RunError) as caught:
        load_corpus("shakespeare", notes.append)
    assert reason in str(caught.value)
    assert "TINYGRAD_CHAR_DATA" in str(caught.value)
    assert "--data FILE" in str(caught.value)
    assert "--data pydoc" in str(caught.value)


def test_a_cache_that_cannot_be_written_is_said_and_pydoc_used(cache, downloads, notes):
    downloads(PLAY)
    cache.parent.write_bytes(b"a file where the folder should be")
    assert load_corpus(None, notes.append).name == "pydoc"
    assert "could not be downloaded" in notes[-1]
    assert str(cache) in notes[-1]


def test_pooch_is_told_to_be_quiet_only_during_the_download(cache, monkeypatch, notes):
    monkeypatch.setattr(pooch.get_logger(), "level", logging.INFO)
    seen = []

    def watch(url, output_file, pooch_object):
        seen.append(pooch.get_logger().level)

    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **options: watch)
    load_corpus(None, notes.append)
    assert seen == [logging.ERROR]
    assert pooch.get_logger().level == logging.INFO


def test_the_downloader_gives_up_on_a_silent_host(cache, monkeypatch, notes):
    options = {}

    def remember(**given):
        options.update(given)
        return Downloader(PLAY)

    monkeypatch.setattr(pooch, "HTTPDownloader", remember)
    load_corpus(None, notes.append)
    connect, read = options["timeout"]
    assert 0 < connect <= 10
    assert 0 < read <= 60


def test_pydoc_is_the_text_of_every_topic():
    from pydoc_data.topics import topics

    corpus = load_corpus("pydoc", refuse)
    assert corpus.name == "pydoc"
    assert "pydoc_data.topics" in corpus.source
    assert len(corpus.text) == sum(map(len, topics.values())) + len(topics) - 1
    assert all(text in corpus.text for text in topics.values())


def test_pydoc_is_joined_in_the_order_of_its_topics(monkeypatch):
    module = types.ModuleType("pydoc_data.topics")
    module.topics = {"while": "second\n", "assert": "first\n"}
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", module)
    assert load_corpus("pydoc", refuse).text == "first\n\nsecond\n"


def test_a_python_without_pydoc_is_an_error_not_a_stack_trace(cache, monkeypatch, notes):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    for data in ("pydoc", None):
        with pytest.raises(RunError, match=r"pydoc_data\.topics.*--data FILE"):
            load_corpus(data, notes.append)


def test_pooch_is_imported_only_when_the_cache_is_looked_at():
    program = (
        "import sys; from tinygrad_char.models.corpus import load_corpus; "
        "load_corpus('pydoc', print); print('pooch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def test_the_hash_is_of_the_utf8_bytes():
    corpus = Corpus("name", "source", text_of("caf\u00e9\r\n"), "argument")
    assert corpus.sha256 == hashlib.sha256(b"caf\xc3\xa9\r\n").hexdigest()
    with pytest.raises(dataclasses.FrozenInstanceError):
        corpus.content = text_of("other")


@settings(deadline=None, max_examples=50)
@given(text=st.text(min_size=2).filter(lambda t: len(set(t.removeprefix("\ufeff"))) > 1))
def test_a_file_is_read_as_it_is(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "my.play.txt"
    path.write_bytes(text.encode("utf-8"))
    corpus = load_corpus(str(path), refuse)
    assert corpus.text == text.removeprefix("\ufeff")
    assert corpus.content == text_of(corpus.text)
    assert corpus.name == "my.play"
    assert corpus.source == str(path)


def test_newlines_stay_and_a_byte_order_mark_goes(tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert load_corpus(str(path), refuse).text == "one\r\ntwo\rthree\n"


def refusal(data):
    with pytest.raises(UsageError) as caught:
        load_corpus(str(data), refuse)
    assert str(data) in str(caught.value)
    return str(caught.value)


def test_a_missing_file_brings_near_names_and_the_built_in_ones(tmp_path):
    (tmp_path / "Hamlet.txt").write_text("to be")
    (tmp_path / "zzz").write_text("far from it")
    message = refusal(tmp_path / "hamlt.txt")
    assert "there is no file" in message
    assert f"did you mean {str(tmp_path / 'Hamlet.txt')!r}?" in message
    assert "zzz" not in message
    assert "shakespeare, pydoc" in message


def test_a_misspelt_built_in_name_is_recognised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "did you mean shakespeare?" in refusal("Shakespear")
    assert "did you mean pydoc?" in refusal("pydocs")


def test_a_file_in_a_missing_folder(tmp_path):
    message = refusal(tmp_path / "nowhere" / "qqq")
    assert "there is no file" in message
    assert f"{str(tmp_path / 'nowhere')!r} cannot be listed" in message


def test_a_path_through_a_file(tmp_path):
    (tmp_path / "file").write_text("text")
    assert "there is no file" in refusal(tmp_path / "file" / "inside")


def test_a_folder_is_refused(tmp_path):
    assert "is a folder" in refusal(tmp_path)


def test_an_empty_name_is_refused():
    assert "`--data` is empty" in refusal("")


def test_an_unreadable_file_is_refused(tmp_path, monkeypatch):
    def deny(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(corpus_module, "open_regular", deny)
    assert "cannot be read: Permission denied" in refusal(tmp_path / "secret.txt")


def test_a_disk_that_fails_is_no_wrong_usage(tmp_path, monkeypatch):
    def fail(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(corpus_module, "open_regular", fail)
    with pytest.raises(RunError, match="cannot be read: Input/output error; check the disk"):
        load_corpus(str(tmp_path / "text.txt"), refuse)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", "/dev/null"):
        assert "not a regular file" in refusal(path)


def test_a_file_that_changes_while_it_is_read_is_said(tmp_path, monkeypatch):
    path = tmp_path / "growing.txt"
    path.write_text("to be")
    monkeypatch.setattr(corpus_module, "read_text", lambda file: read_text(Growing(file, path)))
    with pytest.raises(RunError, match="was written to while it was being read"):
        load_corpus(str(path), refuse)


class Growing:
    """A file that another program adds to before it is read a second time."""

    def __init__(self, file, path):
        self.file, self.path, self.read = file, path, file.read
        self.readings = 0

    def seek(self, offset):
        self.readings += 1
        if self.readings == 2:
            with self.path.open("a") as more:
                more.write(", or not")
        return self.file.seek(offset)


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = tmp_path / "empty.txt"
    path.write_bytes(content)
    assert "is empty" in refusal(path)


def test_one_distinct_character_is_refused(tmp_path):
    path = tmp_path / "same.txt"
    path.write_text("aaaa")
    message = refusal(path)
    assert "one distinct character ('a', 4 times)" in message
    assert "nothing to learn" in message


def test_latin_1_is_refused_with_place_and_cure(tmp_path):
    path = tmp_path / "my menu.txt"
    path.write_bytes("soup\nun caf\u00e9 noir\r\ntea".encode("latin-1"))
    message = refusal(path)
    assert "byte 0xE9 at offset 11 (line 2)" in message
    assert "\n  WINDOWS-1252  'un caf\u00e9 noir'\n" in message
    target = tmp_path / "my menu.utf8.txt"
    assert f"`iconv -f WINDOWS-1252 -t UTF-8 '{path}' > '{target}'`" in message


RUSSIAN = "\u0412\u0441\u0435 \u0441\u0447\u0430\u0441\u0442\u043b\u0438\u0432\u044b\u0435"
JAPANESE = "\u543e\u8f29\u306f\u732b\u3067\u3042\u308b\u3002\u540d\u524d\u306f\u7121\u3044\u3002"
CHINESE = "\u9053\u53ef\u9053\uff0c\u975e\u5e38\u9053\u3002\u540d\u53ef\u540d\u3002"
POLISH = "Za\u017c\u00f3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144, wszystkie rodziny"


@pytest.mark.parametrize(
    ("codec", "name", "text"),
    [
        ("cp1252", "WINDOWS-1252", "say \u201c\u00e9h\u201d"),
        ("cp1251", "WINDOWS-1251", RUSSIAN),
        ("koi8_r", "KOI8-R", RUSSIAN),
        ("cp866", "CP866", RUSSIAN),
        ("cp932", "CP932", JAPANESE),
        ("euc_jp", "EUC-JP", JAPANESE),
        ("gb18030", "GB18030", CHINESE),
        ("cp1250", "WINDOWS-1250", POLISH),
        ("iso8859_2", "ISO-8859-2", POLISH),
        (
            "mac_roman",
            "MACINTOSH",
            "un caf\u00e9 noir, s'il vous pla\u00eet, \u00e0 c\u00f4t\u00e9",
        ),
    ],
)
def test_an_encoding_is_shown_by_what_the_line_reads_in_it(tmp_path, codec, name, text):
    path = tmp_path / "foreign.txt"
    path.write_bytes(f"plain ASCII first\n{text}\n".encode(codec))
    shown = [line.split(maxsplit=1) for line in refusal(path).splitlines()[1:-1]]
    assert [name, repr(text)] in shown
    assert len({preview for _, preview in shown}) == len(shown) <= 5


def test_a_single_accent_in_much_plain_text_is_shown_in_the_commonest_encoding(tmp_path):
    path = tmp_path / "long.txt"
    path.write_bytes(b"x" * 100_000 + "\nna\u00efve\n".encode("cp1252") + b"y\n" * 100_000)
    assert "WINDOWS-1252  'na\u00efve'" in refusal(path)


def test_a_control_character_of_a_foreign_text_is_shown_escaped(tmp_path):
    path = tmp_path / "odd.txt"
    path.write_bytes(b"caf\xe9 \x1b[31m noir")
    message = refusal(path)
    assert "\x1b" not in message
    assert "'caf\u00e9 \\x1b[31m noir'" in message


def test_what_reads_as_no_text_is_not_called_one(tmp_path):
    path = tmp_path / "noise.bin"
    path.write_bytes(bytes(range(1, 256)) * 4)
    assert "iconv -f ISO-8859-1" not in refusal(path)


def test_candidates_are_encodings_that_python_and_iconv_know():
    for name in ENCODINGS:
        assert codecs.lookup(name)
    iconv = shutil.which("iconv")
    if iconv is None:
        pytest.skip("there is no iconv here")
    for name in ENCODINGS.values():
        subprocess.run([iconv, "-f", name, "-t", "UTF-8"], input=b"a", check=True, timeout=60)


@pytest.mark.parametrize(
    ("codec", "mark", "name"),
    [
        ("utf-16-le", b"\xff\xfe", "UTF-16"),
        ("utf-16-be", b"\xfe\xff", "UTF-16"),
        ("utf-32-le", b"\xff\xfe\0\0", "UTF-32"),
        ("utf-32-be", b"\0\0\xfe\xff", "UTF-32"),
    ],
)
def test_the_byte_order_mark_of_another_encoding_is_named(tmp_path, codec, mark, name):
    path = tmp_path / "wide.txt"
    path.write_bytes(mark + "to be".encode(codec))
    message = refusal(path)
    assert f"starts with the byte order mark of {name}." in message
    assert f"iconv -f {name} -t UTF-8" in message
    assert "(line 1)" in message


def test_a_binary_file_is_called_one(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    message = refusal(path)
    assert "byte 0x89 at offset 0" in message
    assert "probably not a text" in message
    assert "iconv" not in message


def test_a_file_cut_within_a_character_is_called_incomplete(tmp_path):
    path = tmp_path / "cut.txt"
    path.write_bytes("caf\u00e9".encode()[:-1])
    assert "ends in the middle of a character" in refusal(path)


def test_tiny_shakespeare_is_the_published_one():
    if not os.environ.get("TINYGRAD_CHAR_DATA"):
        pytest.skip("TINYGRAD_CHAR_DATA names no folder with tinyshakespeare.txt")
    corpus = load_corpus("shakespeare", refuse)
    assert len(corpus.text) == 1_115_394
    assert corpus.sha256 == corpus_module.SHAKESPEARE_SHA256
