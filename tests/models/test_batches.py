import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.models import batches
from tinygrad_char.models.batches import RandomBatches, random_batch, split_corpus, whole_split
from tinygrad_char.models.errors import UsageError
from tinygrad_char.random import Stream

dtypes = st.sampled_from([np.uint8, np.uint16, np.uint32, np.int64])


def counting(size, dtype=np.int64):
    """Tokens that are their own positions, as far as the dtype reaches."""
    return np.arange(size).astype(dtype)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 40), st.integers(0, 400), st.floats(0.05, 0.95))
def test_split_keeps_every_token_in_order(block_size, extra, fraction):
    size = 21 * (block_size + 1) + extra
    tokens = counting(size)
    train, validation = split_corpus(tokens, block_size, fraction)
    assert len(train) == int(fraction * size)
    assert np.array_equal(np.concatenate([train, validation]), tokens)
    assert np.shares_memory(train, tokens)
    assert np.shares_memory(validation, tokens)


def test_split_gives_nine_tenths_to_training_by_default():
    split = split_corpus(counting(1_115_394), 64)
    assert len(split.train) == 1_003_854
    assert len(split.validation) == 111_540


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 300), st.floats(0.01, 0.99))
def test_the_length_that_the_message_asks_for_is_the_smallest_that_does(block_size, fraction):
    with pytest.raises(UsageError) as caught:
        split_corpus(counting(2), block_size, fraction)
    words = str(caught.value).split()
    smallest = int(words[words.index("least", words.index("Give")) + 1])
    parts = split_corpus(counting(smallest), block_size, fraction)
    assert min(map(len, parts)) == block_size + 1
    with pytest.raises(UsageError, match="too short"):
        split_corpus(counting(smallest - 1), block_size, fraction)


def test_a_short_text_is_refused_with_its_sizes():
    with pytest.raises(UsageError) as caught:
        split_corpus(counting(100), 64)
    message = str(caught.value)
    assert "100 characters split into 90 for training and 10 for validation" in message
    assert "block_size + 1 = 65" in message
    assert "at least 641 characters" in message
    assert "`--block-size`" in message


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_split_refuses_a_fraction_that_leaves_a_part_empty(fraction):
    with pytest.raises(UsageError, match="between 0 and 1"):
        split_corpus(counting(100), 2, fraction)


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 20), st.integers(1, 8), st.integers(1, 200), dtypes, st.integers(0, 2**32 - 1)
)
def test_targets_are_the_inputs_shifted_by_one(block_size, batch_size, extra, dtype, seed):
    tokens = counting(block_size + extra, dtype)
    x, y = random_batch(tokens, block_size, batch_size, np.random.default_rng(seed))
    assert x.shape == y.shape == (batch_size, block_size)
    assert x.dtype == y.dtype == np.int64
    assert np.array_equal(x[:, 1:], y[:, :-1])
    starts = np.random.default_rng(seed).integers(0, extra, batch_size)
    for row, start in enumerate(starts):
        assert np.array_equal(x[row], tokens[start : start + block_size])
        assert np.array_equal(y[row], tokens[start + 1 : start + 1 + block_size])


@given(st.lists(st.sampled_from(["draw", "ahead", "two", "two ahead", "restore"]), max_size=12))
def test_batches_drawn_ahead_are_those_that_would_be_drawn(actions):
    stream, other = Stream(3), Stream(3)
    ahead = RandomBatches(counting(50), 4, 2, stream)
    plain = RandomBatches(counting(50), 4, 2, other)
    first = stream.get_state()
    for action in actions:
        count = 2 if "two" in action else 1
        if "ahead" in action:
            ahead.draw_ahead(count)
        elif action == "restore":
            stream.set_state(first)
            other.set_state(first)
        else:
            np.testing.assert_array_equal(ahead.draw(count), plain.draw(count))
        assert stream.get_state() == other.get_state()


def test_what_was_drawn_ahead_is_not_drawn_again(monkeypatch):
    ahead = RandomBatches(counting(50), 4, 2, Stream(3))
    ahead.draw_ahead()
    monkeypatch.setattr(batches, "random_batch", None)
    assert len(ahead.draw()) == 1


def test_random_windows_reach_the_first_and_the_last_token():
    x, y = random_batch(counting(10), 7, 200, np.random.default_rng(0))
    assert set(x[:, 0]) == {0, 1, 2}
    assert y.max() == 9


def test_a_batch_is_its_own_memory():
    tokens = counting(10)
    x, y = random_batch(tokens, 3, 4, np.random.default_rng(0))
    assert x.flags.c_contiguous
    assert y.flags.c_contiguous
    for array in (x, y):
        array[:] = -1
    assert np.array_equal(tokens, counting(10))


def test_random_batch_refuses_a_text_without_a_window():
    with pytest.raises(UsageError, match=r"block_size \+ 1 = 9 tokens.*8.*--block-size"):
        random_batch(counting(8), 8, 1, np.random.default_rng(0))


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 300), st.integers(1, 40), st.integers(1, 8), dtypes)
def test_whole_split_covers_each_target_once_in_order(size, block_size, batch_size, dtype):
    tokens = counting(size, dtype)
    inputs, targets, shapes = [], [], []
    for x, y in whole_split(tokens, block_size, batch_size):
        assert x.shape == y.shape
        assert x.dtype == y.dtype == np.int64
        shapes.append(x.shape)
        inputs.append(x.ravel())
        targets.append(y.ravel())
    assert np.array_equal(np.concatenate(inputs), tokens[:-1])
    assert np.array_equal(np.concatenate(targets), tokens[1:])

    windows, rest = divmod(size - 1, block_size)
    batches, last = divmod(windows, batch_size)
    expected = [(batch_size, block_size)] * batches
    expected += [(last, block_size)] * bool(last) + [(1, rest)] * bool(rest)
    assert shapes == expected


@pytest.mark.parametrize("size", [0, 1])
def test_whole_split_refuses_at_the_call_what_has_no_target(size):
    with pytest.raises(UsageError, match="nothing to predict"):
        whole_split(counting(size), 4, 4)


@pytest.mark.parametrize("value", [0, -3])
def test_sizes_below_one_are_refused_by_name(value):
    tokens, stream = counting(100), np.random.default_rng(0)
    block = rf"block_size is {value}; .*--block-size"
    batch = rf"batch_size is {value}; .*--batch-size"
    with pytest.raises(UsageError, match=block):
        split_corpus(tokens, value)
    with pytest.raises(UsageError, match=block):
        random_batch(tokens, value, 4, stream)
    with pytest.raises(UsageError, match=batch):
        random_batch(tokens, 4, value, stream)
    with pytest.raises(UsageError, match=block):
        whole_split(tokens, value, 4)
    with pytest.raises(UsageError, match=batch):
        whole_split(tokens, 4, value)
