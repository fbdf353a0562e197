import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_char as tg
from tinygrad_char import functional as F
from tinygrad_char import nn, parallel
from tinygrad_char.autograd import Function
from tinygrad_char.checks import NonFiniteError
from tinygrad_char.kernels.add import reference as add
from tinygrad_char.kernels.backend import CPU, status
from tinygrad_char.kernels.cpu.extension import wanted
from tinygrad_char.kernels.operations import Settings
from tinygrad_char.modes import detect_nonfinite
from tinygrad_char.parallel import Workers
from tinygrad_char.random import Generator
from tinygrad_char.repeated import RepeatedCall, RepeatedLoss

RNG = np.random.default_rng(0)
needs_kernels = pytest.mark.skipif(wanted is None, reason=status())


class Made:
    """A model with its loss, plain and repeated, and its dropout."""

    def __init__(self, dropout=0.0, seed=0, dtype=np.float32):
        self.generator = Generator(seed)
        self.model = nn.Sequential(
            nn.Embedding(11, 8, generator=self.generator),
            nn.Dropout(dropout, generator=self.generator),
            nn.CausalSelfAttention(8, 2, dropout=dropout, generator=self.generator),
            nn.LayerNorm(8),
            nn.Linear(8, 11, generator=self.generator),
        ).astype(dtype)
        self.leaves = list(self.model.parameters())
        self.stream = self.generator.dropout
        self.repeated = RepeatedLoss(self.loss, self.leaves, self.stream)

    def loss(self, batch):
        x, y = batch
        return F.cross_entropy(self.model(x), y)


def draw(batch=3, length=5):
    return tuple(RNG.integers(0, 11, (2, batch, length)))


def on_tape(made, batch, weight):
    value = made.loss(batch)
    for each in made.leaves:
        each.grad = None
    value.backward(np.full((), weight, value.dtype))
    return weight * value.item(), [
        None if each.grad is None else each.grad.numpy() for each in made.leaves
    ]


def same(found, expected):
    assert found[0] == expected[0]
    for ours, theirs in zip(found[1], expected[1], strict=True):
        if theirs is None:
            assert ours is None
        else:
            assert ours.tobytes() == theirs.tobytes()


def count_applied(monkeypatch):
    counts = []
    before = Function.apply.__func__

    def apply(cls, *inputs, **options):
        counts.append(cls)
        return before(cls, *inputs, **options)

    monkeypatch.setattr(Function, "apply", classmethod(apply))
    return counts


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 4), st.floats(0.1, 2)), min_size=1, max_size=9
    ),
    st.sampled_from([0.0, 0.4]),
    st.sampled_from([np.float32, np.float64]),
)
def test_every_call_gives_the_bits_of_the_tape(calls, dropout, dtype):
    made, plain = Made(dropout, dtype=dtype), Made(dropout, dtype=dtype)
    for batch, length, weight in calls:
        arrays = draw(batch, length)
        same(made.repeated.gradients(arrays, weight), on_tape(plain, arrays, weight))
        assert made.stream.get_state() == plain.stream.get_state()
    if dtype == np.float32:
        assert made.repeated.reason is None


@pytest.mark.parametrize("order", ["<", ">"])
def test_batches_of_either_byte_order_are_repeated(order):
    made, other = Made(0.0), Made(0.0)
    for _ in range(6):
        batch = draw()
        found = made.repeated.gradients([each.astype(f"{order}i8") for each in batch], 0.5)
        same(found, on_tape(other, batch, 0.5))
    assert made.repeated.reason is None


@needs_kernels
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_from_the_fourth_call_on_nothing_is_put_on_the_tape(monkeypatch, dropout):
    made, plain = Made(dropout), Made(dropout)
    counts = count_applied(monkeypatch)
    applied = []
    for call in range(8):
        arrays, before = draw(), len(counts)
        found = made.repeated.gradients(arrays, 0.1 + call)
        applied.append(len(counts) - before)
        same(found, on_tape(plain, arrays, 0.1 + call))
        assert made.stream.get_state() == plain.stream.get_state()
    assert applied[0] == applied[1] == applied[2] > 0
    assert applied[3:] == [0] * 5
    assert made.repeated.reason is None


@needs_kernels
def test_results_are_kept_until_they_are_released():
    made, plain = Made(), Made()
    batches = [draw() for _ in range(9)]
    for batch in batches[:5]:
        made.repeated.gradients(batch, 1.0)
    computed = [made.repeated.compute(batch, 1.0) for batch in batches]
    for batch, each in zip(batches, computed, strict=True):
        same((each.loss, each.grads), on_tape(plain, batch, 1.0))
        each.release()


@needs_kernels
def test_recorded_gradients_follow_each_other_in_memory():
    made = Made()
    for _ in range(6):
        computed = made.repeated.compute(draw(), 1.0)
        computed.release()
    expected = np.concatenate([each.reshape(-1) for each in computed.grads])
    np.testing.assert_array_equal(computed.flat, expected)


@needs_kernels
def test_operations_that_no_kernel_serves_stay_on_the_tape(leaf):
    stream = Generator(0).dropout
    repeated = RepeatedLoss(lambda batch: (leaf * batch[0]).exp().sum(), [leaf], stream)
    for number in range(1, 6):
        x = np.full(3, number / 9, np.float32)
        _, (grad,) = repeated.gradients((x,), 1.0)
        np.testing.assert_array_equal(grad, np.exp(leaf.array * x) * x)
    assert "made otherwise" in repeated.reason


@needs_kernels
def test_what_cannot_be_recorded_draws_no_dropout_keys():
    def build():
        stream = Generator(0).dropout
        leaf = tg.tensor(np.ones((2, 3), np.float32)).requires_grad_()

        def loss(batch):
            dropped = F.dropout(leaf * batch[0], 0.5, key=stream.dropout_key())
            return dropped.exp().sum()

        return RepeatedLoss(loss, [leaf], stream), loss, leaf

    (repeated, _, _), (_, loss, leaf) = build(), build()
    for _ in range(5):
        x = RNG.standard_normal((2, 3)).astype(np.float32)
        found = repeated.gradients((x,), 1.0)
        expected = loss((tg.tensor(x),))
        assert found[0] == expected.item()
        np.testing.assert_array_equal(found[1][0], tg.grad(expected, [leaf])[0].numpy())
    assert repeated.reason is not None


@needs_kernels
def test_a_constant_made_from_the_data_is_not_recorded():
    """An array that operations make themselves would be the recording's for ever."""

    class Scaled(Function):
        def forward(self, x, weight):
            return CPU.kernels[add.forward](x + np.float32(0), weight)

        def backward(self, grad):
            return grad, grad

    leaf = tg.tensor(RNG.standard_normal((2, 3)).astype(np.float32)).requires_grad_()

    def loss(batch):
        x, y = batch
        return F.cross_entropy(Scaled.apply(x, leaf), y)

    repeated = RepeatedLoss(loss, [leaf], Generator(0).dropout)
    for _ in range(6):
        x = RNG.standard_normal((2, 3)).astype(np.float32)
        y = RNG.integers(0, 3, 2)
        found = repeated.gradients((x, y), 1.0)
        expected = loss((tg.tensor(x), tg.tensor(y)))
        assert found[0] == expected.item()
    assert "made otherwise" in repeated.reason


@needs_kernels
@pytest.mark.parametrize("call", [3, 4, 6])
def test_targets_that_are_ignored_are_seen_by_a_recording(call):
    made, plain = Made(), Made()
    for number in range(8):
        arrays = draw()
        if number == call:
            arrays[1][0, :2] = -100
        same(made.repeated.gradients(arrays, 1.0), on_tape(plain, arrays, 1.0))
    assert made.repeated.reason is None


@needs_kernels
def test_one_run_after_the_other_takes_no_more_memory():
    made = Made(0.2)
    for _ in range(6):
        made.repeated.gradients(draw(), 1.0)
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    batches = [draw() for _ in range(50)]
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot().filter_traces([arrays]).traces
        for batch in batches:
            made.repeated.compute(batch, 1.0).release()
        after = tracemalloc.take_snapshot().filter_traces([arrays]).traces
        assert (len(before), len(after)) == (0, 0)
    finally:
        tracemalloc.stop()


def test_changed_weights_are_seen_and_so_is_another_array_in_their_place():
    made, plain = Made(), Made()
    for step in range(12):
        arrays = draw()
        for each in (made, plain):
            each.leaves[0].data = each.leaves[0] * 0.5
            if step in (3, 7):
                each.leaves[2].array = each.leaves[2].array * 2
        same(made.repeated.gradients(arrays, 1.0), on_tape(plain, arrays, 1.0))


def test_a_leaf_that_the_loss_does_not_reach_has_no_gradient():
    used, unused = (tg.ones(3).requires_grad_() for _ in range(2))
    repeated = RepeatedLoss(
        lambda batch: (used * tg.tensor(2.0) * batch[0]).sum(),
        [used, unused],
        Generator(0).dropout,
    )
    for factor in (1, 2, 3):
        loss, (grad, none) = repeated.gradients((np.full(3, factor, np.float32),), 0.5)
        assert loss == 3 * factor
        np.testing.assert_array_equal(grad, np.full(3, factor, np.float32))
        assert none is None


def test_gradients_from_several_uses_of_a_leaf_and_of_a_result_add_up():
    leaf = tg.tensor(RNG.standard_normal(4).astype(np.float32)).requires_grad_()

    def loss(batch):
        y = leaf * batch[0]
        return (y * y + y * leaf + y.exp() * y).sum()

    repeated = RepeatedLoss(loss, [leaf], Generator(0).dropout)
    for _ in range(4):
        x = RNG.standard_normal(4).astype(np.float32)
        leaf.grad = None
        expected = loss((tg.tensor(x),))
        expected.backward()
        found = repeated.gradients((x,), 1.0)
        same(found, (expected.item(), [leaf.grad.numpy()]))


def as_tensor(each):
    return each if isinstance(each, tg.Tensor) else tg.tensor(each)


@pytest.fixture
def weight():
    return tg.tensor(RNG.standard_normal((2, 3)).astype(np.float32)).requires_grad_()


def reason_after(loss, leaves, *batches, calls=2):
    repeated = RepeatedLoss(loss, leaves, Generator(0).dropout)
    for batch in batches or [(RNG.standard_normal(3).astype(np.float32),) for _ in range(calls)]:
        expected = loss(tuple(tg.tensor(each) for each in batch))
        loss_found, (grad, *_) = repeated.gradients(batch, 1.0)
        assert loss_found == expected.item()
        (theirs,) = tg.grad(expected, [leaves[0]])
        np.testing.assert_array_equal(grad, theirs.numpy())
    return repeated.reason


@pytest.fixture
def leaf():
    return tg.tensor([1.0, -2.0, 3.0]).requires_grad_()


def rows(*values):
    return [(np.full((2, 3), value, np.float32), np.array([0, 2])) for value in values]


@needs_kernels
def test_a_choice_by_the_data_is_found_by_the_comparison(weight):
    def loss(batch):
        x, y = map(as_tensor, batch)
        return F.cross_entropy(x + (weight if x.sum().item() > 0 else weight + weight), y)

    reason = reason_after(loss, [weight], *rows(1, 2, -1, 1))
    assert reason == "its operations, repeated on another batch, gave other results"


@needs_kernels
def test_a_change_in_place_is_refused(leaf):
    seen = tg.zeros(3)

    def loss(batch):
        y = leaf * batch[0]
        seen.copy_(y.detach())
        return y.sum()

    assert reason_after(loss, [leaf]) == "a tensor is changed in place"


@needs_kernels
def test_hooks_are_refused_and_run(leaf):
    seen = []

    def loss(batch):
        y = leaf * batch[0]
        y.register_hook(lambda grad: seen.append(1))
        return y.sum()

    assert reason_after(loss, [leaf]) == "a result of multiply has hooks"
    assert len(seen) == 4


def test_hooks_of_leaves_see_the_gradient_of_repeated_operations(leaf):
    seen = []
    leaf.register_hook(lambda grad: seen.append(grad.numpy().copy()))
    stream = Generator(0).dropout
    repeated = RepeatedLoss(lambda batch: (leaf * batch[0]).sum(), [leaf], stream)
    batches = [(np.full(3, number, np.float32),) for number in range(4)]
    for batch in batches:
        leaf.grad = None
        parallel.backward(repeated, [batch], [1.0], [leaf], workers=Workers(1), dropout=stream)
    np.testing.assert_array_equal(seen, [batch[0] for batch in batches])


def test_nonfinite_values_are_named_after_the_loss_was_traced(leaf):
    repeated = RepeatedLoss(
        lambda batch: (leaf * batch[0]).log().sum(), [leaf], Generator(0).dropout
    )
    for _ in range(3):
        repeated.gradients((np.array([1, -1, 1], np.float32),), 1.0)
    with np.errstate(all="ignore"), detect_nonfinite(), pytest.raises(NonFiniteError, match="log"):
        repeated.gradients((np.array([1, 1, 0], np.float32),), 1.0)


def test_threads_repeat_side_by_side():
    made, plain = Made(0.2), Made(0.2)
    for _ in range(8):
        parts = [draw() for _ in range(6)]
        for each, loss in ((made, made.repeated), (plain, plain.loss)):
            for leaf in each.leaves:
                leaf.grad = None
            each.total = parallel.backward(
                loss,
                parts,
                [1 / 6] * 6,
                each.leaves,
                workers=Workers(3),
                dropout=each.stream,
            )
        assert made.total == plain.total
        assert made.stream.get_state() == plain.stream.get_state()
        for ours, theirs in zip(made.leaves, plain.leaves, strict=True):
            assert ours.grad.numpy().tobytes() == theirs.grad.numpy().tobytes()
    assert made.repeated.reason is None


@pytest.mark.parametrize("calls", [3, 5, 7])
def test_a_failure_leaves_the_next_call_right(calls):
    made, plain = Made(), Made()
    for _ in range(calls):
        arrays = draw()
        same(made.repeated.gradients(arrays, 1.0), on_tape(plain, arrays, 1.0))
    wrong = draw()
    wrong[0][0, 0] = 11
    with pytest.raises(IndexError, match="11"):
        made.repeated.gradients(wrong, 1.0)
    for _ in range(7):
        arrays = draw()
        same(made.repeated.gradients(arrays, 1.0), on_tape(plain, arrays, 1.0))


def test_tracing_is_of_one_thread(leaf):
    from tinygrad_char.autograd import tracing

    with tracing() as trace:
        thread = threading.Thread(target=lambda: leaf * 2)
        thread.start()
        thread.join()
        y = leaf * 3
    leaf * 4
    assert [operation.result for operation in trace.operations] == [y]


class Growing:
    """Attention of one position after the other to those that a cache holds."""

    def __init__(self):
        generator = Generator(3)
        self.embedding = nn.Embedding(7, 8, generator=generator)
        self.attention = nn.CausalSelfAttention(8, 2, generator=generator)
        self.cache = nn.KeyValueCache(20)
        self.calls = 0

    def __call__(self, idx):
        self.calls += 1
        return self.attention(self.embedding(idx), self.cache)


@needs_kernels
def test_a_call_with_a_cache_is_repeated_from_the_fourth_on():
    plain, repeated = Growing(), Growing()
    call = RepeatedCall(repeated, lambda: repeated.cache.arrays())
    for position in range(20):
        if position == 12:  # the cache's memory is filled again
            plain.cache.length = repeated.cache.length = 0
        idx = np.array([[position % 7], [1]])  # never the same twice in turn
        with tg.no_grad():
            expected = plain(tg.tensor(idx)).numpy()
        assert call(idx).tobytes() == expected.tobytes()
        assert repeated.cache.length == plain.cache.length
        end = plain.cache.length
        for name in ("keys", "values"):
            ours, theirs = (getattr(each.cache, name)[:, :, :end] for each in (repeated, plain))
            assert ours.tobytes() == theirs.tobytes()
        assert repeated.calls == min(position + 1, 3)
    assert call.reason is None


@needs_kernels
def test_convolutions_are_recorded_with_and_without_a_cache():
    generator = Generator(4)
    embedding, layer = nn.Embedding(7, 8, generator=generator), nn.CausalConvolution(8)
    model = nn.Sequential(embedding, layer, nn.Linear(8, 7, generator=generator))
    layer.weight.data = tg.tensor(RNG.standard_normal((4, 8)).astype(np.float32))
    loss = lambda batch: F.cross_entropy(model(batch[0]), batch[1])  # noqa: E731
    leaves = list(model.parameters())
    repeated = RepeatedLoss(loss, leaves, generator.dropout)
    plain = RepeatedLoss(loss, leaves, generator.dropout)
    plain.reason = "the tape is what is compared with"
    for _ in range(6):
        batch = tuple(RNG.integers(0, 7, (2, 3, 5)))
        same(repeated.gradients(batch, 1.0), plain.gradients(batch, 1.0))
    assert repeated.reason is None
    cache = nn.ConvolutionCache(4)
    call = RepeatedCall(lambda idx: layer(embedding(idx), cache), cache.arrays)
    idx = np.arange(16).reshape(1, 16) % 7
    with tg.no_grad():
        whole = layer(embedding(idx)).numpy()
    found = [call(idx[:, t : t + 1]) for t in range(16)]
    np.testing.assert_array_equal(np.concatenate(found, 1), whole)
    assert call.reason is None


@needs_kernels
def test_a_full_cache_stops_a_repeated_call_and_is_as_it_was():
    repeated = Growing()
    call = RepeatedCall(repeated, lambda: repeated.cache.arrays())
    for _ in range(20):
        call(RNG.integers(0, 7, (2, 1)))
    before = [each.tobytes() for each in repeated.cache.arrays()]
    with pytest.raises(ValueError, match="cache of 20 positions cannot hold 21"):
        call(RNG.integers(0, 7, (2, 1)))
    assert [each.tobytes() for each in repeated.cache.arrays()] == before


@needs_kernels
def test_a_call_on_another_cache_is_recorded_anew():
    plain, repeated = Growing(), Growing()
    call = RepeatedCall(repeated, lambda: repeated.cache.arrays())
    for position in range(18):
        if position % 6 == 0:
            plain.cache, repeated.cache = nn.KeyValueCache(7), nn.KeyValueCache(7)
        idx = RNG.integers(0, 7, (2, 1))
        with tg.no_grad():
            expected = plain(tg.tensor(idx)).numpy()
        assert call(idx).tobytes() == expected.tobytes()
    assert call.reason is None


@needs_kernels
def test_a_call_that_depends_on_more_than_its_arrays_is_made_itself():
    offsets = iter(range(9))
    repeated = RepeatedCall(lambda x: x + tg.full(2, float(next(offsets))))
    for offset in range(5):
        x = np.full(2, offset, np.float32)
        np.testing.assert_array_equal(repeated(x), [2 * offset] * 2)
    assert repeated.reason == "its operations, repeated on another batch, gave other results"


def test_a_call_names_what_is_not_finite_after_it_was_traced():
    repeated = RepeatedCall(lambda x: x.log())
    for _ in range(3):
        repeated(np.ones(2, np.float32))
    with np.errstate(all="ignore"), detect_nonfinite(), pytest.raises(NonFiniteError, match="log"):
        repeated(np.zeros(2, np.float32))


def test_a_leaf_that_is_frozen_later_has_no_gradient_any_more():
    made, plain = Made(), Made()
    for step in range(16):
        for each in (made, plain):
            each.leaves[2].requires_grad = not 6 <= step < 12
        arrays = draw()
        same(made.repeated.gradients(arrays, 1.0), on_tape(plain, arrays, 1.0))
    assert made.repeated.reason is None


@needs_kernels
def test_an_operation_after_the_loss_changes_nothing(weight):
    def loss(batch):
        x, y = map(as_tensor, batch)
        value = F.cross_entropy(x + weight, y)
        (weight * 2).exp()
        return value

    assert reason_after(loss, [weight], *rows(1, 2, 3, 4, 5, 6)) is None


@needs_kernels
def test_the_same_batch_again_proves_nothing(weight):
    """A number that is read from the batch is found out when it changes, not before."""

    def loss(batch):
        x, y = map(as_tensor, batch)
        largest = tg.tensor(abs(x.array).max() * np.arange(6, dtype=np.float32).reshape(2, 3))
        return F.cross_entropy(x + weight + largest, y)

    reason = reason_after(loss, [weight], *rows(2, 2, 2, 2, 2, 3, 4, 3))
    assert reason == "its operations, repeated on another batch, gave other results"


@needs_kernels
def test_a_batch_that_never_changes_is_computed_all_the_same():
    made, plain = Made(), Made()
    batch = draw()
    for _ in range(6):
        same(made.repeated.gradients(batch, 1.0), on_tape(plain, batch, 1.0))
    for _ in range(6):
        arrays = draw()
        same(made.repeated.gradients(arrays, 1.0), on_tape(plain, arrays, 1.0))
    assert made.repeated.reason is None


def drawn_rows(x=None, y=None):
    x = RNG.standard_normal((2, 3)).astype(np.float32) if x is None else x
    return x, RNG.integers(0, 3, 2) if y is None else y


def baked(weight):
    """A loss that adds what it reads from the first array, which a recording keeps."""
    steps = np.arange(6, dtype=np.float32).reshape(2, 3)

    def loss(batch):
        x, y = batch
        return F.cross_entropy(x + weight + tg.tensor(abs(x.array).max() * steps), y)

    return loss


@needs_kernels
@pytest.mark.parametrize("kind", ["equal", "not a number"])
def test_a_comparison_that_proves_nothing_is_made_again(weight, kind):
    loss = baked(weight)
    repeated = RepeatedLoss(loss, [weight], Generator(0).dropout)
    x = drawn_rows()[0]
    first = [drawn_rows(x), drawn_rows(x), drawn_rows(x), drawn_rows(x)]
    if kind == "not a number":
        first = [drawn_rows(), drawn_rows(), drawn_rows(np.full((2, 3), np.nan, np.float32))]
    for batch in (*first, *(drawn_rows() for _ in range(3))):
        found, _ = repeated.gradients(batch, 1.0)
        np.testing.assert_equal(found, loss(tuple(map(tg.tensor, batch))).item())
    assert repeated.reason == "its operations, repeated on another batch, gave other results"


@needs_kernels
def test_an_array_that_stays_the_same_is_compared_once_it_differs(weight, monkeypatch):
    loss = lambda batch: F.cross_entropy(batch[0] + weight, batch[1])  # noqa: E731
    repeated = RepeatedLoss(loss, [weight], Generator(0).dropout)
    y, counts = np.array([0, 2]), count_applied(monkeypatch)
    applied = []
    for number in range(8):
        batch = drawn_rows(None, y if number < 6 else 2 - y)
        before = len(counts)
        found, _ = repeated.gradients(batch, 1.0)
        applied.append(len(counts) > before)
        assert found == loss(tuple(map(tg.tensor, batch))).item()
    assert applied == [True, True, True, False, False, False, True, False]


@needs_kernels
def test_a_failed_call_is_no_other_batch():
    table = tg.tensor(RNG.standard_normal((11, 3)).astype(np.float32))

    def look_up(idx):
        return F.embedding(idx, table) + tg.full((6, 3), float(idx.array.sum()))

    call = RepeatedCall(look_up)
    one, two = np.arange(6), np.arange(6)[::-1].copy()
    call(two + 3)
    call(one)
    with pytest.raises(IndexError):
        call(np.full(6, 99))
    for each in (one, two, one + 2, one):
        np.testing.assert_array_equal(call(each), look_up(tg.tensor(each)).numpy())


def test_grad_mode_is_seen(weight):
    loss = lambda batch: F.cross_entropy(batch[0] + weight, batch[1])  # noqa: E731
    repeated = RepeatedLoss(loss, [weight], Generator(0).dropout)
    for enabled in (False, True, False):
        for _ in range(5):
            with tg.enable_grad() if enabled else tg.no_grad():
                _, (grad,) = repeated.gradients(drawn_rows(), 1.0)
            assert (grad is not None) == enabled
    assert repeated.reason is None or CPU.why_not_recorded


def changed_modules():
    def evaluate(model):
        model.eval()

    def replace_parameter(model):
        model[0].weight = nn.Parameter(model[0].weight * 2)

    def replace_part(model):
        model[1] = nn.Identity()

    def append(model):
        model.append(nn.Linear(3, 3, generator=Generator(9)))

    def settings(model):
        model[0].settings = Settings((("linear", "reference"),))

    return [evaluate, replace_parameter, replace_part, append, settings]


@pytest.mark.parametrize("change", changed_modules())
def test_changes_of_modules_are_seen(change):
    made = []
    for _ in range(2):
        generator = Generator(2)
        model = nn.Sequential(
            nn.Linear(3, 3, generator=generator), nn.Dropout(0.5, generator=generator)
        )
        leaves = list(model.parameters())
        loss = lambda batch, model=model: F.cross_entropy(model(batch[0]), batch[1])  # noqa: E731
        made.append((model, RepeatedLoss(loss, leaves, generator.dropout)))
    (model, repeated), (other, plain) = made
    plain.reason = "the tape is what is compared with"
    for number in range(12):
        if number == 6:
            change(model)
            change(other)
        batch = drawn_rows()
        same(repeated.gradients(batch, 1.0), plain.gradients(batch, 1.0))


def test_evaluation_mode_is_seen():
    generator = Generator(2)
    model = nn.Sequential(
        nn.Linear(3, 3, generator=generator), nn.Dropout(0.5, generator=generator)
    )
    loss = lambda batch: F.cross_entropy(model(batch[0]), batch[1])  # noqa: E731
    repeated = RepeatedLoss(loss, list(model.parameters()), generator.dropout)
    for _ in range(5):
        repeated.gradients(drawn_rows(), 1.0)
    for _ in range(2):
        with nn.EvaluationMode(model).active():
            batch = drawn_rows()
            assert repeated.gradients(batch, 1.0)[0] == loss(tuple(map(tg.tensor, batch))).item()


def test_threads_may_share_a_call():
    table = tg.tensor(RNG.standard_normal((11, 300)).astype(np.float32))
    call = RepeatedCall(lambda idx: F.embedding(idx, table))
    batches = [RNG.integers(0, 11, 40) for _ in range(60)]
    for _ in range(3):
        for found, idx in zip(Workers(4).map(call, batches), batches, strict=True):
            np.testing.assert_array_equal(found, table.array[idx])


@needs_kernels
def test_kernels_that_find_something_else_each_time_are_given_up():
    made, plain = Made(), Made()
    for number in range(20):
        arrays = draw()
        arrays[1].reshape(-1)[: number % 5] = -100
        same(made.repeated.gradients(arrays, 1.0), on_tape(plain, arrays, 1.0))
    expected = "what kernels find out about the data differs from batch to batch"
    assert made.repeated.reason == expected


def test_arrays_of_objects_stay_on_the_tape(weight):
    loss = lambda batch: F.cross_entropy(weight + 0, batch[1])  # noqa: E731
    repeated = RepeatedLoss(loss, [weight], Generator(0).dropout)
    names = np.array([None, "a"], object)
    for _ in range(5):
        batch = (names, RNG.integers(0, 3, 2))
        assert repeated.gradients(batch, 1.0)[0] == loss((None, tg.tensor(batch[1]))).item()


def test_many_shapes_are_not_all_remembered(weight):
    row = tg.tensor(RNG.standard_normal(3).astype(np.float32)).requires_grad_()
    loss = lambda batch: F.cross_entropy(batch[0] + row, batch[1])  # noqa: E731
    repeated = RepeatedLoss(loss, [row], Generator(0).dropout)
    for rows in range(1, 200):
        repeated.gradients((np.ones((rows, 3), np.float32), np.zeros(rows, int)), 1.0)
    assert len(repeated._idle) <= 64
