"""Sampling against a computation in words, number by number."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.kernels import sampling
from tinygrad_char.kernels import sampling as reference_sampling  # conftest replaces the other name
from tinygrad_char.kernels.sampling import Options


def naive_shares(logits, temperature, top_k, top_p):
    """Return how likely each class of a row is, as the words say it, with lists."""
    kept = range(len(logits))
    if top_k is not None:
        least = sorted(logits, reverse=True)[min(top_k, len(logits)) - 1]
        kept = [i for i in kept if logits[i] >= least]
    weights = [0.0] * len(logits)
    for i in kept:
        weights[i] = math.exp((float(logits[i]) - float(max(logits))) / temperature)
    total = math.fsum(weights)
    if top_p is not None and top_p < 1:
        reached, cut = 0.0, list(weights)
        for i in sorted(range(len(weights)), key=lambda i: (-weights[i], i)):
            if reached >= top_p:
                cut[i] = 0.0
            reached += weights[i] / total
        weights = cut
    total = math.fsum(weights)
    return [each / total for each in weights]


def bounds(shares):
    """Return between which uniform numbers each class is chosen."""
    sums = [0.0, *np.cumsum(shares)]
    return list(pairwise(sums))


# Few distinct values, so that ties are common, or many
@st.composite
def rows_of_logits(draw):
    classes = draw(st.integers(1, 40))
    few = st.sampled_from([-30.0, -1.5, -1.0, 0.0, 0.25, 0.5, 2.0, 40.0])
    number = draw(st.sampled_from([few, st.integers(-8000, 8000).map(lambda n: n / 1024)]))
    return draw(
        st.lists(st.lists(number, min_size=classes, max_size=classes), min_size=1, max_size=3)
    )


@settings(deadline=None, max_examples=150)
@given(
    rows_of_logits(),
    st.sampled_from([0.05, 0.5, 0.8, 1.0, 3.0]),
    st.none() | st.integers(1, 45),
    st.none() | st.sampled_from([1e-300, 1e-9, 0.1234, 0.3456, 0.789, 0.9567, 0.999, 1.0]),
)
def test_each_class_is_chosen_between_the_sums_of_its_shares(rows, temperature, top_k, top_p):
    for row in rows:
        shares = naive_shares(row, temperature, top_k, top_p)
        wanted, uniform = [], []
        for token, (low, high) in enumerate(bounds(shares)):
            if high - low > 1e-10:
                wanted += [token] * 3
                uniform += [low + 1e-11, (low + high) / 2, min(high, 1.0) - 1e-11]
        logits = np.repeat(np.array([row], np.float32), len(wanted), axis=0)
        tokens = sampling.forward(logits, np.array(uniform), Options(temperature, top_k, top_p))
        assert tokens.dtype == np.int64
        assert tokens.tolist() == wanted


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 9),
    st.sampled_from([1, 2, 31, 65, 257, 1000]),
    st.sampled_from([0.0, 5e-324, 0.01, 0.8, 1.0, 10.0]),
    st.sampled_from([None, 1, 2, 40, 5000]),
    st.sampled_from([None, 0.05, 0.5, 0.9, 1.0]),
    st.sampled_from(["contiguous", "stepped", "single"]),
    st.integers(0, 1000),
)
def test_tokens_are_those_of_the_reference(rows, classes, temperature, top_k, top_p, kind, seed):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((rows, 2 * classes), np.float32)
    logits = logits[:, ::2] if kind == "stepped" else logits[:, :classes].copy()
    uniform = rng.random(rows)
    if kind == "single":
        uniform = rng.random(rows, np.float32)
    before = logits.copy()
    options = Options(temperature, top_k, top_p)
    tokens = sampling.forward(logits, uniform, options)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == reference_sampling.forward(logits, uniform, options).tolist()
    np.testing.assert_array_equal(logits, before)


def test_rows_do_not_depend_on_each_other():
    rng = np.random.default_rng(0)
    logits, uniform = rng.standard_normal((50, 65), np.float32), rng.random(50)
    for each in ((0.8, None, None), (0.8, 10, None), (0.8, None, 0.7), (0.8, 20, 0.7)):
        options = Options(*each)
        tokens = sampling.forward(logits, uniform, options)
        alone = [
            sampling.forward(logits[i : i + 1], uniform[i : i + 1], options)[0] for i in range(50)
        ]
        assert tokens.tolist() == alone
        assert len(set(alone)) > 5


def test_equals_at_the_edge_of_top_k_are_all_kept():
    logits = np.array([[0.0, -0.0, -5.0, -5.0, 0.0]], np.float32).repeat(3, axis=0)
    uniform = np.array([0.1, 0.5, 0.9])
    assert sampling.forward(logits, uniform, Options(1.0, 2)).tolist() == [0, 1, 4]


def test_of_equals_top_p_keeps_the_first():
    logits = np.zeros((4, 8), np.float32)
    logits[:, 1] = -1
    uniform = np.array([0.0, 0.3, 0.6, 1 - 2.0**-53])
    assert sampling.forward(logits, uniform, Options(1.0, None, 0.4)).tolist() == [0, 0, 2, 3]


@pytest.mark.parametrize(("top_p", "last"), [(1e-300, 0), (0.25, 0), (0.26, 1), (0.75, 2), (1, 3)])
def test_top_p_stops_where_it_is_reached(top_p, last):
    logits = np.zeros((1, 4), np.float32)
    assert sampling.forward(
        logits, np.array([1 - 2.0**-53]), Options(1.0, None, top_p)
    ).tolist() == [last]


@pytest.mark.parametrize("top_p", [None, 0.999])
def test_the_largest_and_the_least_number_give_a_possible_class(top_p):
    logits = np.random.default_rng(0).standard_normal((20, 300), np.float32)
    logits[:, 200:] = logits[:, :3] = -np.inf
    largest = np.full(20, 1 - 2.0**-53)
    assert (sampling.forward(logits, largest, Options(1.0, None, top_p)) < 200).all()
    assert (sampling.forward(logits, largest, Options(1.0, None, top_p)) > 150).all()
    assert (sampling.forward(logits, np.zeros(20), Options(1.0, None, top_p)) >= 3).all()
    assert (sampling.forward(logits, np.zeros(20), Options(1.0, None, top_p)) < 50).all()


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-9])
@pytest.mark.parametrize("top_p", [None, 0.5])
def test_temperature_near_0_takes_the_likeliest(temperature, top_p):
    logits = np.array([[1, 7, -2, 7.001], [3, 3, 2, 1]], np.float32)
    tokens = sampling.forward(logits, np.array([0.3, 0.4]), Options(temperature, None, top_p))
    assert tokens.tolist() == [3, 0]


@pytest.mark.parametrize(
    "row",
    [[0, np.nan, 1], [np.nan, 0, 0], [0, 1, np.inf], [-np.inf] * 3, [np.nan] * 3, [np.nan, np.inf]],
)
@pytest.mark.parametrize("options", [(1.0,), (0.5, 2), (0.5, None, 0.5), (0.5, 1, 0.5), (0.0,)])
def test_a_row_without_probabilities_has_the_token_minus_1(row, options):
    width = len(row)
    logits = np.array([[0] * width, row, [0] * width], np.float32)
    tokens = sampling.forward(logits, np.full(3, 0.2), Options(*options))
    assert tokens.tolist() == [0, -1, 0]


def test_double_precision_is_not_rounded():
    logits = np.array([[0.0, 1e-12, -1e-12]])
    assert sampling.forward(logits, np.zeros(1), Options(0.0)).tolist() == [1]
    assert sampling.forward(logits, np.array([0.9]), Options(1.0, 1)).tolist() == [1]
