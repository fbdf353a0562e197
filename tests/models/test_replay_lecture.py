"""The lecture's notebook as a script: what it shows, in which order, and the published digits."""

import numpy as np
import pytest

from tinygrad_char.models import lecture
from tinygrad_char.models.lecture import Choices, walk
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.nn import LayerNorm
from tinygrad_char.optim import Adam, AdamW
from tinygrad_char.tensor import Tensor
from tinygrad_char.torch_random import TorchGenerator

TEXT = "hii there, The quick brown fox jumps over the lazy dog.\n" * 30
SHORT = Choices(lengths=(2, 3), rates=(1e-2, 1e-3), samples=(7, 11))


def shown(part, *arguments):
    """Return what a part of the walk shows."""
    results = []

    def show(*values):
        results.append(values[0] if len(values) == 1 else values)

    part(*arguments, show)
    return results


def shown_bigram(text=TEXT, choices=SHORT):
    tokenizer = CharTokenizer.from_text(text)
    return shown(lecture.show_bigram, tokenizer.encode(text), tokenizer, choices)


def test_the_walk_shows_all_results_in_the_order_of_the_lecture():
    tokenizer = CharTokenizer.from_text(TEXT)
    train = tokenizer.encode(TEXT)[: int(0.9 * len(TEXT))]
    expected = [
        *shown(lecture.show_text, TEXT, tokenizer),
        f"part for training: {len(train) / len(TEXT)}",
        *shown(lecture.show_contexts, train),
        *shown(lecture.show_batch, train, 42),
        *shown(lecture.show_bigram, train, tokenizer, Choices(42, lengths=(2,))),
        *shown(lecture.show_products),
        *shown(lecture.show_averaging, 42),
        *shown(lecture.show_head, 42),
        *shown(lecture.show_variance, 42),
        *shown(lecture.show_sharpening),
        *shown(lecture.show_normalization, 42),
    ]
    ours = shown(walk, TEXT, Choices(42, lengths=(2,)))
    assert list(map(str, ours)) == list(map(str, expected))


def test_the_text_is_shown_as_characters_and_numbers():
    tokenizer = CharTokenizer.from_text(TEXT)
    length, start, characters, size, *rest = shown(lecture.show_text, TEXT, tokenizer)
    assert length == f"length of the text in characters: {len(TEXT)}"
    assert start == TEXT[:100]
    assert "".join(characters) == "".join(sorted(set(TEXT)))
    assert size == len(set(TEXT))
    numbers, greeting, encoded = rest
    assert (tokenizer.decode(numbers), greeting) == ("hii there", "hii there")
    assert tokenizer.decode(encoded) == TEXT[:100]


def test_a_text_that_lacks_the_greeting_s_characters_is_shown_without_it():
    text = "abc" * 40
    assert len(shown(lecture.show_text, text, CharTokenizer.from_text(text))) == 5


def test_every_window_of_a_batch_is_shown_with_its_targets():
    train = np.arange(1000)
    name, shape, x, name_of_targets, _, y, *pairs = shown(lecture.show_batch, train, 1337)
    assert (name, name_of_targets, shape) == ("inputs:", "targets:", (4, 8))
    assert np.array_equal(y, x + 1)
    assert len(pairs) == 32
    assert pairs[-1] == f"when input is {list(range(x[3, 0], x[3, 0] + 8))} the target: {y[3, 7]}"


def test_the_bigram_shows_losses_and_samples():
    shape, untrained, before, *losses, after = shown_bigram()
    assert shape == (32, len(set(TEXT)))
    assert len(losses) == 2
    assert all(isinstance(each, float) and 2 < each < 6 for each in (untrained, *losses))
    assert (len(before), len(after)) == (8, 12)


@pytest.mark.parametrize("build", ["default", "mkl", "cuda"])
def test_only_what_is_drawn_differs_between_builds(build):
    ours = shown_bigram(choices=Choices(build=build, lengths=(1,)))
    other = shown_bigram(choices=Choices(build="mkl" if build != "mkl" else "cuda", lengths=(1,)))
    assert ours[:2] == other[:2]
    assert ours[2] != other[2]


def test_every_choice_counts():
    first = shown_bigram()
    for other in (
        Choices(42, lengths=(2, 3), rates=(1e-2, 1e-3), samples=(7, 11)),
        Choices(optimizer=Adam, lengths=(2, 3), rates=(1e-2, 1e-3), samples=(7, 11)),
        Choices(lengths=(3, 2), rates=(1e-2, 1e-3), samples=(7, 11)),
        Choices(lengths=(2, 3), rates=(1e-3, 1e-2), samples=(7, 11)),
        Choices(lengths=(2, 3), rates=(1e-2, 1e-3), samples=(8, 11)),
    ):
        assert shown_bigram(choices=other)[3:-1] != first[3:-1]
    assert shown_bigram(TEXT.removesuffix("\n"))[3:] != first[3:]
    assert shown_bigram() == first


def test_one_rate_serves_all_lengths():
    one, two = (Choices(lengths=(2, 3), rates=rates) for rates in ((1e-2,), (1e-2, 1e-2)))
    assert shown_bigram(choices=one) == shown_bigram(choices=two)
    assert shown_bigram(choices=Choices(lengths=(2, 3)))[3:] != shown_bigram(choices=one)[3:]


def test_rates_that_fit_no_length_are_refused():
    with pytest.raises(ValueError, match="one rate, or one for each length"):
        Choices(lengths=(1, 2, 3), rates=(1e-3, 1e-4))


def test_the_toy_product_is_the_lecture_s():
    _, a, _, b, _, c = shown(lecture.show_products)
    assert a.tolist() == np.float32([[1, 0, 0], [0.5, 0.5, 0], [0.3333, 0.3333, 0.3333]]).tolist()
    assert b.tolist() == [[2, 7], [6, 4], [6, 5]]
    assert c.tolist() == np.float32([[2, 7], [4, 5.5], [4.6667, 5.3333]]).tolist()


@pytest.mark.parametrize("seed", [1337, 42, 7])
def test_the_four_averages_agree(seed):
    shape, x, first, *versions = shown(lecture.show_averaging, seed)
    assert shape == (4, 8, 2)
    means = np.cumsum(x.astype(np.float64), axis=0) / np.arange(1, 9)[:, None]
    np.testing.assert_allclose(first, means, rtol=0, atol=1e-6)
    assert versions == [
        ("average_divided", True),
        ("average_product", True),
        ("average_softmax", True),
    ]


def test_an_average_that_sees_the_future_does_not_agree(monkeypatch):
    monkeypatch.setattr(lecture, "average_product", lambda x: x.mean(1, keepdims=True) + 0 * x)
    assert [equal for _, equal in shown(lecture.show_averaging, 1337)[3:]] == [True, False, True]


def test_one_head_is_the_lecture_s():
    shape, weights, *variances = shown(lecture.show_head, 1337)
    assert shape == (4, 8, 16)
    assert weights[1, :2].tolist() == np.float32([0.1574, 0.8426]).tolist()
    assert (
        weights[7].tolist()
        == np.float32([0.0210, 0.0843, 0.0555, 0.2297, 0.0573, 0.0709, 0.2423, 0.2391]).tolist()
    )
    assert not np.triu(weights, 1).any()
    assert variances == [
        "variance of k: 1.0449",
        "variance of q: 1.0700",
        "variance of scaled scores: 1.0918",
    ]


def test_variances_are_the_published_ones():
    assert shown(lecture.show_variance, 1337) == [
        "q       mean   0.0021  var   0.9985  min   -3.7624  max   3.6271",
        "k       mean  -0.0129  var   1.0255  min   -3.4483  max   3.2046",
        "scores  mean  -0.0302  var  17.3386  min  -16.3490  max  13.1295",
        "scaled  mean  -0.0075  var   1.0837  min   -4.0872  max   3.2824",
    ]


def test_softmax_sharpens_as_in_the_lecture():
    diffuse, sharp = shown(lecture.show_sharpening)
    assert diffuse.tolist() == np.float32([0.1925, 0.1426, 0.2351, 0.1426, 0.2872]).tolist()
    assert sharp.tolist() == np.float32([0.0326, 0.0030, 0.1615, 0.0030, 0.8000]).tolist()


def test_normalization_is_the_lecture_s_and_the_engine_s():
    lines = shown(lecture.show_normalization, 1337)
    assert lines[0] == "LayerNorm (n - 1) column 0  mean  0.1469  std 0.8803"
    assert lines[1].endswith("std 1.0000")
    y = LayerNorm(100)(Tensor(TorchGenerator(1337).randn((32, 100)))).detach().numpy()
    mean, std = y[:, 0].mean(), y[:, 0].std(ddof=1)
    assert lines[2] == f"LayerNorm (n    ) column 0  mean {mean:7.4f}  std {std:6.4f}"
    assert lines[5] == "BatchNorm (n - 1) row 0     mean  0.0411  std 1.0431"
    assert [line.split()[0] for line in lines] == ["LayerNorm"] * 4 + ["BatchNorm"] * 4


def test_the_default_is_the_run_whose_digits_are_known():
    assert Choices() == Choices(1337, "default", AdamW, (10_000,), (1e-3,), (100, 500))
