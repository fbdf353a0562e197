import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_char as tg
from tinygrad_char import nn
from tinygrad_char.random import STREAMS, Generator, Stream, default_generator, sampling_streams

PROBABILITIES = np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 1.0]])
DRAWS = {
    "uniform": lambda s: s.uniform(-1, 1, (3, 5)),
    "normal": lambda s: s.normal(0, 2, 7),
    "integers": lambda s: s.integers(0, 100, 9),
    "many integers": lambda s: s.integers(0, 1 << 60, 3),
    "one integer": lambda s: np.asarray(s.integers(0, 5)),
    "multinomial": lambda s: s.multinomial(PROBABILITIES),
    "fraction": lambda s: np.array(s.fraction()),
    "dropout_key": lambda s: np.array(s.dropout_key(), np.uint64),
}


def test_a_fraction_is_what_multinomial_compares_the_running_sum_with():
    one, other, third = Stream(5), Stream(5), Stream(5)
    for _ in range(50):
        fraction = one.fraction()
        assert 0 <= fraction < 1
        # the sum has to exceed it
        assert other.multinomial(np.array([[fraction, 1 - fraction]])).tolist() == [1]
        more = fraction + 2.0**-53
        assert third.multinomial(np.array([[more, 1 - more]])).tolist() == [0]
    assert one.get_state() == other.get_state() == third.get_state()


def numbers(generator):
    return {name: DRAWS["many integers"](getattr(generator, name)).tolist() for name in STREAMS}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("used", STREAMS)
def test_drawing_from_one_stream_leaves_the_others_alone(used, draw):
    touched, untouched = Generator(3), Generator(3)
    draw(getattr(touched, used))
    others = [name for name in STREAMS if name != used]
    assert [numbers(touched)[name] for name in others] == [
        numbers(untouched)[name] for name in others
    ]


def test_the_streams_of_one_seed_differ():
    drawn = numbers(Generator(0))
    assert len({tuple(each) for each in drawn.values()}) == len(STREAMS)
    assert len({getattr(Generator(0), name).dropout_key() for name in STREAMS}) == len(STREAMS)


@given(st.integers(0, 2**64 - 1), st.lists(st.sampled_from(sorted(DRAWS)), max_size=8))
@settings(deadline=None, max_examples=40)
def test_a_restored_state_goes_on_with_the_same_bits(seed, before):
    original = Generator(seed)
    for name in before:
        for stream in STREAMS:
            DRAWS[name](getattr(original, stream))
    state = json.loads(json.dumps(original.get_state()))
    restored = Generator(99)
    restored.set_state(state)
    assert restored.seed == seed
    for stream in STREAMS:
        for draw in [*DRAWS.values(), *DRAWS.values()]:
            left, right = draw(getattr(original, stream)), draw(getattr(restored, stream))
            assert left.dtype == right.dtype
            assert left.tobytes() == right.tobytes()


def test_a_state_is_a_snapshot():
    generator = Generator(1)
    state = generator.get_state()
    first = numbers(generator)
    generator.set_state(state)
    assert numbers(generator) == first


def test_a_state_that_lacks_a_stream_is_refused():
    state = Generator(1).get_state()
    del state["batches"], state["seed"]
    with pytest.raises(ValueError, match="random state lacks seed, batches"):
        Generator(1).set_state(state)


def test_the_same_seed_gives_the_same_numbers_and_others_do_not():
    assert numbers(Generator(7)) == numbers(Generator(7))
    seeds = [0, 1, 2, 1 << 32, (1 << 64) - 1]
    first = {tuple(numbers(Generator(seed))["init"]) for seed in seeds}
    assert len(first) == len(seeds)


@pytest.mark.parametrize("seed", [-1, 1 << 64, 1.0, "1", None, True, np.float32(1)])
def test_a_bad_seed_is_refused(seed):
    for use in (Generator, tg.manual_seed, lambda seed: sampling_streams(seed, 1)):
        with pytest.raises(ValueError, match="expected an integer from 0 to"):
            use(seed)


def test_numpy_s_integers_are_seeds():
    assert numbers(Generator(np.int64(5))) == numbers(Generator(5))


def test_sampling_streams_do_not_depend_on_how_many_there_are():
    three, five = sampling_streams(4, 3), sampling_streams(4, 5)
    drawn = [stream.integers(0, 1 << 60, 4).tolist() for stream in five]
    assert [stream.integers(0, 1 << 60, 4).tolist() for stream in three] == drawn[:3]
    assert len({tuple(each) for each in drawn}) == 5


class TestDistributions:
    def test_uniform(self):
        values = Stream(0, 0).uniform(-3, 5, 200_000)
        assert values.dtype == np.float32
        assert -3 <= values.min() < -2.99
        assert 4.99 < values.max() <= 5
        assert values.mean() == pytest.approx(1, abs=5 * 8 / np.sqrt(12 * 200_000))
        assert values.std() == pytest.approx(8 / np.sqrt(12), rel=0.01)

    def test_normal(self):
        values = Stream(0, 0).normal(2, 0.5, 200_000)
        assert values.dtype == np.float32
        assert values.mean() == pytest.approx(2, abs=5 * 0.5 / np.sqrt(200_000))
        assert values.std() == pytest.approx(0.5, rel=0.01)

    def test_integers(self):
        values = Stream(0, 0).integers(-2, 3, 100_000)
        assert values.dtype == np.int64
        counts = np.bincount(values + 2)
        assert len(counts) == 5
        assert abs(counts - 20_000).max() < 5 * np.sqrt(16_000)

    def test_shapes(self):
        stream = Stream(0, 0)
        assert stream.uniform(0, 1).shape == stream.normal(0, 1).shape == ()
        assert stream.uniform(0, 1, (2, 0)).shape == (2, 0)
        assert stream.integers(0, 2, (2, 3)).shape == (2, 3)


class TestMultinomial:
    def test_frequencies(self):
        weights = np.array([1.0, 0.0, 2.0, 5.0, 0.0, 2.0])
        drawn = Stream(0, 3).multinomial(np.tile(weights, (100_000, 1)))
        counts = np.bincount(drawn, minlength=6)
        expected = weights / 10 * 100_000
        assert (abs(counts - expected) <= 5 * np.sqrt(expected)).all()

    @given(st.integers(1, 40), st.data())
    @settings(deadline=None, max_examples=50)
    def test_a_class_without_probability_is_never_drawn(self, classes, data):
        rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
        weights = rng.random((200, classes)).astype(data.draw(st.sampled_from("fd")))
        weights *= rng.random((200, classes)) < 0.3
        weights[np.arange(200), rng.integers(0, classes, 200)] += 1e-6
        drawn = Stream(0, 3).multinomial(weights)
        assert (weights[np.arange(200), drawn] > 0).all()

    def test_one_hot_rows(self):
        assert Stream(0, 3).multinomial(np.eye(50)).tolist() == list(range(50))

    def test_the_extremes_of_the_uniform_number(self):
        class Fixed:
            def __init__(self, value):
                self.value = value

            def random(self, size):
                return np.full(size, self.value)

        stream = Stream(0, 3)
        weights = np.array([[0.0, 0.1, 0.2, 0.0], [0.0, 0.7, 0.0, 1e-30]])
        stream._numpy = Fixed(0.0)
        assert stream.multinomial(weights).tolist() == [1, 1]
        stream._numpy = Fixed(1 - 2**-53)
        assert stream.multinomial(weights).tolist() == [2, 1]

    def test_each_row_draws_for_itself(self):
        drawn = Stream(0, 3).multinomial(np.ones((64, 8)))
        assert len(set(drawn.tolist())) == 8

    def test_no_rows(self):
        assert Stream(0, 3).multinomial(np.ones((0, 4))).shape == (0,)

    @pytest.mark.parametrize(
        "row",
        [[0.0, 0.0], [0.5, np.nan], [np.inf, 1.0], [2.0, -1.0], []],
        ids=["zeros", "nan", "inf", "negative", "empty"],
    )
    def test_a_row_that_is_no_distribution_is_refused(self, row):
        weights = np.array([np.ones(len(row)), row])
        with pytest.raises(ValueError, match=r"multinomial: row [01] is .* expected finite"):
            Stream(0, 3).multinomial(weights)

    def test_one_axis_is_refused(self):
        with pytest.raises(ValueError, match=r"shape \(3,\), expected \(rows, classes\)"):
            Stream(0, 3).multinomial(np.ones(3))


class TestDefaultGenerator:
    @pytest.fixture(autouse=True)
    def _put_back(self):
        state = default_generator().get_state()
        yield
        default_generator().set_state(state)

    def test_manual_seed_decides_on_the_layers_made_after_it(self):
        def weights(seed):
            tg.manual_seed(seed)
            layers = [nn.Linear(3, 2), nn.Embedding(4, 2), nn.CausalSelfAttention(4, 2)]
            return [p.numpy().tobytes() for m in layers for p in m.state_dict().values()]

        assert weights(1) == weights(1)
        assert weights(1) != weights(2)

    def test_manual_seed_decides_on_the_masks_of_layers_made_before_it(self):
        layer, x = nn.Dropout(0.5), tg.Tensor(np.ones(100))
        first = tg.manual_seed(5)
        masks = [layer(x).numpy().tobytes() for _ in range(3)]
        assert tg.manual_seed(5) is first is default_generator()
        assert [layer(x).numpy().tobytes() for _ in range(3)] == masks
        assert len(set(masks)) == 3

    def test_layers_with_a_generator_of_their_own_leave_the_default_alone(self):
        before = default_generator().get_state()
        generator = Generator(0)
        layer = nn.SelfAttention(4, 2, dropout=0.5, generator=generator)
        layer(tg.Tensor(np.ones((1, 3, 4), np.float32)))
        nn.Dropout(0.5, generator=generator)(tg.Tensor(1.0))
        nn.Linear(2, 2, generator=generator)
        nn.Embedding(2, 2, generator=generator)
        assert default_generator().get_state() == before
