"""Characters as integers: the vocabulary is the sorted distinct characters of a text."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from models.errors import UsageError

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
        codes = _code_points(self.characters)
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

    def encode(self, text: str, unknown: UnknownPolicy = "error") -> np.ndarray:
        """Turn `text` into tokens, of the smallest unsigned dtype that holds the vocabulary.

        Parameters
        ----------
        text : str
            Any text, lone surrogates included.
        unknown : {"error", "skip", "replace"}
            What becomes of a character outside the vocabulary. "skip" drops it. "replace" takes
            the nearest spelling that the vocabulary has (its other case, the letter without its
            accent, the ASCII form of a typographic sign: possibly several characters), else a
            space, else the vocabulary's first character.

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
        codes = _code_points(text)
        # "clip" sends every code point beyond the tables to their last slot, which is unknown.
        token_of_code, is_known = self._tables
        tokens = token_of_code.take(codes, mode="clip")
        known = is_known.take(codes, mode="clip")
        if known.all():
            return tokens
        if unknown == "skip":
            return tokens[known]
        positions = np.flatnonzero(~known)
        if unknown == "error":
            raise UsageError(self._describe_unknown(text, codes, positions))
        fallback = " " if " " in self.characters else self.characters[0]
        strangers = [chr(code) for code in np.unique(codes[positions])]
        return self.encode(
            text.translate({ord(c): self._suggestion(c) or fallback for c in strangers})
        )

    def decode(self, tokens: np.ndarray | Sequence[int]) -> str:
        """Turn tokens, a one-dimensional array or sequence of integers, back into text.

        Raises
        ------
        UsageError
            If a token is not an integer in [0, len(self)), or `tokens` is not one-dimensional.
        """
        array = np.asarray(tokens)
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
        return _code_points(self.characters)

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Token of each code point, and whether it has one, up to one beyond the largest."""
        tokens = np.arange(len(self), dtype=np.min_scalar_type(len(self) - 1))
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

    def _describe_unknown(self, text: str, codes: np.ndarray, positions: np.ndarray) -> str:
        """Say which characters are unknown, where, and what to do."""
        distinct, first, counts = np.unique(codes[positions], return_index=True, return_counts=True)
        order = np.argsort(first)
        lines = []
        for kind in order[:_LISTED]:
            character = chr(distinct[kind])
            at = int(positions[first[kind]])
            line = text.count("\n", 0, at) + 1
            column = at - text.rfind("\n", 0, at)
            times = "once" if counts[kind] == 1 else f"{counts[kind]} times, first"
            suggestion = self._suggestion(character)
            hint = f"; the vocabulary has {suggestion!r}" if suggestion else ""
            lines.append(
                f"  {character!r} U+{ord(character):04X} {_name(character)}: {times} "
                f"at character {at + 1} (line {line}, column {column}){hint}"
            )
        if len(order) > _LISTED:
            lines.append(f"  and {len(order) - _LISTED} other characters")
        verb = "is" if len(positions) == 1 else "are"
        return "\n".join(
            [
                f"{len(positions)} of the text's {len(text)} characters {verb} not among the "
                f"{len(self)} of the vocabulary:",
                *lines,
                "Change the text, or let `--unknown replace` put the nearest spelling or a space "
                "there, or let `--unknown skip` leave them out.",
            ]
        )


def _code_points(text: str) -> np.ndarray:
    """Code points of `text`: (len(text),), uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _name(character: str) -> str:
    """Unicode name of `character`, or its kind where it has none."""
    kind = _NAMELESS.get(unicodedata.category(character), "unnamed")
    return unicodedata.name(character, kind)
