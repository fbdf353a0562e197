import threading

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_char as tg
from tinygrad_char import functional as F
from tinygrad_char import nn, optim, parallel
from tinygrad_char.checks import NonFiniteError
from tinygrad_char.kernels.cpu.cores import available_cores
from tinygrad_char.modes import detect_nonfinite
from tinygrad_char.parallel import Workers
from tinygrad_char.random import Generator
from tinygrad_char.repeated import RepeatedLoss


def make(dropout=0.0, dtype=np.float64):
    generator = Generator(0)
    model = nn.Sequential(
        nn.Embedding(11, 8, generator=generator),
        nn.Dropout(dropout, generator=generator),
        nn.CausalSelfAttention(8, 2, dropout=dropout, generator=generator),
        nn.Linear(8, 11, generator=generator),
    )
    return model.astype(dtype), generator


def draw(batch, seed=0):
    return np.random.default_rng(seed).integers(0, 11, (2, batch, 5))


def gradients(model, generator, x, y, shards, threads):
    """Return the loss of the batch, and the gradients, with the batch cut in shards."""
    parameters = list(model.parameters())
    for each in parameters:
        each.grad = None
    parts = list(zip(np.array_split(x, shards), np.array_split(y, shards), strict=True))
    loss = parallel.backward(
        lambda part: F.cross_entropy(model(part[0]), part[1]),
        parts,
        [len(part) / len(x) for part, _ in parts],
        parameters,
        workers=Workers(threads),
        dropout=generator.dropout,
    )
    return loss, [each.grad.numpy().copy() for each in parameters]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_shards_add_up_to_the_whole_batch(batch, shards, threads):
    model, generator = make()
    x, y = draw(batch)
    F.cross_entropy(model(x), y).backward()
    expected = [each.grad.numpy().copy() for each in model.parameters()]
    loss, grads = gradients(model, generator, x, y, min(shards, batch), threads)
    assert loss == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-12)
    for ours, theirs in zip(grads, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_number_of_threads_changes_no_bit(dropout):
    results = []
    for threads in (1, 2, 5):
        model, generator = make(dropout, np.float32)
        rounds = [gradients(model, generator, *draw(7, step), 4, threads) for step in range(3)]
        results.append((rounds, generator.get_state()))
    (first, state), *others = results
    for rounds, other_state in others:
        assert other_state == state
        for (loss, grads), (expected_loss, expected) in zip(rounds, first, strict=True):
            assert loss == expected_loss
            assert [each.tobytes() for each in grads] == [each.tobytes() for each in expected]


def test_one_shard_drops_what_the_uncut_batch_drops():
    x, y = draw(3)
    model, generator = make(0.5)
    loss, grads = gradients(model, generator, x, y, 1, 2)
    other, _ = make(0.5)
    expected = F.cross_entropy(other(x), y)
    expected.backward()
    assert loss == expected.item()
    for ours, theirs in zip(grads, other.parameters(), strict=True):
        np.testing.assert_array_equal(ours, theirs.grad.numpy())


def test_shards_drop_different_elements_and_other_ones_at_the_next_step():
    _, generator = make()
    seen = []

    def loss(part):
        seen.append(
            F.dropout(part, 0.5, generator.dropout.dropout_key()).detach().numpy().tobytes()
        )
        return (part * 1).sum()

    ones = tg.ones(200).requires_grad_()
    for _ in range(2):
        parallel.backward(
            loss, [ones] * 3, [1.0] * 3, [ones], workers=Workers(1), dropout=generator.dropout
        )
    assert len(set(seen)) == 6
    after = generator.dropout.dropout_key()
    assert F.dropout(ones, 0.5, after).detach().numpy().tobytes() not in seen


def test_gradients_are_added_to_those_that_are_there():
    model, generator = make()
    x, y = draw(4)
    _, once = gradients(model, generator, x, y, 2, 2)
    before = [each.grad for each in model.parameters()]
    parallel.backward(
        lambda part: F.cross_entropy(model(part[0]), part[1]),
        [(x, y)],
        [1.0],
        list(model.parameters()),
        workers=Workers(2),
        dropout=generator.dropout,
    )
    for each, grad, first in zip(model.parameters(), before, once, strict=True):
        assert each.grad is grad
        np.testing.assert_allclose(each.grad.numpy(), 2 * first, rtol=1e-9, atol=1e-12)


def test_a_hook_sees_the_gradient_of_the_whole_batch_once():
    model, generator = make()
    x, y = draw(6)
    weight = model[3].weight
    _, expected = gradients(model, generator, x, y, 3, 2)
    seen = []
    weight.register_hook(lambda grad: seen.append(grad.numpy().copy()))
    gradients(model, generator, x, y, 3, 2)
    position = [each is weight for each in model.parameters()].index(True)
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], expected[position])


def test_a_parameter_that_no_shard_uses_has_no_gradient():
    used, unused = (tg.ones(3).requires_grad_() for _ in range(2))
    stream = Generator(0).dropout
    parallel.backward(
        lambda scale: (used * scale).sum(),
        [2.0, 3.0],
        [1.0, 10.0],
        [used, unused],
        workers=Workers(2),
        dropout=stream,
    )
    np.testing.assert_array_equal(used.grad.numpy(), [32.0] * 3)
    assert unused.grad is None


def test_work_is_done_side_by_side_with_one_thread_for_products():
    meeting = threading.Barrier(2, timeout=60)
    limits = set()

    def work(number):
        meeting.wait()
        limits.update(
            each["num_threads"]
            for each in threadpoolctl.threadpool_info()
            if each["user_api"] == "blas"
        )
        return number * number

    with threadpoolctl.threadpool_limits(2, "blas"):
        assert list(Workers(2).map(work, range(6))) == [0, 1, 4, 9, 16, 25]
        after = [each["num_threads"] for each in threadpoolctl.threadpool_info()]
    assert limits == {1}
    assert 2 in after


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_failure_in_order_is_raised_after_the_work_that_has_begun(threads):
    begun, ended = [], []

    def work(number):
        begun.append(number)
        if number in (2, 3):
            raise ValueError(f"item {number}")
        ended.append(number)
        return number

    results = Workers(threads).map(work, range(100))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="item 2"):
        next(results)
    assert set(begun) - set(ended) <= {2, 3}
    assert len(begun) < 10


def test_results_do_not_pile_up():
    done = []
    results = Workers(2).map(lambda number: done.append(number) or number, range(50))
    for number in results:
        assert len(done) <= number + 4


def test_nonfinite_values_are_detected_in_shards():
    x = tg.tensor([1.0, 0.0]).requires_grad_()
    with np.errstate(all="ignore"), detect_nonfinite(), pytest.raises(NonFiniteError, match="log"):
        parallel.backward(
            lambda scale: (x * scale).log().sum(),
            [1.0, 2.0],
            [1.0, 1.0],
            [x],
            workers=Workers(2),
            dropout=Generator(0).dropout,
        )


def test_workers_need_a_thread():
    with pytest.raises(ValueError, match="threads=0"):
        Workers(0)
    assert Workers().threads == available_cores() >= 1


class Trained:
    """A traced loss of a model whose gradients are an optimizer's, or of one without."""

    def __init__(self, optimizer):
        self.model, self.generator = make(0.3, np.float32)
        self.parameters = list(self.model.parameters())
        self.flat_grad = optim.AdamW(self.parameters).flat_grad if optimizer else None
        self.loss = RepeatedLoss(
            lambda part: F.cross_entropy(self.model(part[0]), part[1]),
            self.parameters,
            self.generator.dropout,
        )

    def backward(self, x, y, shards, threads):
        parts = list(zip(np.array_split(x, shards), np.array_split(y, shards), strict=True))
        return parallel.backward(
            self.loss,
            parts,
            [len(part) / len(x) for part, _ in parts],
            self.parameters,
            workers=Workers(threads),
            dropout=self.generator.dropout,
            flat_grad=self.flat_grad,
        )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shards", [1, 2, 3, 6])
def test_gradients_that_lie_in_one_buffer_are_the_same_bits(shards, threads):
    flat, single = Trained(True), Trained(False)
    for step in range(9):  # on the tape, recorded, compared, repeated, and some of each
        x, y = draw(6 if step != 6 else 7, seed=step)
        if step == 7:
            y[0, 0] = -100  # which a recording leaves to the tape
        for each in (flat, single):
            if step != 4:  # at which they are added to those that are there
                for parameter in each.parameters:
                    parameter.grad = None
            each.total = each.backward(x, y, shards, threads)
        assert flat.total == single.total
        for mine, other in zip(flat.parameters, single.parameters, strict=True):
            assert mine.grad.numpy().tobytes() == other.grad.numpy().tobytes()
            assert mine.grad is mine.grad_buffer


def test_a_gradient_of_a_users_own_is_added_to_where_it_lies():
    flat, single = Trained(True), Trained(False)
    own = tg.tensor(np.ones(flat.parameters[0].shape, np.float32))
    for step in range(7):
        x, y = draw(4, seed=step)
        for each in (flat, single):
            for parameter in each.parameters:
                parameter.grad = None
            each.parameters[0].grad = tg.tensor(own.numpy().copy())
            each.backward(x, y, 2, 2)
        for mine, other in zip(flat.parameters, single.parameters, strict=True):
            assert mine.grad.numpy().tobytes() == other.grad.numpy().tobytes()


def test_a_hook_sees_gradients_that_lie_in_one_buffer():
    flat, single = Trained(True), Trained(False)
    seen = []
    flat.parameters[1].register_hook(lambda grad: seen.append(grad.numpy().copy()))
    for step in range(6):
        x, y = draw(4, seed=step)
        for each in (flat, single):
            for parameter in each.parameters:
                parameter.grad = None
            each.backward(x, y, 2, 2)
        np.testing.assert_array_equal(seen[-1], single.parameters[1].grad.numpy())
    assert len(seen) == 6
