"""Which versions of operations compute, as the user chooses: whom the choice reaches, and when."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_char as tg
from tinygrad_char import functional as F
from tinygrad_char import kernels, nn, parallel, using
from tinygrad_char.kernels import layernorm, operations
from tinygrad_char.kernels.backend import CPU, DeviceError, references
from tinygrad_char.kernels.operations import VersionError, current, parse
from tinygrad_char.parallel import Workers
from tinygrad_char.random import Generator
from tinygrad_char.repeated import RepeatedCall, RepeatedLoss
from tinygrad_char.step import why_on_tape

needs_c = pytest.mark.skipif(CPU.why_not_recorded is not None, reason="nothing is recorded")
BEST = CPU.version_of("layernorm")


class Counted:
    """The reference of an operation, with the calls counted by thread."""

    def __init__(self, module):
        self.forwards, self.backwards = [], []
        self.module = module

    def forward(self, *arguments, **options):
        self.forwards.append(threading.get_ident())
        return self.module.forward(*arguments, **options)

    def backward(self, *arguments, **options):
        self.backwards.append(threading.get_ident())
        return self.module.backward(*arguments, **options)


def counted():
    return Counted(operations.operations()["layernorm"].module("reference"))


def serving():
    """Return which version of layernorm serves here."""
    return CPU.chosen().version_of("layernorm")


def draw(*shape):
    return tg.tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def normalize(x):
    return F.layer_norm(x)


def test_it_is_one_function_under_two_names():
    assert using is kernels.using is operations.using


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["reference", "loops", "c", None]), max_size=5),
    st.integers(0, 5),
    st.booleans(),
)
def test_the_innermost_choice_holds_and_ends_with_its_context(names, deep, fails):
    def enter(rest, before):
        if not rest:
            if fails:
                raise KeyError(deep)
            return
        name = rest[0]
        with using(**({} if name is None else {"layernorm": name})):
            expected = before if name is None else name
            assert serving() == (BEST if expected == "c" else expected)
            try:
                enter(rest[1:], expected)
            finally:
                assert serving() == (BEST if expected == "c" else expected)

    if fails:
        with pytest.raises(KeyError):
            enter(names, BEST)
    else:
        enter(names, BEST)
    assert serving() == BEST
    assert current() is None


def test_operations_that_are_not_named_stay_as_they_are():
    with using(layernorm="loops"), using(attention="reference"):
        assert serving() == "loops"
        assert CPU.chosen().version_of("attention") == "reference"
        assert CPU.chosen().version_of("softmax") == CPU.version_of("softmax")


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"layernrm": "loops"}, r"no operation 'layernrm'; expected one of adamw, add, attention"),
        ({"layernorm": "loop"}, r"no version 'loop'; expected one of reference, loops, c, cuda"),
        ({"gelu": "loops"}, r"gelu has no version 'loops'; expected one of reference, c, cuda"),
        ({"layernorm": 3}, r"no version 3; .* or an object with functions of its reference"),
        ({"layernorm": SimpleNamespace(forwards=1)}, "or an object with functions"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_list(versions, message):
    with pytest.raises(VersionError, match=message), using(**versions):
        pytest.fail("it was taken")
    assert current() is None


@pytest.mark.parametrize("text", ["layernorm", "layernorm=", "=loops", ",", "layernorm=loops,x"])
def test_a_text_that_is_no_list_of_versions_is_refused(text):
    with pytest.raises(VersionError, match=r"expected one of|such as layernorm=loops"):
        parse(text)


def test_a_text_names_versions():
    assert parse("layernorm=loops, attention=reference,") == {
        "layernorm": "loops",
        "attention": "reference",
    }
    assert set(parse("reference").values()) == {"reference"}
    assert set(parse("reference")) == set(operations.operations())
    assert parse("") == parse("fused") == {}


def test_a_version_for_another_device_is_refused():
    with (
        using(layernorm="cuda"),
        pytest.raises(DeviceError, match=r"'cpu'; expected one of reference, loops, c$"),
    ):
        normalize(draw(2, 3))


def test_an_object_serves_and_what_it_does_not_the_reference_does():
    mine = SimpleNamespace(forward=lambda *arguments: NotImplemented)
    x = draw(2, 3)
    with using(layernorm=mine):
        assert serving() == "SimpleNamespace"
        found = normalize(x)
    expected = references().kernels[layernorm.forward](x.array, None, None)[0]
    np.testing.assert_array_equal(found.array, expected)


def test_backward_is_of_the_version_that_served_forward_wherever_it_runs():
    mine, x = counted(), draw(4, 3).requires_grad_()
    with using(layernorm=mine):
        y = normalize(x)
    assert (len(mine.forwards), len(mine.backwards)) == (1, 0)
    with using(layernorm="loops"):
        y.backward(np.ones((4, 3), np.float32))
    assert (len(mine.forwards), len(mine.backwards)) == (1, 1)
    z = normalize(x)
    with using(layernorm=mine):
        z.backward(np.ones((4, 3), np.float32))
    assert (len(mine.forwards), len(mine.backwards)) == (1, 1)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_choice_reaches_the_threads_of_workers(threads):
    mine, model = counted(), nn.LayerNorm(3)
    shards = [draw(2, 3) for _ in range(6)]
    workers, stream = Workers(threads), Generator(0).dropout

    def backward():
        return parallel.backward(
            lambda x: (model(x) ** 2).sum(),
            shards,
            [1.0] * len(shards),
            list(model.parameters()),
            workers=workers,
            dropout=stream,
        )

    expected = backward()
    with using(layernorm=mine):
        found = backward()
    assert len(mine.forwards) == len(mine.backwards) == len(shards)
    assert (threading.get_ident() in mine.forwards) == (threads == 1)
    assert found == pytest.approx(expected, rel=1e-6)
    backward()
    assert len(mine.forwards) == len(shards)


def test_two_threads_have_their_own_choices():
    names, found = ["reference", "loops"] * 4, {}
    together = threading.Barrier(len(names))

    def work(position, name):
        for _ in range(20):
            with using(layernorm=name):
                together.wait(10)
                found.setdefault(position, set()).add(serving())
                normalize(draw(2, 3))
            together.wait(10)
            found[position].add(f"after {serving()}")

    threads = [threading.Thread(target=work, args=each) for each in enumerate(names)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert found == {place: {name, f"after {BEST}"} for place, name in enumerate(names)}


class Made:
    """A model, and its loss traced."""

    def __init__(self):
        generator = Generator(0)
        self.model = nn.Sequential(
            nn.Embedding(11, 8, generator=generator),
            nn.CausalSelfAttention(8, 2, generator=generator),
            nn.LayerNorm(8),
            nn.Linear(8, 11, generator=generator),
        )
        self.leaves = list(self.model.parameters())
        self.traced = RepeatedLoss(self.loss, self.leaves, generator.dropout)

    def loss(self, batch):
        x, y = batch
        return F.cross_entropy(self.model(x), y)


def batches(count, shape=(3, 5)):
    rng = np.random.default_rng(1)
    return [tuple(rng.integers(0, 11, (2, *shape))) for _ in range(count)]


def same(one, other):
    assert one[0] == other[0]
    for a, b in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from(["", "reference", "loops"]), min_size=8, max_size=14))
def test_a_step_recorded_under_one_choice_is_not_repeated_under_another(names):
    made, plain = Made(), Made()
    plain.traced.reason = "the tape is what is compared with"
    for name, batch in zip(names, batches(len(names)), strict=True):
        with using(parse(name and f"layernorm={name},attention={name}")):
            same(made.traced.gradients(batch, 1.0), plain.traced.gradients(batch, 1.0))
    assert made.traced.reason is None


def test_what_is_repeated_is_computed_by_the_versions_of_the_context():
    made, mine = Made(), counted()
    for batch in batches(6):
        made.traced.gradients(batch, 1.0)
    for batch in batches(3):
        with using(layernorm=mine):
            made.traced.gradients(batch, 1.0)
    assert len(mine.forwards) == len(mine.backwards) == 3
    made.traced.gradients(batches(1)[0], 1.0)
    assert len(mine.forwards) == 3


@pytest.mark.parametrize("version", ["loops", "object"])
def test_python_code_runs_by_the_tape_with_the_loss_of_recorded_steps_to_rounding(version):
    made, other, mine = Made(), Made(), counted()
    for batch in batches(7):
        found = made.traced.gradients(batch, 1.0)
        before = len(mine.forwards)
        with using(layernorm="loops" if version == "loops" else mine, attention="loops"):
            served = other.traced.gradients(batch, 1.0)
        assert len(mine.forwards) - before == (version == "object")
        assert served[0] == pytest.approx(found[0], rel=1e-6)
        for one, two in zip(served[1], found[1], strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    assert not any(each for key, each in other.traced._idle.items())


@needs_c
def test_a_module_with_versions_of_its_own_is_not_repeated_and_says_why():
    made = Made()
    made.model.settings = operations.Settings((("layernorm", "loops"),))
    for batch in batches(4):
        made.traced.gradients(batch, 1.0)
    assert made.traced.reason == "layernorm=loops is Python code, which nothing records"


@needs_c
def test_a_reference_among_kernels_in_c_is_not_recorded():
    made = Made()
    for batch in batches(8):
        with using(attention="reference"):
            made.traced.gradients(batch, 1.0)
            assert why_on_tape(CPU) == "attention=reference asked for, and not c"
    assert not any(made.traced._idle.values())


def test_a_call_is_recorded_anew_under_another_choice():
    mine = counted()
    call = RepeatedCall(normalize)
    arrays = [np.random.default_rng(i).standard_normal((2, 3)).astype(np.float32) for i in range(4)]
    for name in ("reference", mine, BEST, "loops", "reference"):
        with using(layernorm=name):
            for array in arrays:
                expected = CPU.chosen().kernels[layernorm.forward](array, None, None)[0]
                np.testing.assert_array_equal(call(array), expected)
    assert len(mine.forwards) == 2 * len(arrays)
    assert call.reason is None


def test_equal_choices_are_one_backend_and_the_choice_is_found_by_many_threads():
    with using(layernorm="loops"):
        first = CPU.chosen()
    mine = counted()
    with using(layernorm="loops"):
        assert CPU.chosen() is first
    with using(layernorm=mine):
        second = CPU.chosen()
    with using(layernorm=mine):
        assert CPU.chosen() is second
    with using(layernorm=counted()):
        assert CPU.chosen() is not second
