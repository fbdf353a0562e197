import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.tokenizer import CharTokenizer

# Every code point, lone surrogates included; a few letters often, so that characters repeat.
any_text = st.text(st.one_of(st.sampled_from("ab \n"), st.characters(exclude_categories=())))


@settings(deadline=None, max_examples=200)
@given(any_text.filter(len))
def test_decoding_undoes_encoding(text):
    tokenizer = CharTokenizer.from_text(text)
    tokens = tokenizer.encode(text)
    assert tokens.shape == (len(text),)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode(tokens.tolist()) == text


@settings(deadline=None, max_examples=100)
@given(any_text.filter(len), any_text)
def test_tokens_are_indices_into_the_sorted_characters(vocabulary, text):
    tokenizer = CharTokenizer.from_text(vocabulary)
    assert tokenizer.characters == "".join(sorted(set(vocabulary)))
    expected = [tokenizer.characters.index(c) for c in text if c in vocabulary]
    assert tokenizer.encode(text, unknown="skip").tolist() == expected


@settings(deadline=None, max_examples=100)
@given(any_text.filter(len), any_text)
def test_error_is_raised_exactly_where_a_character_is_unknown(vocabulary, text):
    tokenizer = CharTokenizer.from_text(vocabulary)
    if set(text) <= set(vocabulary):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    else:
        with pytest.raises(UsageError, match=r"--unknown replace.*--unknown skip"):
            tokenizer.encode(text)


@settings(deadline=None, max_examples=100)
@given(any_text.filter(len), any_text)
def test_replace_keeps_known_characters_and_drops_none(vocabulary, text):
    tokenizer = CharTokenizer.from_text(vocabulary)
    tokens = tokenizer.encode(text, unknown="replace")
    assert len(tokens) >= len(text)
    if set(text) <= set(vocabulary):
        assert tokenizer.decode(tokens) == text


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)],
)
def test_dtype_is_the_smallest_that_holds_the_vocabulary(size, dtype):
    characters = "".join(map(chr, range(size)))
    tokens = CharTokenizer(characters).encode(characters)
    assert tokens.dtype == dtype
    assert np.array_equal(tokens, np.arange(size))


def test_length_equality_and_empty_texts():
    tokenizer = CharTokenizer("ab")
    assert len(tokenizer) == 2
    assert tokenizer == CharTokenizer.from_text("abba")
    assert tokenizer != CharTokenizer("abc")
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.encode("").dtype == np.uint8
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode(np.zeros(0, np.int64)) == ""


@pytest.mark.parametrize("build", [CharTokenizer, CharTokenizer.from_text])
def test_an_empty_vocabulary_is_refused(build):
    with pytest.raises(UsageError, match="at least one character"):
        build("")


@pytest.mark.parametrize("characters", ["aba", "ba", "aa", "b\ud800a"])
def test_an_unsorted_or_repeating_vocabulary_is_refused(characters):
    with pytest.raises(UsageError, match=r"each character once, sorted.*at index \d.*from_text"):
        CharTokenizer(characters)


def test_an_unknown_character_is_named_with_its_places_and_a_suggestion():
    text = "abc\nab\u4e00a\u00e9\u00e9"
    with pytest.raises(UsageError) as caught:
        CharTokenizer("\nabce").encode(text)
    assert str(caught.value).splitlines() == [
        "3 of the text's 10 characters are not among the 5 of the vocabulary:",
        "  '\u4e00' U+4E00 CJK UNIFIED IDEOGRAPH-4E00: once at character 7 (line 2, column 3)",
        "  '\u00e9' U+00E9 LATIN SMALL LETTER E WITH ACUTE: 2 times, first at character 9 "
        "(line 2, column 5); the vocabulary has 'e'",
        "Change the text, or let `--unknown replace` put the nearest spelling or a space there, "
        "or let `--unknown skip` leave them out.",
    ]


def test_a_single_unknown_character_is_counted_in_the_singular():
    with pytest.raises(UsageError, match="1 of the text's 2 characters is not"):
        CharTokenizer("a").encode("ab")


def test_a_long_list_of_unknown_characters_is_cut():
    with pytest.raises(UsageError, match="and 18 other characters") as caught:
        CharTokenizer("A").encode("abcdefghijklmnopqrstuvwxyz")
    assert len(str(caught.value).splitlines()) == 11


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\udcff", r"'\\udcff' U\+DCFF lone surrogate"),
        ("\t", r"'\\t' U\+0009 control character"),
        ("\ue000", r"U\+E000 private use"),
        ("\uffff", r"U\+FFFF unassigned"),
        ("\U0001f600", r"U\+1F600 GRINNING FACE"),
    ],
)
def test_a_character_without_a_name_is_described(character, name):
    with pytest.raises(UsageError, match=name):
        CharTokenizer("a").encode(character)


ASCII = "".join(map(chr, range(32, 127)))


@pytest.mark.parametrize(
    ("vocabulary", "character", "expected"),
    [
        ("ABC", "b", "B"),
        ("abc", "B", "b"),
        ("e", "\u00c9", "e"),  # neither the other case nor the letter without its accent
        ("E", "\u00e9", "E"),
        ("E\u00e9", "\u00c9", "\u00e9"),
        (ASCII, "\u00e9", "e"),
        (ASCII, "\u00c5", "A"),
        (ASCII, "\u00df", "ss"),
        (ASCII, "\ufb01", "fi"),
        (ASCII, "\u2018", "'"),
        (ASCII, "\u2019", "'"),
        (ASCII, "\u201c", '"'),
        (ASCII, "\u201d", '"'),
        (ASCII, "\u00ab", '"'),
        (ASCII, "\u2013", "-"),
        (ASCII, "\u2014", "--"),
        (ASCII, "\u2026", "..."),
        (ASCII, "\u00a0", " "),
        (ASCII, "\t", " "),
    ],
)
def test_replace_takes_the_suggestion_which_the_error_names(vocabulary, character, expected):
    tokenizer = CharTokenizer(vocabulary)
    known = vocabulary[0]
    text = known + character + known
    replaced = tokenizer.decode(tokenizer.encode(text, unknown="replace"))
    assert replaced == known + expected + known
    with pytest.raises(UsageError) as caught:
        tokenizer.encode(text)
    assert f"the vocabulary has {expected!r}" in str(caught.value)


@pytest.mark.parametrize("character", ["\u2014", "\u2026", "\u00e9", "B", "\udc80", "\u0301"])
def test_without_a_spelling_in_the_vocabulary_replace_takes_a_space_else_the_first(character):
    assert CharTokenizer(" xy").encode(character, unknown="replace").tolist() == [0]
    assert CharTokenizer("\n xy").encode(character, unknown="replace").tolist() == [1]
    assert CharTokenizer("xy").encode("y" + character, unknown="replace").tolist() == [1, 0]
    with pytest.raises(UsageError) as caught:
        CharTokenizer("xy").encode(character)
    assert "the vocabulary has" not in str(caught.value)


def test_skip_leaves_unknown_characters_out():
    tokenizer = CharTokenizer("abc")
    assert tokenizer.decode(tokenizer.encode("a\u00e9bXc\udc80", unknown="skip")) == "abc"
    assert tokenizer.encode("XYZ", unknown="skip").shape == (0,)


def test_another_policy_is_refused_even_when_nothing_is_unknown():
    with pytest.raises(UsageError, match=r"'ignore'.*error, skip, replace"):
        CharTokenizer("a").encode("a", unknown="ignore")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([0, 3], "token 3 at index 1 .* from 0 to 2"),
        ([-1], "token -1 at index 0"),
        (np.array([0, 255], np.uint8), "token 255 at index 1"),
        ([0.0, 1.0], "integers, got values of dtype float64"),
        (np.array([True]), "dtype bool"),
        (np.zeros((1, 2), np.int64), r"shape \(1, 2\)"),
        (np.int64(1), r"shape \(\)"),
    ],
)
def test_decode_refuses_what_is_not_a_row_of_tokens(tokens, message):
    with pytest.raises(UsageError, match=message):
        CharTokenizer("abc").decode(tokens)


def test_decode_takes_views_and_any_integer_dtype():
    tokenizer = CharTokenizer("abc")
    tokens = np.array([0, 9, 1, 9, 2, 9])
    for dtype in (np.int8, np.uint16, np.int64, np.uint64):
        assert tokenizer.decode(tokens.astype(dtype)[::2]) == "abc"
        assert tokenizer.decode(tokens.astype(dtype)[4::-2]) == "cba"


def test_tiny_shakespeare_goes_there_and_back(tiny_shakespeare):
    text = tiny_shakespeare
    tokenizer = CharTokenizer.from_text(text)
    tokens = tokenizer.encode(text)
    assert len(tokenizer) == 65
    assert tokens.shape == (1_115_394,)
    assert tokenizer.decode(tokens) == text
