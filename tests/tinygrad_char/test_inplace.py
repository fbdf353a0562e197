"""In-place changes: what they write, what they refuse, and the gradients after them."""

import operator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import CASES, outputs

import tinygrad_char as tg
from tinygrad_char import Tensor, nn, optim
from tinygrad_char.autograd import Function, tracing
from tinygrad_char.kernels.devices import get_backend
from tinygrad_char.random import Generator
from tinygrad_char.repeated import RepeatedLoss
from tinygrad_char.step import why_on_tape

SYMBOLS = {
    "+=": operator.iadd,
    "-=": operator.isub,
    "*=": operator.imul,
    "/=": operator.itruediv,
    "**=": operator.ipow,
    "//=": operator.ifloordiv,
    "%=": operator.imod,
}
RECORDED = ("+=", "-=", "*=", "/=", "**=")
DEVICE = "cpu"
LOGICAL = {"&=": operator.iand, "|=": operator.ior, "^=": operator.ixor}


@pytest.fixture(autouse=True)
def _on_each(device, monkeypatch):
    """Run every test here on each device: `new` and `leaf` make tensors there."""
    monkeypatch.setitem(globals(), "DEVICE", device)


def new(values):
    return Tensor(values, device=DEVICE)


def leaf(values, dtype=np.float64):
    return Tensor(np.array(values, dtype), device=DEVICE, requires_grad=True)


class TestWithoutGradient:
    @pytest.mark.parametrize("symbol", SYMBOLS)
    @pytest.mark.parametrize("other", [2, 3.0, np.float32([1, 2, 3]), [2, 2, 2]])
    def test_values_are_numpy_s_and_the_memory_stays(self, symbol, other):
        array = np.float32([[1, 2, 3], [4, 5, 6]])
        t = new(array)
        memory, view, alias, version = t.array, t[1], t, t.version.value
        t = SYMBOLS[symbol](t, other)
        expected = SYMBOLS[symbol](array, np.float32(other))
        assert t is alias
        assert t.array is memory
        np.testing.assert_array_equal(t.cpu().numpy(), expected)
        np.testing.assert_array_equal(view.cpu().numpy(), expected[1])
        assert t.version.value == view.version.value == version + 1

    @pytest.mark.parametrize("symbol", LOGICAL)
    @pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32])
    def test_logic(self, symbol, dtype):
        a, b = np.array([0, 1, 1, 0], dtype), np.array([0, 1, 0, 1], dtype)
        t = new(a)
        memory = t.array
        t = LOGICAL[symbol](t, new(b))
        np.testing.assert_array_equal(t.cpu().numpy(), LOGICAL[symbol](a, b))
        assert t.array is memory

    def test_a_matrix_product_where_the_shape_stays(self):
        a, b = np.arange(6.0).reshape(2, 3), np.arange(9.0).reshape(3, 3)
        t = alias = new(a)
        t @= new(b)
        assert t is alias
        np.testing.assert_array_equal(t.cpu().numpy(), a @ b)
        with pytest.raises(ValueError, match=r"@=: the result has shape \(2, 2\)"):
            t @= new(np.ones((3, 2)))

    def test_parameters_train(self):
        model = nn.Linear(2, 1).to(DEVICE)
        before = [p.tolist() for p in model.parameters()]
        model(new(np.ones((3, 2), np.float32))).sum().backward()
        with tg.no_grad():
            for p in model.parameters():
                p -= 0.5 * p.grad
        after = [p.tolist() for p in model.parameters()]
        grads = [p.grad.tolist() for p in model.parameters()]
        for old, now, grad in zip(before, after, grads, strict=True):
            np.testing.assert_allclose(now, np.array(old) - 0.5 * np.array(grad), rtol=1e-6)
        assert all(p.is_leaf and p.requires_grad for p in model.parameters())

    def test_parameters_in_an_optimizer_s_buffer_stay_there(self):
        x = leaf([1.0, 2.0])
        optimizer = optim.SGD([x], lr=1.0)
        with tg.no_grad():
            x *= 3
        x.grad = 1.0
        optimizer.step()
        assert x.tolist() == [2.0, 5.0]

    @pytest.mark.parametrize(
        "change",
        [
            lambda t: operator.iadd(t, 0.5),
            lambda t: operator.itruediv(t, 2),
            lambda t: operator.imul(t, new([0.5, 0.5])),
        ],
    )
    def test_integers_stay_integers(self, change):
        t = new([1, 2])
        with pytest.raises(TypeError, match=r"= ?: the result is float32.* dtype int64"):
            change(t)
        assert t.tolist() == [1, 2]

    def test_the_shape_stays(self):
        t = new([1.0, 2.0])
        with pytest.raises(ValueError, match=r"\+=: the result has shape \(3, 2\).*\(2,\)"):
            t += np.ones((3, 2), np.float32)
        assert t.tolist() == [1, 2]

    @pytest.mark.parametrize(
        "make",
        [
            lambda: new([1.0]).broadcast_to(3),
            lambda: new([[1.0], [2.0]]).broadcast_to(2, 3).T,
            lambda: new([1.0]).broadcast_to(3, 2)[0],
            lambda: tg.from_numpy(np.lib.stride_tricks.as_strided(np.ones(4), (3, 2), (8, 8))),
            lambda: tg.from_numpy(np.broadcast_to(np.float32(1), (3,))),
        ],
    )
    def test_elements_that_share_memory_are_refused(self, make):
        for change in (
            lambda t: operator.iadd(t, 1),
            lambda t: t.fill_(1),
            lambda t: t.copy_(np.ones(t.shape)),
            lambda t: operator.setitem(t, 0, 1),
        ):
            with pytest.raises(RuntimeError, match="share memory with each other"):
                change(make())

    def test_memory_that_is_read_only_is_refused(self):
        array = np.ones(3)
        array.flags.writeable = False
        t = tg.from_numpy(array)
        for change in (lambda: operator.iadd(t, 1), t.zero_, lambda: operator.setitem(t, 0, 1)):
            with pytest.raises(RuntimeError, match="read-only"):
                change()

    @pytest.mark.parametrize("value", [300, -1, np.int64(256), [1, 300, 2], 1e9, float("nan")])
    def test_numbers_that_would_wrap_are_refused(self, value):
        t = new(np.array([1, 2, 3], np.uint8))
        for change in (
            lambda: operator.setitem(t, slice(None), value),
            lambda: t.copy_(np.broadcast_to(value, 3)),
        ):
            with pytest.raises(OverflowError, match=r"does not fit into uint8, .* 0 to 255"):
                change()
        if not isinstance(value, list):
            with pytest.raises(OverflowError, match="fill_: "):
                t.fill_(value)
        assert t.tolist() == [1, 2, 3]

    def test_an_operand_that_is_unknown_is_asked(self):
        class Other:
            def __radd__(self, other):
                return "theirs"

        t = new([1.0])
        t += Other()
        assert t == "theirs"

    def test_assigning_a_part_of_itself(self):
        t = new([1.0, 2.0, 3.0, 4.0])
        t[1:] = t[:-1]
        assert t.tolist() == [1, 1, 2, 3]
        t[::-1] += t
        assert t.tolist() == [4, 3, 3, 4]

    def test_gradients_may_be_changed(self):
        x = leaf([1.0, 2.0])
        x.sum().backward()
        held = x.grad
        x.grad *= 0.5
        x.grad[0] += 1
        assert x.grad is held
        assert x.grad.tolist() == [1.5, 0.5]


class TestRefusedWhileRecording:
    @pytest.mark.parametrize(
        "change",
        [
            *(lambda t, op=op: op(t, 1.0) for op in SYMBOLS.values()),
            lambda t: t.fill_(1),
            lambda t: t.zero_(),
            lambda t: t.copy_([1, 2]),
            lambda t: operator.setitem(t, 0, 1),
            lambda t: operator.iadd(t[0], 1),
            lambda t: t.reshape(2, 1).fill_(1),
        ],
    )
    def test_a_leaf_that_needs_a_gradient(self, change):
        t = leaf([1.0, 2.0])
        with pytest.raises(RuntimeError, match=r"leaf of shape .* requires grad.*no_grad"):
            change(t)
        assert t.tolist() == [1, 2]
        with tg.no_grad():
            change(t)

    def test_a_leaf_that_needs_one_since_its_view_was_taken(self):
        t = new([1.0, 2.0])
        view = t[0]
        t.requires_grad_()
        with pytest.raises(RuntimeError, match="through a view of it"):
            view += 1

    def test_a_view_that_was_taken_under_no_grad(self):
        y = leaf([1.0, 2.0]) * 2
        with tg.no_grad():
            view = y[0]
        with pytest.raises(RuntimeError, match="taken under no_grad"):
            view += leaf(1.0)
        assert y.tolist() == [2, 4]

    def test_what_backward_saved(self):
        for function in (Tensor.exp, Tensor.tanh, lambda t: t * t, Tensor.softmax):
            source = leaf([1.0, 2.0]) * 1
            y = function(source)
            loss = y.sum()
            target = source if function.__name__ == "<lambda>" else y
            target += 1
            with pytest.raises(RuntimeError, match="changed in place 1 time"):
                loss.backward()

    def test_integers_take_no_values_with_gradients(self):
        t = new([1, 2])
        with pytest.raises(TypeError, match="int64, which has none"):
            t[0] = leaf(1.0)


class TestGradients:
    @pytest.mark.parametrize("symbol", RECORDED)
    @pytest.mark.parametrize("shape", [(), (3,), (1, 3), (2, 3)])
    def test_operators(self, symbol, shape):
        rng = np.random.default_rng(1)
        x, w = leaf(rng.uniform(0.5, 2, (2, 3))), leaf(rng.uniform(0.5, 2, shape))

        def function(x, w):
            y = x * 1.5
            z = SYMBOLS[symbol](y, w)
            assert z is y
            return y

        tg.gradcheck(function, [x, w])

    def test_a_product_with_itself(self):
        def function(x):
            y = x * 1.0
            y *= y
            y *= y[::-1]
            y -= y[0]
            return y

        tg.gradcheck(function, leaf([0.5, -1.5, 2.0]))

    @pytest.mark.parametrize(
        "change",
        [
            lambda y: y.copy_(y.detach()),
            lambda y: y.__setitem__(slice(None), y.detach()),
            lambda y: y[1:].copy_(y.detach()[1:]),
        ],
    )
    def test_values_of_a_detached_tensor_are_constants_though_nothing_moves(self, change):
        x = leaf([1.0, 2.0, 3.0])
        y = x * 2
        change(y[1:])
        (y * y).sum().backward()
        assert x.grad.tolist()[0] == 8
        assert x.grad.tolist()[-1] == 0
        assert y.tolist() == [2, 4, 6]

    def test_a_diagonal_is_a_view(self):
        def function(x):
            y = x * 2
            diagonal = y.diagonal(1)
            diagonal *= x[0, :2]
            y.T.diagonal()[0] = x[1, 1]
            return y * diagonal.sum()

        tg.gradcheck(function, leaf(np.random.default_rng(0).normal(size=(2, 3))))
        y = tg.zeros(2, 3, device=DEVICE)
        y.diagonal(1).fill_(7)
        assert y.tolist() == [[0, 7, 0], [0, 0, 7]]
        assert tg.diag(y[:, 1:]).fill_(1).tolist() == [1, 1]
        assert y.tolist() == [[0, 7, 0], [0, 0, 7]]  # of which diag is a copy

    def test_a_matrix_product(self):
        rng = np.random.default_rng(0)

        def function(a, b):
            y = a + 1
            y @= b
            y[0] @= b
            return y

        tg.gradcheck(function, [leaf(rng.normal(size=(2, 3))), leaf(rng.normal(size=(3, 3)))])

    def test_a_base_changed_through_its_view(self):
        y = leaf([1.0, 2.0])
        z = y * 2
        v = z[0]
        v += 1
        assert z.tolist() == [3, 4]
        (z * z).sum().backward()
        assert y.grad.tolist() == [12, 16]

    def test_a_view_changed_through_its_base(self):
        x = leaf([[1.0, 2.0], [3.0, 4.0]])
        y = x * 1
        view = y.T[1]
        y *= y.detach().clone()
        assert view.tolist() == [4, 16]
        view.sum().backward()
        assert x.grad.tolist() == [[0, 2], [0, 4]]

    def test_a_view_changed_through_another_view(self):
        x, w = leaf([1.0, 2.0, 3.0]), leaf(5.0)
        y = x * 1
        first, second = y[:2], y[1:]
        first *= w
        second.sum().backward()
        assert x.grad.tolist() == [0, 5, 1]
        assert w.grad.item() == 2

    def test_a_constant_that_becomes_a_result(self):
        w = leaf([1.0, 2.0])
        total = tg.zeros((2, 2), np.float64, device=DEVICE)
        row = total[0]
        for factor in (1.0, 3.0):
            row += w * factor
        assert not total.is_leaf
        assert total.requires_grad
        assert row.requires_grad
        (total * 2).sum().backward()
        assert w.grad.tolist() == [8, 8]
        assert total.grad is None

    def test_values_that_are_overwritten_have_no_gradient(self):
        x, w = leaf([1.0, 2.0, 3.0]), leaf(7.0)
        y = x * 2
        y[0] = 5.0
        y[1] = w
        y.sum().backward()
        assert y.tolist() == [5, 7, 6]
        assert x.grad.tolist() == [0, 0, 2]
        assert w.grad.item() == 1
        z = x * 2
        z.fill_(1)
        x.grad = None
        z.sum().backward()
        assert x.grad.tolist() == [0, 0, 0]

    @pytest.mark.parametrize(
        "index",
        [
            0,
            (slice(None), 1),
            (..., [0, 2]),
            ([1, 0], [2, 0]),
            np.array([[True, False, True], [False, True, False]]),
            (None, 1, slice(None, None, -1)),
            (slice(0, 0),),
        ],
        ids=str,
    )
    def test_assignment(self, index):
        rng = np.random.default_rng(0)
        base = rng.normal(size=(2, 3))
        values = rng.normal(size=base[index].shape)
        for each in (values, values[..., :1], rng.normal()):
            if np.ndim(each) and not np.size(each):
                continue

            def function(x, v):
                y = x * 2.0
                y[index] = v
                return y * y

            tg.gradcheck(function, [leaf(base), leaf(each)])

    def test_leading_axes_of_length_one_are_dropped_as_numpy_does(self):
        def function(x, v):
            y = x * 2.0
            y[0] = v
            return y

        tg.gradcheck(function, [leaf(np.ones((2, 3))), leaf(np.ones((1, 1, 3)))])

    def test_of_an_element_named_twice_the_last_value_counts(self):
        x, v = leaf([1.0, 2.0]), leaf([3.0, 4.0, 5.0])
        y = x * 1
        y[[0, 0, 1]] = v
        assert y.tolist() == [4, 5]
        y.sum().backward()
        assert v.grad.tolist() == [0, 1, 1]
        assert x.grad.tolist() == [0, 0]

    def test_an_item_that_is_added_to(self):
        def function(x, w):
            y = x * 1.0
            y[0] += w
            y[[1, 0]] *= w
            y[y > 0] -= w[0]
            return y

        tg.gradcheck(function, [leaf([[0.3, -2.0], [1.5, 0.4]]), leaf([0.7, 1.1])])

    def test_gradients_are_kept_of_what_a_tensor_is_last(self):
        x = leaf([1.0, 2.0])
        y = x * 2
        y.retain_grad()
        y *= 3
        y.sum().backward()
        assert y.grad.tolist() == [1, 1]
        assert x.grad.tolist() == [6, 6]

    def test_hooks_see_the_gradient_of_the_tensor_when_they_were_registered(self):
        x, seen = leaf([1.0]), []
        y = x * 2
        y.register_hook(lambda grad: seen.append(grad.item()))
        y *= 3
        y.register_hook(lambda grad: seen.append(grad.item()))
        y.sum().backward()
        assert seen == [1, 3]

    def test_another_dtype_is_converted_and_its_gradient_back(self):
        x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0], np.float32)
        y = x * 1
        y.copy_(w)
        y.sum().backward()
        assert w.grad.dtype == np.float32
        assert w.grad.tolist() == [1, 1]

    def test_memory_that_lies_in_another_order(self):
        def function(x):
            y = x.T + 0.0  # by columns
            flat = y.T.reshape(-1)
            flat[1:3] *= 5
            return y

        tg.gradcheck(function, leaf(np.arange(6.0).reshape(2, 3) + 1))


# All numbers stay above 0, and grow slowly.


def transposed(t):
    return t.T if t.ndim == 2 else t[::2]


VIEWS = {
    "row": lambda t: t[0] if t.ndim else t,
    "tail": lambda t: t[1:] if t.ndim else t,
    "every other": lambda t: t[..., ::2] if t.ndim else t,
    "transposed": lambda t: transposed(t) if t.ndim else t,
    "flat": lambda t: t.reshape(-1),
    "column": lambda t: t[..., :1] if t.ndim else t,
}
CHANGES = {
    "add": lambda t, w: operator.iadd(t, w),
    "multiply": lambda t, w: operator.imul(t, w),
    "divide": lambda t, w: operator.itruediv(t, w + 3),
    "root": lambda t, w: operator.ipow(t, 0.5),
    "fill": lambda t, w: t.fill_(0.5),
    "set first": lambda t, w: operator.setitem(t, 0 if t.ndim else ..., w),
    "add a view of itself": lambda t, w: operator.iadd(t, t[:1] * 1 if t.ndim else w),
}
READS = {
    "exp": lambda t: (-t).exp(),
    "twice": lambda t: t * 2,
    "squares": lambda t: t * t / (t * t + 1),
}


@dataclass
class Step:
    kind: str
    name: str
    which: int
    weight: int


steps = st.lists(
    st.one_of(
        st.builds(
            Step, st.just("view"), st.sampled_from(sorted(VIEWS)), st.integers(0, 9), st.just(0)
        ),
        st.builds(
            Step,
            st.just("change"),
            st.sampled_from(sorted(CHANGES)),
            st.integers(0, 9),
            st.integers(0, 2),
        ),
        st.builds(
            Step, st.just("read"), st.sampled_from(sorted(READS)), st.integers(0, 9), st.just(0)
        ),
    ),
    min_size=2,
    max_size=8,
)


def run(program, x, weights):
    """Return the sum of all that a program has made: views of a result, changed in turn."""
    pool = [x * 1]
    for step in program:
        t = pool[step.which % len(pool)]
        if step.kind == "view":
            pool.append(VIEWS[step.name](t))
        elif step.kind == "read":
            pool.append(READS[step.name](t))
        else:
            CHANGES[step.name](t, weights[step.weight])
    total = 0
    for number, each in enumerate(pool, 1):
        total = total + (each * each).sum() * number
    return total


@settings(deadline=None, max_examples=150)
@given(steps)
def test_programs_of_views_and_changes(program):
    rng = np.random.default_rng(0)
    x = rng.uniform(0.5, 1.5, (3, 4))
    ws = rng.uniform(0.5, 1.5, 3)

    def ours(x, *weights):
        return run(program, x, weights)

    refused = None
    try:
        tg.gradcheck(ours, [leaf(x), *map(leaf, ws)], rtol=1e-4, atol=1e-5)
    except RuntimeError as error:
        refused = str(error)
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensors = [torch.tensor(each, requires_grad=True) for each in (x, *ws)]
    try:
        loss = run(program, tensors[0], tensors[1:])
        theirs = torch.autograd.grad(loss, tensors, allow_unused=True)
    except RuntimeError:
        return  # what PyTorch refuses may be right here, as the differences say
    assert refused is None, refused
    leaves = [leaf(x), *map(leaf, ws)]
    loss_ours = run(program, leaves[0], leaves[1:])
    np.testing.assert_allclose(loss_ours.item(), loss.item(), rtol=1e-10)
    found = tg.grad(loss_ours, leaves, allow_unused=True)
    for mine, other in zip(found, theirs, strict=True):
        a = 0.0 if mine is None else mine.cpu().numpy()
        b = 0.0 if other is None else other.numpy()
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


REASONS = (
    *("a tensor is changed in place", "the kernels in C are not there"),
    "device 'cuda-on-cpu' records whole updates alone",
)


class TestRepeatedSteps:
    def test_a_repeated_loss_with_changes_in_place_is_right(self):
        w = leaf([1.0, -2.0, 3.0], np.float32)

        def loss(batch):
            y = w * batch[0]
            y += 1
            y[0] *= w[1]
            return (y * y).sum()

        repeated = RepeatedLoss(loss, [w], Generator(0).dropout)
        rng = np.random.default_rng(0)
        for _ in range(5):
            batch = (rng.standard_normal(3).astype(np.float32),)
            expected = loss([new(batch[0])])
            value, (grad,) = repeated.gradients(batch, 1.0)
            assert value == expected.item()
            assert Tensor(grad).tolist() == tg.grad(expected, w)[0].tolist()
        assert (repeated.reason or why_on_tape(get_backend(DEVICE))) in REASONS

    def test_a_trace_says_so(self):
        t = new([1.0])
        with tracing() as trace:
            t += 1
        assert trace.obstacle == "a tensor is changed in place"


class _Reversed(Function):
    """A function of a user's, that does not say that its result is a view."""

    def forward(self, *arrays, whole=False):
        return arrays[-1] if whole else arrays[-1][::-1]

    def backward(self, grad):
        return grad[::-1]


@pytest.mark.parametrize("whole", [False, True])
class TestUnannouncedViews:
    def test_leaves_are_not_changed_through_them(self, whole):
        x = leaf([1.0, 2.0])
        view = _Reversed.apply(x, whole=whole)
        with pytest.raises(RuntimeError, match="leaf of shape"):
            view += 1
        assert x.tolist() == [1, 2]

    def test_a_backward_that_needs_the_old_values_refuses(self, whole):
        y = leaf([1.0, 2.0]) * 1
        square = y * y
        view = _Reversed.apply(y, whole=whole)
        view += 1
        assert y.tolist() == [2, 3]
        with pytest.raises(RuntimeError, match="changed in place"):
            square.sum().backward()

    def test_of_several_inputs(self, whole):
        y = leaf([1.0, 2.0]) * 1
        view = _Reversed.apply(2.0, y, whole=whole)
        with pytest.raises(RuntimeError, match="operation of several inputs"):
            view += 1


@pytest.mark.parametrize(
    "case",
    [each for each in CASES if each.covers not in ("to", "cpu")],  # which move to the host
    ids=lambda each: each.name,
)
def test_results_that_share_memory_know_it(case):
    tensors = [new(each) for each in case.inputs()]
    for result in outputs(case.ours(*tensors)):
        for each in tensors:
            if np.shares_memory(result.array, each.array):
                assert result.version is each.version


def test_many_views_of_a_tensor_are_not_remembered_once_they_are_gone():
    t = tg.zeros(4, device=DEVICE)
    for _ in range(1000):
        t[0]
    assert len(t.version.views) < 4
