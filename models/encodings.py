"""Which encoding a text that is not UTF-8 may have, shown by what it would read."""

from __future__ import annotations

from collections.abc import Iterator

# What files are found in, the likelier first where two read the same: as Python and iconv call it.
ENCODINGS = {
    "cp1252": "WINDOWS-1252",
    "latin_1": "ISO-8859-1",
    "iso8859_15": "ISO-8859-15",
    "cp1250": "WINDOWS-1250",
    "iso8859_2": "ISO-8859-2",
    "cp1251": "WINDOWS-1251",
    "koi8_r": "KOI8-R",
    "cp866": "CP866",
    "cp1253": "WINDOWS-1253",
    "cp1254": "WINDOWS-1254",
    "cp1255": "WINDOWS-1255",
    "cp1256": "WINDOWS-1256",
    "cp1257": "WINDOWS-1257",
    "cp850": "CP850",
    "mac_roman": "MACINTOSH",
    "cp932": "CP932",
    "euc_jp": "EUC-JP",
    "gb18030": "GB18030",
    "big5": "BIG5",
    "cp949": "CP949",
    "tis_620": "TIS-620",
}
_SHOWN = 5  # candidates
_WIDTH = 50  # characters of a preview
_SAMPLE = 1 << 15  # bytes that are judged


def candidates(content: bytes, at: int) -> Iterator[tuple[str, str]]:
    """Yield iconv's names of encodings that may be meant, likeliest first, each with a preview.

    `content` is a part of a file with whole lines where it has any, and `at` the place in it of a
    byte that is not UTF-8: a preview is the line of that place, or a part of it.
    """
    from charset_normalizer import from_bytes

    # Lines in plain ASCII read the same in most encodings, and would outweigh the others.
    telling = b"\n".join(line for line in content.split(b"\n") if not line.isascii())[:_SAMPLE]
    found = from_bytes(telling, cp_isolation=list(ENCODINGS), threshold=0.4)
    names = []
    for match in found:
        alike = {match.encoding, *match.could_be_from_charset}
        names.append(next(name for name in ENCODINGS if name in alike))
    names = names[:_SHOWN]
    if "cp1252" not in names:  # the commonest of all, which a line or two can make look wrong
        names[_SHOWN - 1 :] = ["cp1252"]
    previews: dict[str, str] = {}
    for name in names:
        if (preview := _preview(content, at, name)) is not None:
            previews.setdefault(preview, ENCODINGS[name])
    for preview, name in previews.items():
        yield name, preview


def _preview(content: bytes, at: int, encoding: str) -> str | None:
    """Return what the line around a place reads in an encoding; None where it is not of it."""
    start = content.rfind(b"\n", 0, at) + 1
    end = content.find(b"\n", at)
    line = content[start : len(content) if end < 0 else end]
    try:
        before = len(line[: at - start].decode(encoding, "ignore"))
        text = line.decode(encoding)
    except UnicodeDecodeError:
        return None
    first = max(0, before - _WIDTH // 2)
    return text[first : first + _WIDTH].rstrip("\r")
