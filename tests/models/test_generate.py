import gc
import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels.backend import CPU
from tinygrad_char.models.bigram import Bigram
from tinygrad_char.models.errors import RunError, UsageError
from tinygrad_char.models.generate import Context, Sampling, StopFilter, encode_prompt, generate
from tinygrad_char.models.gpt import GPT, GPTConfig
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.modes import is_grad_enabled, no_grad
from tinygrad_char.random import Generator, sampling_streams
from tinygrad_char.step import why_on_tape

VOCABULARY = 7


def make_gpt(block_size=8, **shape):
    """Return a small GPT whose weights are large enough that every character matters."""
    config = GPTConfig(block_size, 2, 2, 8, **shape)
    model = GPT(config, VOCABULARY, generator=Generator(0))
    rng = np.random.default_rng(1)
    for parameter in model.parameters():
        parameter.data = parameter.detach().numpy() + rng.normal(0, 0.3, parameter.shape)
    return model


def make_recipe(block_size=8):
    return make_gpt(block_size, positions="rotary", qk_norm=True, convolution=4, norm="rmsnorm")


def make_bigram(block_size=8):
    return Bigram(VOCABULARY, block_size, generator=Generator(0))


makers = pytest.mark.parametrize("make", [make_gpt, make_recipe, make_bigram])


def assert_equal_to_rounding(logits, expected):
    assert logits.shape == expected.shape
    tolerance = 32 * np.finfo(np.float32).eps
    assert np.abs(logits - expected).max() <= tolerance * np.abs(expected).max()


def random_tokens(shape, seed=3):
    return np.random.default_rng(seed).integers(0, VOCABULARY, shape)


def last_logits(model, window):
    with no_grad():
        return model(window)[0].numpy()[:, -1]


def write(model, length, sampling=None, *, count=1, seed=5, prompt=(1, 2), **options):
    """Return the texts (count, length)."""
    streams = sampling_streams(seed, count)
    steps = generate(model, np.array(prompt), length, sampling or Sampling(), streams, **options)
    return np.stack(list(steps), axis=1)


# The context


@makers
@pytest.mark.parametrize("block_size", [1, 2, 3, 8])
@pytest.mark.parametrize("start", [1, 2, 8, 11])
def test_cached_logits_equal_uncached_ones_at_every_step(make, block_size, start):
    model = make(block_size).eval()
    texts = random_tokens((3, start))
    cached, uncached = Context(model, texts), Context(model, texts, cache=False)
    for step in range(4 * block_size + 5):
        assert_equal_to_rounding(cached.logits(), uncached.logits())
        column = random_tokens(3, seed=step)
        cached.append(column)
        uncached.append(column)


@makers
@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("block_size", [1, 2, 3, 8])
def test_a_full_context_forgets_its_older_half_and_is_read_again(make, block_size, cache):
    model = make(block_size).eval()
    text = random_tokens((2, 1))
    context = Context(model, text, cache=cache)
    length = 1
    for step in range(4 * block_size):
        assert_equal_to_rounding(context.logits(), last_logits(model, text[:, -length:]))
        column = random_tokens((2, 1), seed=step)
        context.append(column[:, 0])
        text = np.concatenate([text, column], axis=1)
        length = length + 1 if length < block_size else block_size // 2 + 1


@makers
@pytest.mark.parametrize("block_size", [1, 2, 8])
@pytest.mark.parametrize("start", [1, 11])
def test_a_sliding_context_sees_the_last_block_size_characters(make, block_size, start):
    model = make(block_size).eval()
    text = random_tokens((2, start))
    context = Context(model, text, slide=True)
    for step in range(3 * block_size):
        assert np.array_equal(context.logits(), last_logits(model, text[:, -block_size:]))
        column = random_tokens((2, 1), seed=step)
        context.append(column[:, 0])
        text = np.concatenate([text, column], axis=1)


@makers
def test_the_model_is_asked_for_one_character_at_a_time_while_the_cache_lasts(make):
    model = make()
    lengths = []
    forward = model.forward
    model.forward = lambda idx, **options: lengths.append(idx.shape[1]) or forward(idx, **options)
    write(model, 14, prompt=(1, 2, 3), seed=9)
    if make is not make_bigram:  # from the fourth single character on its kernels are repeated
        recorded = why_on_tape(CPU) is None
        assert lengths == ([3, 1, 1, 1, 5, 5] if recorded else [3, *[1] * 5, *[5, 1, 1, 1] * 2])
    else:  # nothing to remember, so it reads its window; a table look-up costs nothing
        assert lengths == [3, 4, 5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8]


def test_a_context_reads_again_into_the_memory_that_it_has():
    context = Context(make_gpt().eval(), random_tokens((2, 3)))
    context.logits()
    held = [(each.keys, each.values) for each in context._cache]
    for step in range(20):
        context.append(random_tokens(2, seed=step))
        context.logits()
    for each, (keys, values) in zip(context._cache, held, strict=True):
        assert each.keys is keys
        assert each.values is values


def test_a_context_without_a_character_is_refused():
    with pytest.raises(ValueError, match="no character to continue"):
        write(make_gpt(), 1, prompt=np.array([], np.int64))


# Choosing


@makers
@pytest.mark.parametrize("slide", [False, True])
def test_temperature_0_takes_the_likeliest_character(make, slide):
    model = make()
    text = write(model, 20, Sampling(temperature=0), count=2, slide=slide)
    assert np.array_equal(text[0], text[1])
    context = Context(model.eval(), np.array([[1, 2]]), slide=slide)
    for token in text[0]:
        assert token == context.logits()[0].argmax()
        context.append(np.array([token]))


def naive_probabilities(logits, temperature, top_k, top_p):
    """Choose as the words say it, with lists, for one row of logits."""
    top = max(logits)
    kept = list(range(len(logits)))
    if top_k is not None:
        ranked = sorted(logits, reverse=True)
        least = ranked[min(top_k, len(ranked)) - 1]
        kept = [i for i in kept if logits[i] >= least]
    weights = {i: math.exp((logits[i] - top) / temperature) for i in kept}
    total = sum(weights.values())
    p = [weights.get(i, 0.0) / total for i in range(len(logits))]
    if top_p is not None and top_p < 1:
        reached, chosen = 0.0, []
        for i in sorted(range(len(p)), key=lambda i: (-p[i], i)):
            if reached < top_p:
                chosen.append(i)
            reached += p[i]
        total = sum(p[i] for i in chosen)
        p = [p[i] / total if i in chosen else 0.0 for i in range(len(p))]
    return p


# Few distinct values, so that ties are common
logit_rows = st.integers(1, 8).flatmap(
    lambda width: st.lists(
        st.lists(
            st.sampled_from([-30.0, -1.5, -1.0, 0.0, 0.25, 0.5, 2.0, 40.0]),
            min_size=width,
            max_size=width,
        ),
        min_size=1,
        max_size=3,
    )
)


@settings(deadline=None, max_examples=300)
@given(
    logit_rows,
    st.sampled_from([0.05, 0.5, 0.8, 1.0, 3.0]),
    st.none() | st.integers(1, 12),
    st.none() | st.sampled_from([1e-300, 1e-9, 0.1, 0.3, 0.7, 0.95, 0.999, 1.0, 1]),
)
def test_probabilities_are_those_of_a_naive_computation(rows, temperature, top_k, top_p):
    ours = Sampling(temperature, top_k, top_p).probabilities(np.array(rows, np.float32))
    expected = np.array([naive_probabilities(row, temperature, top_k, top_p) for row in rows])
    assert ours.dtype == np.float64
    assert np.abs(ours - expected).max() <= 1e-12
    assert np.abs(ours.sum(axis=-1) - 1).max() <= 1e-12
    assert ours.min() >= 0


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8), st.floats(0, 1e6))
def test_probabilities_add_up_at_every_temperature(row, temperature):
    if temperature == 0:
        temperature = 5e-324
    p = Sampling(temperature).probabilities(np.array([row], np.float32))
    assert abs(p.sum() - 1) <= 1e-12
    assert p[0].argmax() == np.argmax(row) or p[0].max() == p[0][np.argmax(row)]


def test_probabilities_leave_the_logits_alone():
    logits = random_tokens((2, 5)).astype(np.float64)
    before = logits.copy()
    Sampling(0.5, 2, 0.5).probabilities(logits)
    assert np.array_equal(logits, before)


def test_equal_logits_at_the_edge_of_top_k_are_all_kept():
    p = Sampling(1.0, top_k=2).probabilities(np.array([[1.0, 3.0, 1.0, 0.0, 1.0]]))
    assert (p[0] > 0).tolist() == [True, True, True, False, True]


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1e-300, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (1.0, 3)]
)
def test_top_p_keeps_the_fewest_characters_that_reach_it(top_p, kept):
    logits = np.log(np.array([[0.25, 0.5, 0.25]]))
    assert (Sampling(1.0, top_p=top_p).probabilities(logits) > 0).sum() == kept


def test_top_p_is_taken_of_what_top_k_left():
    logits = np.log(np.array([[0.4, 0.3, 0.2, 0.1]]))
    p = Sampling(1.0, top_k=2, top_p=0.6).probabilities(logits)
    # of 4/7 and 3/7, the first alone does not reach 0.6
    assert np.abs(p - [[4 / 7, 3 / 7, 0, 0]]).max() < 1e-12


def test_characters_come_as_often_as_they_should():
    logits = np.log([[0.1, 0.2, 0.3, 0.4]])
    streams = sampling_streams(0, 1)
    drawn = [int(Sampling(1.0).choose(logits, streams)[0]) for _ in range(4000)]
    shares = np.bincount(drawn, minlength=4) / 4000
    # five standard deviations of a share
    assert np.abs(shares - [0.1, 0.2, 0.3, 0.4]).max() < 5 * math.sqrt(0.25 / 4000)


def test_a_character_that_was_cut_off_never_comes():
    logits = np.zeros((1, 6))
    logits[0, 3] = -1e-3
    streams = sampling_streams(0, 1)
    sampling = Sampling(1.0, top_k=5)
    assert 3 not in {int(sampling.choose(logits, streams)[0]) for _ in range(300)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_refused(dtype, value):
    logits = np.zeros((3, 4), dtype)
    logits[1, 2] = value
    for sampling in (Sampling(), Sampling(top_k=2), Sampling(top_p=0.5), Sampling(0)):
        with pytest.raises(RunError, match=r"row 1 of the logits gives no probabilities: \[0.0"):
            sampling.choose(logits, sampling_streams(0, 3))


def test_each_row_has_its_stream():
    with pytest.raises(ValueError, match="2 rows of logits and 3 streams"):
        Sampling().choose(np.zeros((2, 4)), sampling_streams(0, 3))


def test_temperature_0_draws_nothing():
    (stream,) = sampling_streams(0, 1)
    before = stream.get_state()
    Sampling(0).choose(np.zeros((1, 4), np.float32), [stream])
    assert stream.get_state() == before


@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("top_p", [None, 0.8])
def test_choices_are_those_of_multinomial(top_k, top_p):
    sampling = Sampling(0.8, top_k, top_p)
    logits = np.random.default_rng(0).standard_normal((40, 65), np.float32)
    ours = sampling.choose(logits, sampling_streams(3, 40))
    expected = [
        stream.multinomial(row[None])[0]
        for stream, row in zip(sampling_streams(3, 40), sampling.probabilities(logits), strict=True)
    ]
    assert ours.tolist() == expected
    assert len(set(expected)) > 10


@pytest.mark.parametrize("value", [-0.1, -1, math.nan, math.inf])
def test_an_impossible_temperature_is_refused(value):
    with pytest.raises(UsageError, match=f"temperature is {value}; expected 0"):
        Sampling(temperature=value)


@pytest.mark.parametrize("value", [0, -3, 2.5])
def test_an_impossible_top_k_is_refused(value):
    with pytest.raises(UsageError, match=f"top-k is {value}; expected an integer of at least"):
        Sampling(top_k=value)


@pytest.mark.parametrize(
    "value", [2**63, 2**64, 10**399, 10**5000], ids=["63", "64", "400", "5001"]
)
def test_a_top_k_that_no_machine_counts_to_is_refused(value):
    with pytest.raises(UsageError, match=r"top-k is .*; expected an integer below 2\^63"):
        Sampling(top_k=value)


@pytest.mark.parametrize("value", [5, 2**31, 2**32, 2**63 - 1])
def test_a_top_k_beyond_the_vocabulary_keeps_everything(value):
    logits = np.random.default_rng(0).standard_normal((20, 4), np.float32)
    expected = Sampling().choose(logits, sampling_streams(1, 20))
    assert Sampling(top_k=value).choose(logits, sampling_streams(1, 20)).tolist() == (
        expected.tolist()
    )


def test_an_immense_context_takes_no_memory_before_it_is_filled():
    model = Bigram(5, 2**50)
    tokens = list(generate(model, np.array([1]), 300, Sampling(), sampling_streams(0, 2)))
    small = Bigram(5, 7)
    small.load_state_dict(model.state_dict())
    expected = generate(small, np.array([1]), 300, Sampling(), sampling_streams(0, 2))
    assert np.stack(tokens).tolist() == np.stack(list(expected)).tolist()


def test_a_long_stop_string_costs_no_more_than_what_is_held():
    each = StopFilter("ab" * 100_000)
    started = time.monotonic()
    assert "".join(map(each.feed, "xyz" * 300)) == "xyz" * 300
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("value", [0, -0.5, 1.01, math.nan, math.inf])
def test_an_impossible_top_p_is_refused(value):
    with pytest.raises(UsageError, match=f"top-p is {value}; expected a number above 0, up to 1"):
        Sampling(top_p=value)


# Texts


@makers
@pytest.mark.parametrize("cache", [False, True])
def test_a_text_does_not_depend_on_how_many_others_there_are(make, cache):
    model = make()
    alone = write(model, 30, cache=cache)
    several = write(model, 30, count=5, cache=cache)
    assert np.array_equal(several[0], alone[0])
    assert np.array_equal(several[:3], write(model, 30, count=3, cache=cache))
    assert len({tuple(text) for text in several}) == 5


@makers
def test_the_same_seed_writes_the_same_text(make):
    model = make()
    assert np.array_equal(write(model, 30, seed=5), write(model, 30, seed=5))
    assert not np.array_equal(write(model, 30, seed=5), write(model, 30, seed=6))


@makers
def test_the_cache_does_not_change_the_text(make):
    model = make()
    assert np.array_equal(write(model, 50, cache=True), write(model, 50, cache=False))


def test_a_text_continues_its_prompt():
    model = make_gpt()
    steps = write(model, 40, count=2, prompt=(4, 0, 6))
    context = Context(model.eval(), np.array([[4, 0, 6]] * 2))
    streams = sampling_streams(5, 2)
    for column in steps.T:
        tokens = Sampling().choose(context.logits(), streams)
        assert np.array_equal(tokens, column)
        context.append(tokens)


def test_a_prompt_longer_than_block_size_counts_by_its_end():
    model = make_gpt(block_size=4)
    text = write(model, 12, prompt=(1, 2, 3, 4, 5, 6))
    assert np.array_equal(text, write(model, 12, prompt=(3, 4, 5, 6)))


@makers
def test_nothing_is_written_where_nothing_is_asked_for(make):
    assert list(generate(make(), np.array([1]), 0, Sampling(), sampling_streams(0, 1))) == []


def modes(model):
    return {module.training for module in model.modules()}


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_is_kept_however_a_text_ends(training):
    model = make_gpt(dropout=0.5).train(training)
    write(model, 3)
    assert modes(model) == {training}
    steps = generate(model, np.array([1]), 9, Sampling(), sampling_streams(0, 1))
    next(steps)
    assert modes(model) == {training}
    next(steps)
    del steps
    gc.collect()
    assert modes(model) == {training}
    with pytest.raises(IndexError, match="99"):
        write(model, 3, prompt=(99,))
    assert modes(model) == {training}
    assert is_grad_enabled()


def test_texts_are_written_in_evaluation_mode_even_when_two_take_turns():
    model = make_gpt(dropout=0.5)
    expected = write(model, 20)[0]
    first, second = (
        generate(model, np.array([1, 2]), 20, Sampling(), sampling_streams(5, 1)) for _ in range(2)
    )
    pairs = [(int(next(first)[0]), int(next(second)[0])) for _ in range(20)]
    assert pairs == [(token, token) for token in expected]
    assert modes(model) == {True}


# Prompts


def test_an_empty_prompt_starts_like_a_new_line():
    assert encode_prompt("", CharTokenizer("\n ab")).tolist() == [0]
    assert encode_prompt("", CharTokenizer("\t\nab")).tolist() == [1]
    assert encode_prompt("", CharTokenizer("abc")).tolist() == [0]


def test_unknown_characters_are_refused_skipped_or_replaced():
    tokenizer = CharTokenizer("\n abc")
    assert encode_prompt("cab", tokenizer).tolist() == [4, 2, 3]
    with pytest.raises(UsageError, match="'!' U\\+0021 EXCLAMATION MARK"):
        encode_prompt("a!b", tokenizer)
    assert encode_prompt("a!b", tokenizer, "skip").tolist() == [2, 3]
    assert encode_prompt("a!B", tokenizer, "replace").tolist() == [2, 1, 3]


def test_a_prompt_of_which_nothing_is_left_is_an_empty_one():
    assert encode_prompt("!?", CharTokenizer("\n abc"), "skip").tolist() == [0]


# The stop string


def feed_all(stop, chunks):
    """Return what each chunk let through, with what the end let through as the last."""
    stop_filter = StopFilter(stop)
    shown = [stop_filter.feed(chunk) for chunk in chunks]
    return [*shown, stop_filter.finish()], stop_filter.stopped


def cut(text, places):
    """Return the text cut at the places."""
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


two_letters = st.text("ab", max_size=40)


@settings(deadline=None, max_examples=500)
@given(st.text("ab", min_size=1, max_size=5), two_letters, st.lists(st.integers(0, 40)))
def test_exactly_what_comes_before_the_stop_string_is_shown(stop, text, places):
    shown, stopped = feed_all(stop, cut(text, places))
    assert "".join(shown) == text.split(stop)[0]
    assert stopped == (stop in text)


@settings(deadline=None, max_examples=300)
@given(st.text("ab", min_size=1, max_size=5), two_letters, st.lists(st.integers(0, 40)))
def test_nothing_is_held_back_longer_than_needed(stop, text, places):
    stop_filter = StopFilter(stop)
    seen = shown = ""
    for chunk in cut(text, places):
        seen += chunk
        shown += stop_filter.feed(chunk)
        if stop_filter.stopped:
            break
        # what is held back is the longest end of the text that a stop string may begin with
        held = next(seen[i:] for i in range(len(seen) + 1) if stop.startswith(seen[i:]))
        assert shown + held == seen


@pytest.mark.parametrize(
    ("stop", "chunks", "expected"),
    [
        ("aab", ["a", "a", "a", "b", "x"], ["", "", "a", "", "", ""]),
        ("abab", ["aba", "aba", "b"], ["", "aba", "", ""]),
        ("ab", ["xab"], ["x", ""]),
        ("ab", ["xa"], ["x", "a"]),
        ("ab", ["a", "c"], ["", "ac", ""]),
        ("\n\n", ["one\n", "two\n", "\nthree"], ["one", "\ntwo", "", ""]),
    ],
)
def test_overlapping_beginnings_are_followed(stop, chunks, expected):
    shown, _ = feed_all(stop, chunks)
    assert shown == expected


@pytest.mark.parametrize("stop", [None, ""])
def test_without_a_stop_string_everything_is_shown_at_once(stop):
    assert feed_all(stop, ["one", "", "two"]) == (["one", "", "two", ""], False)
