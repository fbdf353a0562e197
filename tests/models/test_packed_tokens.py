import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_char.models.batches import random_batch, split_corpus, whole_split
from tinygrad_char.models.packed_tokens import THREE_BYTES, integers, packed, token_dtype
from tinygrad_char.models.text import text_of
from tinygrad_char.models.tokenizer import CharTokenizer

# More characters than 16 bits number, without the surrogates.
MANY = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000 + 5000)]))
LARGE = (1 << 24) - 1
tokens = hnp.arrays(np.int64, st.integers(0, 40), elements=st.integers(0, LARGE))


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        *((size, np.uint8) for size in (0, 256)),
        *((size, np.uint16) for size in (257, 65536)),
        *((size, THREE_BYTES) for size in (65537, 0x110000)),
    ],
)
def test_the_dtype_is_the_smallest_that_holds_a_vocabulary(size, dtype):
    assert token_dtype(size) == dtype
    last = np.array([0, max(size - 1, 0)])
    assert np.array_equal(integers(packed(last, token_dtype(size))), last)


def test_a_token_takes_three_bytes():
    assert packed(np.arange(10), THREE_BYTES).nbytes == 30


@settings(deadline=None, max_examples=100)
@given(tokens, st.data())
def test_packed_tokens_are_arrays_of_their_numbers(numbers, data):
    three = packed(numbers, THREE_BYTES)
    assert integers(three).dtype == np.uint32
    assert np.array_equal(integers(three), numbers)
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(numbers))] * 2)))
    assert np.array_equal(integers(three[start:end]), numbers[start:end])
    assert np.array_equal(
        integers(np.concatenate([three[start:], three])), np.concatenate([numbers[start:], numbers])
    )
    at = data.draw(hnp.arrays(np.int64, (2, 3), elements=st.integers(0, 10**6)))
    if len(numbers):
        at %= len(numbers)
        assert np.array_equal(integers(three.take(at)), numbers.take(at))


def test_integers_stay_as_they_are():
    for dtype in (np.uint8, np.uint16, np.int64):
        numbers = np.arange(5, dtype=dtype)
        assert integers(numbers) is numbers


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_batches_of_packed_tokens_are_those_of_their_numbers(extra, block_size, batch_size, seed):
    numbers = np.random.default_rng(seed).integers(0, LARGE, 11 * (block_size + 1) + extra)
    three = packed(numbers, THREE_BYTES)
    for part, expected in zip(
        split_corpus(three, block_size), split_corpus(numbers, block_size), strict=True
    ):
        assert np.shares_memory(part, three)
        streams = (np.random.default_rng(seed), np.random.default_rng(seed))
        drawn = random_batch(part, block_size, batch_size, streams[0])
        right = random_batch(expected, block_size, batch_size, streams[1])
        walked = whole_split(part, block_size, batch_size)
        pairs = zip(
            [drawn, *walked],
            [right, *whole_split(expected, block_size, batch_size)],
            strict=True,
        )
        for ours, theirs in pairs:
            for array, other in zip(ours, theirs, strict=True):
                assert array.dtype == np.int64
                assert np.array_equal(array, other)


def test_a_text_of_more_characters_than_two_bytes_number():
    text = MANY[::-1] + "\n\n" + MANY[5:9]
    read, tokenizer = text_of(text), CharTokenizer(MANY)
    assert read.tokens.dtype == THREE_BYTES
    assert read.characters == MANY
    assert read.decode() == text
    assert read.lines == 3
    assert tokenizer.encode(read) is read.tokens
    assert tokenizer.encode(text).dtype == np.uint32
    assert tokenizer.decode(tokenizer.encode(read)) == tokenizer.decode(tokenizer.encode(text))


def test_its_tokens_in_a_larger_and_in_a_smaller_vocabulary():
    larger = CharTokenizer(MANY + chr(0x20000))
    tokens = larger.encode(text_of(MANY + "a"))
    assert tokens.dtype == THREE_BYTES
    assert np.array_equal(integers(tokens), [*range(len(MANY)), ord("a")])
    assert larger.encode("a\uffff").tolist() == [ord("a"), 0xFFFF - 0x800]
    smaller = CharTokenizer(MANY[1:])
    for policy, expected in (("skip", MANY[1:]), ("replace", " " + MANY[1:])):
        for text in (MANY, text_of(MANY)):
            assert smaller.decode(smaller.encode(text, policy)) == expected
    assert CharTokenizer("ab").decode(CharTokenizer("ab").encode(text_of(MANY), "skip")) == "ab"
