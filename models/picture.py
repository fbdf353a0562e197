"""Pictures: drawn quietly, with names as they are, and never the reason that a program fails."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

LONGEST_TITLE = 80  # characters


@contextmanager
def drawing(path: str | os.PathLike[str], notify: Callable[[str], None]) -> Iterator[None]:
    """Draw `path` inside: whatever goes wrong there is told in one line, and nothing else is said.

    Matplotlib is to be imported inside, too.
    """
    logger = logging.getLogger("matplotlib")  # tells of folders for its cache, and of fonts
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), ExitStack() as settings:
            warnings.simplefilter("ignore")
            # Where the import fails, as for a wrong MPLBACKEND, the one inside does so again.
            with suppress(Exception):
                import matplotlib

                # A matplotlibrc in the working folder may be anybody's: no other program is run.
                settings.enter_context(matplotlib.rc_context({"text.usetex": False}))
            yield
    except Exception as error:  # of a library, its fonts, its settings, a disk: anything
        reason = " ".join(str(error).split()) or type(error).__name__
        notify(f"{os.fspath(path)!r} was not drawn: {reason}")
    finally:
        logger.setLevel(level)


def title(text: str) -> dict[str, Any]:
    """Return a text, such as a file's name, as arguments of matplotlib's `set_title`.

    No sign in it is mathematics; what cannot be printed, or what the font has no picture of, is
    escaped as in Python; and it is cut to what fits.
    """
    shown = "".join(each if _drawable(each) else _escape(each) for each in text)
    if len(shown) > LONGEST_TITLE:
        shown = shown[: LONGEST_TITLE - 3] + "..."
    return {"label": shown, "parse_math": False}


def png(figure: Any) -> bytes:
    """Return a matplotlib figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _drawable(character: str) -> bool:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return character.isprintable() and font.get_char_index(ord(character)) != 0


def _escape(character: str) -> str:
    byte = ord(character) - 0xDC00  # of a file's name that is not UTF-8
    if 0x80 <= byte <= 0xFF:
        return f"\\x{byte:02x}"
    return character.encode("unicode_escape").decode()
