"""Sampling in CUDA against its reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import BF16, DTYPES, draw
from served import served

from tinygrad_char.kernels import sampling as reference_sampling
from tinygrad_char.kernels.sampling import Options


def assert_chosen(tokens, logits, uniform, temperature, top_k):
    """Assert that each token's range of the running sum has the number, but for rounding."""
    lower = reference_sampling.forward(logits, uniform * (1 - 1e-5), Options(temperature, top_k))
    upper = reference_sampling.forward(
        logits, np.minimum(uniform * (1 + 1e-5), 1 - 1e-7), Options(temperature, top_k)
    )
    assert tokens.dtype == np.int64
    assert (lower <= tokens).all()
    assert (tokens <= upper).all()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 9),
    st.sampled_from([1, 2, 31, 65, 256, 257, 1000]),
    st.sampled_from(DTYPES),
    st.sampled_from([0.0, 0.01, 0.8, 1.0, 10.0]),
    st.sampled_from([None, 1, 2, 40, 5000]),
    st.integers(0, 1000),
)
def test_sampling_is_its_reference(launcher, rows, classes, dtype, temperature, top_k, seed):
    rng = np.random.default_rng(seed)
    logits = (3 * draw(rng, (rows, classes))).astype(dtype)
    uniform = rng.random(rows, dtype=np.float32)
    tokens = served("sampling", launcher).forward(logits, uniform, Options(temperature, top_k))
    assert_chosen(tokens, logits.astype(np.float32), uniform, temperature, top_k)


def test_equals_at_the_edge_of_top_k_are_all_kept(launcher):
    logits = np.array([[0.0, -0.0, -5.0, -5.0, 0.0]], np.float32)
    uniform = np.array([0.1, 0.5, 0.9], np.float32)
    tokens = served("sampling", launcher).forward(
        np.repeat(logits, 3, axis=0), uniform, Options(1.0, 2)
    )
    assert tokens.tolist() == [0, 1, 4]


def test_classes_are_chosen_as_often_as_they_are_likely(launcher):
    logits = np.log(np.array([[0.1, 0.2, 0.0, 0.7]], np.float32).clip(1e-30))
    uniform = (np.arange(1000, dtype=np.float32) + 0.5) / 1000
    tokens = served("sampling", launcher).forward(np.repeat(logits, 1000, axis=0), uniform)
    assert np.bincount(tokens).tolist() == [100, 200, 0, 700]


def test_largest_uniform_number_gives_a_possible_class(launcher):
    rng = np.random.default_rng(0)
    logits = draw(rng, (20, 300))
    logits[:, 200:] = -np.inf
    tokens = served("sampling", launcher).forward(logits, np.full(20, np.float32(1 - 2**-24)))
    assert (tokens < 200).all()
    assert (tokens > 150).all()


@pytest.mark.parametrize("row", [[0, np.nan, 1], [0, 1, np.inf], [-np.inf] * 3, [np.nan] * 3])
def test_a_row_without_probabilities_has_the_token_minus_1(launcher, row):
    logits = np.array([[0] * 3, row, [0] * 3], np.float32)
    uniform = np.full(3, 0.2, np.float32)
    for top_k in (None, 2):
        tokens = served("sampling", launcher).forward(logits, uniform, Options(1.0, top_k))
        assert tokens.tolist() == [0, -1, 0]


def test_top_p_is_the_references(launcher):
    logits, uniform = draw(np.random.default_rng(0), (9, 65)), np.linspace(0, 0.999, 9)
    tokens = served("sampling", launcher).forward(logits, uniform, Options(0.8, 30, 0.7))
    expected = reference_sampling.forward(logits, uniform, Options(0.8, 30, 0.7))
    assert tokens.tolist() == expected.tolist()
    assert (
        tokens.tolist()
        != served("sampling", launcher).forward(logits, uniform, Options(0.8, 30)).tolist()
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_check_mode_finds_nothing(checking_launcher, dtype):
    rng = np.random.default_rng(0)
    logits, uniform = draw(rng, (2, 300), dtype), rng.random(2, dtype=np.float32)
    for temperature, top_k in ((1.0, None), (1.0, 5), (0.0, None)):
        served("sampling", checking_launcher).forward(logits, uniform, Options(temperature, top_k))


def test_double_precision_is_the_references(launcher):
    logits = np.log(np.array([[1.0, 3.0]]))
    assert served("sampling", launcher).forward(logits, np.array([0.24])).tolist() == [0]
    assert served("sampling", launcher).forward(logits.astype(BF16), np.array([0.3])).tolist() == [
        1
    ]
