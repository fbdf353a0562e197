"""PyTorch's streams: values that it is known to draw, and what each call takes from the stream."""

import copy
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char import nn, torch_random
from tinygrad_char.bit_streams import MCG31, philox4x32
from tinygrad_char.float32_math import fma
from tinygrad_char.kernels import dropout
from tinygrad_char.random import Generator
from tinygrad_char.tensor import Tensor
from tinygrad_char.torch_random import TorchGenerator

BUILDS = ["default", "mkl", "cuda"]
SEEDS = (1337, 42)

INTEGERS = {
    "words": (
        lambda g: g.words(4),
        (1125387415, 2407456957, 681542492, 913057000),
        (1608637542, 3421126067, 4083286876, 787846414),
    ),
    "integers of one word": (
        lambda g: g.integers(0, 1003846, 4),
        (76049, 234249, 934904, 560986),
        (476250, 18899, 645194, 831150),
    ),
    "integers of two words": (
        lambda g: g.integers(0, 1 << 40, 3),
        (650947518653, 396050048232, 719592052185),
        (441507790259, 395924837646, 458615280711),
    ),
    "bernoulli, default": (
        lambda g: g.bernoulli(0.8, 12).astype(int),
        (1, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1),
        (1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1),
    ),
}

FLOAT_BITS = {
    "rand": (
        lambda g: g.rand(4),
        "3da064b8 3efdc17a 3f1f835c 3ed849d0",
        "3f61dc66 3f6a3db3 3ec406b8 3f75950e",
    ),
    "cosines of one group": (
        lambda g: g.randn(16)[:4],
        "3e391c30 bd8f55eb beb82092 bf6a4ad7",
        "3ff6a529 3fbe5f53 3f669567 c006c0db",
    ),
    "sines of one group": (
        lambda g: g.randn(16)[8:10],
        "3eb8e8ba 3f957d08",
        "bf408bf0 3fd3095b",
    ),
    "one group and one more": (
        lambda g: g.randn(17)[[0, 1, 16]],
        "3e391c30 be0efe3a 3e2a2bad",
        "3ff6a529 be236d85 be9e9482",
    ),
    "less than a group": (
        lambda g: g.randn(3),
        "c001a9db c004314c bf9a4954",
        "3eac62ae 3e03e69d 3e7016e7",
    ),
    "weight of a linear layer": (
        lambda g: nn.Linear(32, 16, generator=g).weight.detach().numpy()[0, :3],
        "be18aa5f bacb1fed 3d3243e0",
        "3e0a6571 3e163f5b bd29a1a3",
    ),
    "bias of a linear layer": (
        lambda g: nn.Linear(32, 16, generator=g).bias.detach().numpy()[:3],
        "3cbf0557 3e07baaa 3e218cc5",
        "3d615d81 be0a1838 bde513fa",
    ),
    "exponential, default": (
        lambda g: g.exponential(4),
        "3f7c24cf 4085ef7f 3f6c911b 3f923e4c",
        "3d756866 3d851234 3e071531 3d5d3caf",
    ),
}

EXPONENTIAL = {
    "mkl": (
        (0.6461694, 0.525362, 0.9972488, 1.6618553),
        (0.2889092, 0.3218276, 1.3194853, 0.8389049),
    ),
    "cuda": ((0.1575023, 0.5028747, 0.1229088), (0.4894558, 4.5993032, 0.9202644)),
}

CHOICES = {
    "default": ("75638787", "36477205"),
    "mkl": ("68267105", "05574788"),
    "cuda": ("29393842", "60961959"),
}


@pytest.mark.parametrize("case", INTEGERS.values(), ids=INTEGERS)
def test_known_integers(case):
    draw, *expected = case
    for seed, numbers in zip(SEEDS, expected, strict=True):
        assert tuple(draw(TorchGenerator(seed)).tolist()) == numbers


@pytest.mark.parametrize("case", FLOAT_BITS.values(), ids=FLOAT_BITS)
def test_known_bits_of_float32_numbers(case):
    draw, *expected = case
    for seed, bits in zip(SEEDS, expected, strict=True):
        values = draw(TorchGenerator(seed))
        assert values.dtype == np.float32
        assert [f"{each:08x}" for each in values.copy().view(np.uint32)] == bits.split()


@pytest.mark.parametrize("build", EXPONENTIAL)
def test_known_exponential_numbers(build):
    for seed, expected in zip(SEEDS, EXPONENTIAL[build], strict=True):
        values = TorchGenerator(seed, build).exponential(len(expected))
        # They are known to seven digits, and a float32 logarithm errs by a rounding.
        assert np.abs(values - expected).max() <= 5e-7


@pytest.mark.parametrize("build", CHOICES)
def test_known_choices_among_ten(build):
    for seed, expected in zip(SEEDS, CHOICES[build], strict=True):
        g = TorchGenerator(seed, build)
        drawn = [g.multinomial(np.full((1, 10), 0.1))[0] for _ in expected]
        assert drawn == [int(digit) for digit in expected]


def test_exponential_numbers_that_two_versions_of_pytorch_were_reported_to_draw():
    reported = {
        "default": [1.6459, 0.4294, 0.0677, 1.3809, 0.7803],
        "mkl": [0.5809, 0.0436, 2.0548, 1.9680, 0.3315],
    }
    for build, expected in reported.items():
        g = TorchGenerator(42, build)
        g.rand(5)
        assert g.exponential(5).round(4).astype(str).tolist() == [str(each) for each in expected]


def test_known_integers_of_mcg31():
    known = {
        1125387415: [1125387415, 1269895725, 792191526],
        1608637542: [1608637542, 1556545784, 573964002],
    }
    for seed, expected in known.items():
        assert np.rint(MCG31(seed).uniform(3) * MCG31.MODULUS).tolist() == expected
        single = MCG31(seed)
        assert [round(single.uniform(1)[0] * MCG31.MODULUS) for _ in range(3)] == expected


def test_known_words_of_philox():
    # From the authors' test vectors: key and counter 0.
    assert philox4x32(0, 0, 1)[0] == 0x6627E8D5


def test_mcg31_is_its_recurrence_and_never_stands_at_zero():
    for seed in (0, 1, MCG31.MODULUS, MCG31.MODULUS - 1, (1 << 32) - 1):
        state = seed % MCG31.MODULUS or 1
        expected = []
        for _ in range(40):
            expected.append(state)
            state = 1132489760 * state % (2**31 - 1)
        stream = MCG31(seed)
        drawn = np.concatenate([stream.uniform(count) for count in (3, 1, 0, 20, 16)])
        assert np.rint(drawn * MCG31.MODULUS).tolist() == expected


DRAWS = {
    "integers": lambda g, shape: g.integers(-7, 1000, shape),
    "wide integers": lambda g, shape: g.integers(-5, 1 << 40, shape),
    "rand": lambda g, shape: g.rand(shape),
    "rand float64": lambda g, shape: g.rand(shape, np.float64),
    "uniform": lambda g, shape: g.uniform(-0.3, 1.7, shape),
    "randn": lambda g, shape: g.randn(shape),
    "randn float64": lambda g, shape: g.randn(shape, np.float64),
    "normal": lambda g, shape: g.normal(0.7, 0.3, shape),
    "normal float64": lambda g, shape: g.normal(0.7, 0.3, shape, np.float64),
    "exponential": lambda g, shape: g.exponential(shape, 1.7),
    "bernoulli": lambda g, shape: g.bernoulli(0.3, shape),
    "dropout mask": lambda g, shape: g.dropout_key().keep_mask(shape, 0.2, 0),
}
SHAPES = [(0,), (1,), (15,), (16,), (17,), (31,), (32,), (33,), (2, 3, 7), (4, 0, 5), (1, 1)]
seeds = st.integers(0, 2**64 - 1) | st.integers(0, 2**32 - 1)
builds = st.sampled_from(BUILDS)


def rest(generator):
    """Return what a generator draws next: its words, its second normal number, its GPU's word."""
    return generator.rand(3).tolist(), generator.randn().item(), generator.exponential(2).tolist()


@settings(deadline=None, max_examples=60)
@given(
    seed=seeds,
    build=builds,
    exact=st.booleans(),
    before=st.lists(st.tuples(st.sampled_from(sorted(DRAWS)), st.sampled_from(SHAPES)), max_size=6),
)
def test_a_state_goes_through_json(seed, build, exact, before):
    original = TorchGenerator(seed, build, exact=exact)
    for name, shape in before:
        DRAWS[name](original, shape)
    state = json.loads(json.dumps(original.get_state()))
    restored = TorchGenerator(5)
    restored.set_state(state)
    assert (restored.seed, restored.build, restored.exact) == (seed, build, exact)
    for name, draw in DRAWS.items():
        assert draw(restored, (17,)).tobytes() == draw(original, (17,)).tobytes(), name
    assert rest(restored) == rest(original)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", DRAWS)
def test_nothing_is_drawn_for_an_empty_shape(name, build):
    g = TorchGenerator(3, build)
    values = DRAWS[name](g, (2, 0))
    assert values.shape == (2, 0)
    assert rest(g) == rest(TorchGenerator(3, build))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", DRAWS)
def test_a_shape_is_filled_row_by_row(name, build):
    flat, shaped = (DRAWS[name](TorchGenerator(3, build), shape) for shape in ((24,), (2, 3, 4)))
    assert shaped.shape == (2, 3, 4)
    assert shaped.dtype == flat.dtype
    np.testing.assert_array_equal(shaped.reshape(-1), flat)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", DRAWS)
def test_numbers_made_in_parts_are_those_made_at_once(monkeypatch, name, build):
    whole = DRAWS[name](TorchGenerator(3, build), (83,))
    monkeypatch.setattr(torch_random, "CHUNK", 16)
    g = TorchGenerator(3, build)
    np.testing.assert_array_equal(DRAWS[name](g, (83,)), whole)


@pytest.mark.parametrize("name", [each for each in DRAWS if each != "dropout mask"])
def test_without_a_shape_comes_one_number(name):
    value = DRAWS[name](TorchGenerator(3), None)
    assert np.ndim(value) == 0
    assert value == DRAWS[name](TorchGenerator(3), (1,))[0]


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_the_twister_takes_the_low_32_bits_of_a_seed(seed):
    low = TorchGenerator(seed & 0xFFFFFFFF)
    np.testing.assert_array_equal(TorchGenerator(seed).words(5), low.words(5))


def test_a_gpu_takes_all_64_bits_of_a_seed():
    low, high = (TorchGenerator(seed, "cuda").exponential(3) for seed in (7, 7 + (1 << 32)))
    assert (low != high).all()


@pytest.mark.parametrize("build", BUILDS)
def test_seeding_again_starts_again(build):
    g = TorchGenerator(8, build)
    expected = rest(g)
    g.randn(3)
    assert g.manual_seed(8) is g
    assert rest(g) == expected


@pytest.mark.parametrize("between", ["rand", "randn of 16", "exponential"])
def test_the_second_normal_number_waits(between):
    g = TorchGenerator(1)
    pair = TorchGenerator(1).randn(2)
    assert g.randn() == pair[0]
    {"rand": g.rand, "randn of 16": lambda: g.randn(16), "exponential": g.exponential}[between]()
    assert g.randn() == pair[1]


@pytest.mark.parametrize(
    ("build", "words"), [("default", 2 * 65), ("mkl", 1), ("cuda", 0)], ids=BUILDS
)
def test_words_that_a_choice_takes(build, words):
    g, other = TorchGenerator(9, build), TorchGenerator(9)
    g.multinomial(np.ones((1, 65)))
    other.words(words)
    np.testing.assert_array_equal(g.words(4), other.words(4))


@pytest.mark.parametrize(
    ("count", "words"), [(15, 32), (16, 16), (17, 33), (32, 32), (4225, 4241), (2080, 2080)]
)
def test_words_that_normal_numbers_take(count, words):
    g, other = TorchGenerator(9), TorchGenerator(9)
    g.randn(count)
    other.words(words)
    np.testing.assert_array_equal(g.words(4), other.words(4))


def test_plain_normal_numbers_take_the_same_words_and_differ_in_the_last_bits():
    exact, plain = TorchGenerator(2), TorchGenerator(2, exact=False)
    for shape in ((3,), (100_003,)):
        a, b = exact.randn(shape), plain.randn(shape)
        assert b.dtype == np.float32
        assert np.abs(a - b).max() <= 5e-7
    np.testing.assert_array_equal(exact.words(4), plain.words(4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("size", [10_000, 8])
def test_normal_numbers_have_their_mean_and_deviation(dtype, exact, size):
    g = TorchGenerator(4, exact=exact)
    values = np.concatenate([g.normal(3, 0.5, size, dtype) for _ in range(10_000 // size)])
    assert values.dtype == dtype
    assert abs(values.mean() - 3) < 5 * 0.5 / math.sqrt(len(values))
    assert abs(values.std() - 0.5) < 5 * 0.5 / math.sqrt(2 * len(values))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("rate", [0.5, 1.0, 3.0])
def test_exponential_numbers_have_their_mean(build, rate):
    values = TorchGenerator(4, build).exponential(20_000, rate).astype(np.float64)
    assert (values >= 0).all()
    assert abs(values.mean() * rate - 1) < 5 / math.sqrt(len(values))


def test_the_ends_of_what_a_gpu_draws(monkeypatch):
    ends = np.array([0, 1 << 31, (1 << 32) - 1], np.uint32)
    monkeypatch.setattr(torch_random, "philox4x32", lambda seed, offset, count: ends)
    values = TorchGenerator(0, "cuda").exponential(3)
    # 2^-33, a half, and 1, whose logarithm is replaced by -2^-24.
    assert values[2] == np.float32(2.0**-24)
    np.testing.assert_allclose(values[:2], [33 * math.log(2), math.log(2)], rtol=1e-6)


def test_exponential_numbers_of_mkl_are_never_subnormal():
    assert (TorchGenerator(0, "mkl").exponential(50, 1e38) >= np.finfo(np.float32).tiny).all()


@pytest.mark.parametrize("build", BUILDS)
def test_choices_come_with_their_probabilities(build):
    p = np.array([0.5, 0.2, 0.0, 0.3])
    drawn = TorchGenerator(4, build).multinomial(np.tile(3 * p, (20_000, 1)))
    counts = np.bincount(drawn, minlength=4)
    assert counts[2] == 0
    assert (np.abs(counts - 20_000 * p) <= 5 * np.sqrt(20_000 * p * (1 - p))).all()


def test_uniform_numbers_never_reach_the_upper_end():
    low, high = np.float32(1), np.nextafter(np.float32(1), np.float32(2))
    assert (TorchGenerator(0).uniform(low, high, 1000) == low).all()


@pytest.mark.parametrize("build", BUILDS)
def test_parts_of_a_dropout_call_are_one_mask(build):
    parts, whole = (TorchGenerator(6, build).dropout_key() for _ in range(2))
    sizes = {0: 4, 60: 1, 75: 2}
    masks = [parts.keep_mask((rows, 3, 5), 0.3, start) for start, rows in sizes.items()]
    np.testing.assert_array_equal(np.concatenate(masks), whole.keep_mask((7, 3, 5), 0.3, 0))


@pytest.mark.parametrize("build", BUILDS)
def test_backward_finds_the_masks_of_forward(build):
    g = TorchGenerator(6, build)
    key = g.dropout_key()
    masks = [key.keep_mask((4, 5), 0.3, number) for number in range(2)]
    g.words(7)
    for number in range(2):
        np.testing.assert_array_equal(key.keep_mask((4, 5), 0.3, number), masks[number])


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_of_nothing_and_of_everything_draws_nothing(p):
    g = TorchGenerator(6)
    x = np.array([1, -2, 3], np.float32)
    for result in (dropout.forward(x, p, g.dropout_key()), dropout.backward(x, p, g.dropout_key())):
        np.testing.assert_array_equal(result, x * (1 - p))
    assert rest(g) == rest(TorchGenerator(6))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", [0.1, 0.2, 0.3, 0.5])
def test_dropout_multiplies_by_the_mask_over_what_is_kept(dtype, p):
    x = np.random.default_rng(0).standard_normal(1000).astype(dtype)
    mask = TorchGenerator(6).bernoulli(1 - p, 1000).astype(dtype)
    expected = x * (mask / dtype(1 - p)) + 0  # what is dropped is 0, not -0
    key = TorchGenerator(6).dropout_key()
    for result in (dropout.forward(x, p, key), dropout.backward(x, p, key)):
        assert result.dtype == dtype
        assert result.tobytes() == expected.tobytes()


float32_numbers = st.floats(2.0**-20, 2.0**20, width=32) | st.integers(1, 1 << 24).map(
    lambda n: n * 2.0**-24
)
signs = st.sampled_from([-1.0, 1.0])


def nearest_float32(value):
    """Return the float32 number nearest to a fraction, the even one of two as near."""
    estimate = np.float32(float(value))
    candidates = [np.nextafter(estimate, np.float32(end)) for end in (-np.inf, np.inf)]
    return min(
        [estimate, *candidates],
        key=lambda each: (abs(Fraction(float(each)) - value), int(each.view(np.uint32)) & 1),
    )


@settings(deadline=None, max_examples=300)
@given(float32_numbers, float32_numbers, float32_numbers, signs, signs)
def test_fma_rounds_once(a, b, c, sign, other):
    a, c = sign * a, other * c
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    result = fma(np.array([a]), np.float64(b), np.float64(c))
    assert result.dtype == np.float32
    assert result[0] == nearest_float32(exact)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("even", [0, 1])
@pytest.mark.parametrize(
    "factors",
    [(2**16 - 1, 2**16 + 1), (2**16, 2**16), (641, 6700417)],
    ids=["below", "at", "above"],
)
def test_fma_where_float64_lands_midway_between_two_float32_numbers(factors, even, sign):
    a, b = (factor * 2.0**-28 for factor in factors)  # a * b = 2^-24 - 2^-56, 2^-24, 2^-24 + 2^-56
    c = 1 + even * 2.0**-23
    assert a * b + c == c + 2.0**-24
    result = fma(np.array([sign * a, 1.0]), np.float64(b), np.array([sign * c, 1.0]))
    assert result[0] == sign * nearest_float32(Fraction(a) * Fraction(b) + Fraction(c))
    assert result[1] == np.float32(b + 1)


def test_all_uses_are_one_stream():
    g = TorchGenerator(0)
    assert g.init is g.batches is g.dropout is g.sampling is g


def test_copies_of_a_layer_share_its_generator():
    g = TorchGenerator(0)
    layer = copy.deepcopy(nn.Dropout(0.5, generator=g))
    layer(Tensor(np.ones(4, np.float32)))
    assert g.words(1) != TorchGenerator(0).words(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TorchGenerator(0, "rocm"), "'rocm'.*default, mkl, cuda"),
        (lambda: TorchGenerator(-1), "seed -1"),
        (lambda: TorchGenerator(1 << 64), "seed 18446744073709551616"),
        (lambda: TorchGenerator(0.5), r"seed 0\.5"),
        (lambda: TorchGenerator(0).manual_seed("a"), "seed 'a'"),
        (lambda: TorchGenerator(0).integers(3, 3, 2), "from 3 to below 3"),
        (lambda: TorchGenerator(0).integers(4, 3, 2), "from 4 to below 3"),
        (lambda: TorchGenerator(0).integers(0, 1 << 63, 2), "within 64 bits"),
        (lambda: TorchGenerator(0).integers(0, 9, -1), "shape -1"),
        (lambda: TorchGenerator(0).rand((2, -3)), r"shape \(2, -3\)"),
        (lambda: TorchGenerator(0).words(-1), "shape -1"),
        (lambda: TorchGenerator(0).rand(2, np.float16), "float16.*float32 or float64"),
        (lambda: TorchGenerator(0).randn(2, np.int64), "int64.*float32 or float64"),
        (lambda: TorchGenerator(0).normal(0, -1, 2), "std -1"),
        (lambda: TorchGenerator(0).normal(0, math.nan, 2), "std nan"),
        (lambda: TorchGenerator(0).normal(math.inf, 1, 2), "mean inf"),
        (lambda: TorchGenerator(0).uniform(1, 0, 2), "from 1 to 0"),
        (lambda: TorchGenerator(0).exponential(2, 0), "rate 0"),
        (lambda: TorchGenerator(0).exponential(2, math.nan), "rate nan"),
        (lambda: TorchGenerator(0).bernoulli(1.5, 2), r"1\.5.*0 to 1"),
        (lambda: TorchGenerator(0).multinomial(np.ones(3)), r"\(3,\)"),
        (lambda: TorchGenerator(0).multinomial(np.array([[1.0], [0.0]])), "row 1"),
        (lambda: TorchGenerator(0).multinomial(np.array([[1.0, -0.1]])), "row 0"),
        (lambda: TorchGenerator(0).multinomial(np.array([[1.0, np.nan]])), "row 0"),
        (lambda: TorchGenerator(0).multinomial(np.array([[1.0, np.inf]])), "row 0"),
    ],
)
def test_what_cannot_be_drawn_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": [1, 2]}, r"\(2,\)"),
        ({"position": 625}, "625"),
        ({"position": -1}, "-1"),
        ({"build": "rocm"}, "'rocm'"),
        ({"seed": -3}, "seed -3"),
    ],
)
def test_a_state_that_is_none_is_refused(change, message):
    g = TorchGenerator(0)
    with pytest.raises(ValueError, match=message):
        g.set_state({**g.get_state(), **change})
    assert rest(g) == rest(TorchGenerator(0))


def test_the_state_of_another_generator_is_refused():
    with pytest.raises(ValueError, match="lacks build, exact, words, position"):
        TorchGenerator(0).set_state(Generator(0).get_state())
