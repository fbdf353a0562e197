"""Characters as integers: the vocabulary is the sorted distinct characters of a text."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from tinygrad_char.kernels.cpu.forks import cached_property
from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.packed_tokens import integers, packed, token_dtype
from tinygrad_char.models.text import Text, code_points, pieces, text_of

UnknownPolicy = Literal["error", "skip", "replace"]

# Kinds of unknown character that one message lists; the rest are counted.
_LISTED = 8

# What an ASCII keyboard types for typographic quotes and dashes (as escapes: they look alike).
# NFKD, applied after this, knows the rest: ellipsis, no-break space, ligatures.
_TYPED = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u2039\u203a", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
    **dict.fromkeys("\u2014\u2015", "--"),
    "\t": " ",
}

_NAMELESS = {
    "Cc": "control character",
    "Cs": "lone surrogate: half a character, or a byte that is not UTF-8",
    "Co": "private use",
    "Cn": "unassigned",
}


@dataclass(frozen=True)
class CharTokenizer:
    """One token per character; token i is the i-th character in code point order.

    Parameters
    ----------
    characters : str
        The vocabulary: at least one character, sorted by code point, each once.

    Raises
    ------
    UsageError
        If `characters` is empty, unsorted or holds a character twice.
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters:
            raise UsageError("a vocabulary needs at least one character, got an empty text")
        codes = code_points(self.characters)
        misplaced = np.flatnonzero(codes[1:] <= codes[:-1])
        if misplaced.size:
            at = int(misplaced[0])
            raise UsageError(
                "a vocabulary holds each character once, sorted by code point, but "
                f"{self.characters[at]!r} at index {at} is followed by "
                f"{self.characters[at + 1]!r}; build it with CharTokenizer.from_text"
            )

    def __len__(self) -> int:
        return len(self.characters)

    @classmethod
    def from_text(cls, text: str) -> "CharTokenizer":
        """Build the vocabulary of `text`: its distinct characters, sorted."""
        return cls("".join(sorted(set(text))))

    def encode(
        self,
        text: str | Text,
        unknown: UnknownPolicy = "error",
        notify: Callable[[str], None] | None = None,
    ) -> np.ndarray:
        """Turn `text` into tokens, of the smallest unsigned dtype that holds the vocabulary.

        Those of a `Text` are of three bytes where they would be of four, see `packed_tokens`, and
        its own, not a copy, where the vocabulary is.

        Parameters
        ----------
        text : str or Text
            Any text, lone surrogates included.
        unknown : {"error", "skip", "replace"}
            What becomes of a character outside the vocabulary. "skip" drops it. "replace" takes
            the nearest spelling that the vocabulary has (its other case, the letter without its
            accent, the ASCII form of a typographic sign: possibly several characters), else a
            space, else the vocabulary's first character.
        notify : callable
            Told in words what was dropped or replaced.

        Raises
        ------
        UsageError
            On an unknown character under "error", and on any other policy.
        """
        if unknown not in get_args(UnknownPolicy):
            raise UsageError(
                f"unknown={unknown!r} is not a policy for unknown characters; "
                f"use one of {', '.join(get_args(UnknownPolicy))}"
            )
        if isinstance(text, str):
            return integers(self._encode(text_of(text), unknown, notify))
        return self._encode(text, unknown, notify)

    def _encode(
        self, text: Text, unknown: UnknownPolicy, notify: Callable[[str], None] | None
    ) -> np.ndarray:
        if text.characters == self.characters:
            return text.tokens
        codes = code_points(text.characters)
        # "clip" sends every code point beyond the tables to their last slot, which is unknown.
        token_of_code, is_known = self._tables
        mapped = token_of_code.take(codes, mode="clip")
        known = is_known.take(codes, mode="clip")
        if known.all():
            return _mapped(text, mapped)
        if unknown == "error":
            raise UsageError(
                f"{self._describe_unknown(text, known)}\nChange the text, or let `--unknown "
                "replace` put the nearest spelling or a space there, or let `--unknown skip` leave "
                "them out."
            )
        if notify:
            done = "left out" if unknown == "skip" else "replaced by the nearest spelling"
            notify(f"{self._describe_unknown(text, known)}\nWhat is unknown is {done}.")
        spelled = [mapped[each : each + 1] for each in range(len(mapped))]
        fallback = " " if " " in self.characters else self.characters[0]
        for each in np.flatnonzero(~known):
            spelling = ""
            if unknown == "replace":
                spelling = self._suggestion(text.characters[each]) or fallback
            spelled[each] = token_of_code.take(code_points(spelling), mode="clip")
        return _replaced(text, spelled)

    def decode(self, tokens: np.ndarray | Sequence[int]) -> str:
        """Turn tokens, a one-dimensional array or sequence of integers, back into text.

        Raises
        ------
        UsageError
            If a token is not an integer in [0, len(self)), or `tokens` is not one-dimensional.
        """
        array = integers(np.asarray(tokens))
        if array.ndim != 1:
            raise UsageError(f"decode needs one row of tokens, got an array of shape {array.shape}")
        if not array.size:
            return ""
        if array.dtype.kind not in "iu":
            raise UsageError(f"tokens must be integers, got values of dtype {array.dtype}")
        outside = np.flatnonzero((array < 0) | (array >= len(self)))
        if outside.size:
            at = int(outside[0])
            raise UsageError(
                f"token {array[at]} at index {at} is outside the vocabulary: "
                f"tokens of this model run from 0 to {len(self) - 1}"
            )
        return self._codes[array].tobytes().decode("utf-32-le", "surrogatepass")

    @cached_property
    def _codes(self) -> np.ndarray:
        """Code point of each token."""
        return code_points(self.characters)

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Token of each code point, and whether it has one, up to one beyond the largest."""
        tokens = packed(np.arange(len(self)), token_dtype(len(self)))
        size = int(self._codes[-1]) + 2
        token_of_code, is_known = np.zeros(size, tokens.dtype), np.zeros(size, np.bool_)
        token_of_code[self._codes], is_known[self._codes] = tokens, True
        return token_of_code, is_known

    def _suggestion(self, character: str) -> str:
        """Spell `character` with the vocabulary, or return an empty text."""
        other_case = character.swapcase()
        decomposed = unicodedata.normalize("NFKD", _TYPED.get(character, character))
        plain = "".join(part for part in decomposed if not unicodedata.combining(part))
        # The other case of a ligature or of a sharp s is several letters: worse than taking apart.
        candidates = (
            other_case if len(other_case) == 1 else "",
            plain,
            plain.casefold(),
            plain.upper(),
        )
        vocabulary = set(self.characters)
        return next((c for c in candidates if c and vocabulary.issuperset(c)), "")

    def _describe_unknown(self, text: Text, known: np.ndarray) -> str:
        """Say which characters of a text, not `known` in its vocabulary's order, are where."""
        found = _find(text, ~known)
        lines = []
        for token, (count, place) in list(found.items())[:_LISTED]:
            character = text.characters[token]
            times = "once" if count == 1 else f"{count} times, first"
            suggestion = self._suggestion(character)
            hint = f"; the vocabulary has {suggestion!r}" if suggestion else ""
            lines.append(
                f"  {character!r} U+{ord(character):04X} {_name(character)}: {times} "
                f"at {place}{hint}"
            )
        if len(found) > _LISTED:
            lines.append(f"  and {len(found) - _LISTED} other characters")
        total = sum(count for count, _ in found.values())
        return "\n".join(
            [
                f"{total} of the text's {len(text)} characters {'is' if total == 1 else 'are'} not "
                f"among the {len(self)} of the vocabulary:",
                *lines,
            ]
        )


@dataclass(frozen=True)
class _Place:
    """Where a character is: all three count from 1."""

    character: int
    line: int
    column: int

    def __str__(self) -> str:
        return f"character {self.character} (line {self.line}, column {self.column})"


def _find(text: Text, wanted: np.ndarray) -> dict[int, tuple[int, _Place]]:
    """Return how often each token with `wanted[token]` comes, and where first; in text order."""
    newline = text.characters.find("\n")
    found: dict[int, tuple[int, _Place]] = {}
    start, lines, line_start = 0, 0, 0  # of the piece; line ends before it; where its line began
    for piece in map(integers, pieces(text.tokens)):
        ends = np.flatnonzero(piece == newline)
        places = np.flatnonzero(wanted[piece])
        tokens, first, counts = np.unique(piece[places], return_index=True, return_counts=True)
        for kind in np.argsort(first):
            token, at = int(tokens[kind]), int(places[first[kind]])
            if token in found:
                count, place = found[token]
            else:
                before = int(np.searchsorted(ends, at))
                begin = start + int(ends[before - 1]) + 1 if before else line_start
                count = 0
                place = _Place(start + at + 1, lines + before + 1, start + at - begin + 1)
            found[token] = (count + int(counts[kind]), place)
        if len(ends):
            lines, line_start = lines + len(ends), start + int(ends[-1]) + 1
        start += len(piece)
    return found


def _mapped(text: Text, mapped: np.ndarray) -> np.ndarray:
    """Return the tokens of a text in another vocabulary: mapped[token] for each of its own."""
    result = np.empty(len(text), mapped.dtype)
    for source, target in zip(pieces(text.tokens), pieces(result), strict=True):
        mapped.take(integers(source), out=target, mode="clip")
    return result


def _replaced(text: Text, spelled: list[np.ndarray]) -> np.ndarray:
    """Return the same where each token becomes several or none: those of spelled[token]."""
    sizes = np.array([len(each) for each in spelled])
    joined = np.concatenate(spelled)
    starts = np.cumsum(sizes) - sizes
    total = sum(int(sizes[integers(piece)].sum()) for piece in pieces(text.tokens))
    result = np.empty(total, joined.dtype)
    end = 0
    for piece in map(integers, pieces(text.tokens)):
        lengths = sizes[piece]
        start, end = end, end + int(lengths.sum())
        # The n-th token of a spelling: n counts from where the spelling begins in the result.
        number = np.arange(end - start) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        joined.take(np.repeat(starts[piece], lengths) + number, out=result[start:end], mode="clip")
    return result


def _name(character: str) -> str:
    """Unicode name of `character`, or its kind where it has none."""
    kind = _NAMELESS.get(unicodedata.category(character), "unnamed")
    return unicodedata.name(character, kind)
