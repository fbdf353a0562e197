import json
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels.words import shorten
from tinygrad_char.models.schema import Natural, Pattern, Range, SchemaError, parse


@dataclass(frozen=True)
class Inner:
    name: Annotated[str, Pattern("two letters", "[a-z]{2}")]
    kind: Literal["one", 2] = "one"


@dataclass(frozen=True)
class Outer:
    count: Natural
    share: Annotated[float, Range(0, 1)]
    inner: Inner
    flag: bool = False
    limit: Natural | None = None


GOOD = {"count": 3, "share": 0.5, "inner": {"name": "ab", "kind": 2}, "flag": True, "limit": None}


def test_values_that_fit_come_back_as_dataclasses():
    assert parse(Outer, GOOD) == Outer(3, 0.5, Inner("ab", 2), True, None)
    shortest = {"count": 0, "share": 1, "inner": {"name": "zz"}}
    assert parse(Outer, shortest) == Outer(0, 1.0, Inner("zz"), False, None)
    assert type(parse(Outer, shortest).share) is float


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": True}, "'count' is True, expected an integer"),
        ({"count": 1.0}, "'count' is 1.0, expected an integer"),
        ({"count": -1}, "'count' is -1, expected a number from 0"),
        ({"count": 10**400}, "'count' is a number of 1329 bits, expected a number from 0"),
        ({"share": math.nan}, "'share' is nan, expected a number"),
        ({"share": math.inf}, "'share' is inf, expected a number from 0 to 1"),
        ({"share": 10**400}, "'share' is a number of 1329 bits, expected a number of the size"),
        ({"share": "0.5"}, "'share' is '0.5', expected a number"),
        ({"flag": 1}, "'flag' is 1, expected true or false"),
        ({"flag": None}, "'flag' is None, expected true or false"),
        ({"limit": "x"}, "'limit' is 'x', expected an integer"),
        ({"inner": None}, "'inner' is None, expected an object"),
        ({"inner": [1, 2]}, "'inner' is [1, 2], expected an object"),
        ({"inner": {}}, "'inner.name' is missing"),
        ({"inner": {"name": "abc"}}, "'inner.name' is 'abc', expected two letters"),
        ({"inner": {"name": "ab\n"}}, "'inner.name' is 'ab\\n', expected two letters"),
        ({"inner": {"name": "ab", "kind": True}}, "'inner.kind' is True, expected one or 2"),
        ({"inner": {"name": "ab", "kind": []}}, "'inner.kind' is [], expected one or 2"),
        ({"inner": {"name": "ab", "more": 1}}, "inner has 'more', which is unknown; known are"),
        ({"more": 1}, "it has 'more', which is unknown"),
    ],
)
def test_what_does_not_fit_is_named(change, said):
    with pytest.raises(SchemaError) as error:
        parse(Outer, {**GOOD, **change})
    assert said in str(error.value)


def test_further_keys_are_left_out_where_they_may_be():
    assert parse(Outer, {**GOOD, "more": 1}, extra=True) == parse(Outer, GOOD)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from([*GOOD, "more"]), values) | values)
def test_whatever_json_gives_is_parsed_or_refused(value):
    value = json.loads(json.dumps(value))
    try:
        result = parse(Outer, value)
    except SchemaError as error:
        result = str(error)
    assert isinstance(result, Outer) or len(result) < 300


def test_large_and_deep_values_are_shortened():
    deep = json.loads("[" * 500 + "]" * 500)
    for value in (deep, "x" * 10**6, b"x" * 10**6, 10**5000, [10**5000], {"a": deep, "b": 1}):
        assert len(shorten(value)) < 100
