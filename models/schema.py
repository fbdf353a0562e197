"""Values from JSON, checked against dataclasses: nothing that was read is used before."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tinygrad_char.kernels.words import shorten

LARGEST = (1 << 63) - 1
"""What counters and sizes can be: an int64."""


class SchemaError(ValueError):
    """A value is not of the kind that is read there; the message says where, and what it is."""


@dataclass(frozen=True)
class Range:
    """Limits of a number, both included."""

    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Pattern:
    """What a text has to look like as a whole, in words and as a regular expression."""

    words: str
    expression: str


Natural = Annotated[int, Range(0, LARGEST)]
Positive = Annotated[int, Range(1, LARGEST)]


def parse(kind: Any, value: Any, where: str = "", *, extra: bool = False) -> Any:
    """Return `value` as what `kind` says, which it has to be already: nothing is converted.

    Parameters
    ----------
    kind
        bool, int, float (which takes an integer, too), str, a Literal, a union of these, one
        of them Annotated with a Range or a Pattern, a dataclass of such kinds for a dict.
    value
        As `json.loads` gives it.
    where
        Its name in messages.
    extra
        Whether the dict of a dataclass may have further keys, which are left out.

    Raises
    ------
    SchemaError
        Something is missing, unknown, of another type, not a number, or out of range.
    """
    if hasattr(kind, "from_json"):
        return kind.from_json(value)
    if is_dataclass(kind):
        return _parse_fields(kind, value, where, extra)
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *limits = get_args(kind)
        value = parse(inner, value, where)
        for each in limits:
            _check_limit(each, value, where)
        return value
    if origin in (Union, UnionType):
        return _parse_union(get_args(kind), value, where)
    if origin is Literal:
        known = get_args(kind)
        if not any(type(value) is type(each) and value == each for each in known):
            raise _unexpected(where, value, " or ".join(map(str, known)))
        return value
    return _parse_plain(kind, value, where)


def _parse_plain(kind: Any, value: Any, where: str) -> Any:
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise _unexpected(where, value, "a number of the size of a double") from None
    if type(value) is not kind or (kind is float and math.isnan(value)):
        raise _unexpected(where, value, _WORDS[kind])
    return value


def _parse_fields(kind: Any, value: Any, where: str, extra: bool) -> Any:
    if not isinstance(value, Mapping):
        raise _unexpected(where, value, "an object")
    prefix = f"{where}." if where else ""
    hints = get_type_hints(kind, include_extras=True)
    given = {}
    for each in fields(kind):
        if each.name in value:
            given[each.name] = parse(hints[each.name], value[each.name], prefix + each.name)
        elif each.default is MISSING and each.default_factory is MISSING:
            raise SchemaError(f"{prefix + each.name!r} is missing")
    if not extra:
        unknown = sorted(set(value) - {each.name for each in fields(kind)})
        if unknown:
            raise SchemaError(
                f"{where or 'it'} has {shorten(unknown[0])}, which is unknown; known are "
                f"{', '.join(sorted(hints))}"
            )
    return kind(**given)


def _parse_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    problems = []
    for kind in kinds:
        try:
            return parse(kind, value, where)
        except SchemaError as error:
            problems.append(error)
    raise problems[0]


def _check_limit(limit: Any, value: Any, where: str) -> None:
    if isinstance(limit, Range) and not limit.low <= value <= limit.high:
        raise _unexpected(where, value, f"a number from {limit.low} to {limit.high}")
    if isinstance(limit, Pattern) and not re.fullmatch(limit.expression, value):
        raise _unexpected(where, value, limit.words)


def _unexpected(where: str, value: Any, expected: str) -> SchemaError:
    return SchemaError(f"{repr(where) if where else 'it'} is {shorten(value)}, expected {expected}")


_WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    NoneType: "nothing",
}
