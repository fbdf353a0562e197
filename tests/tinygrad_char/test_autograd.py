import copy
import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_char as tg
from tinygrad_char import autograd, modes, optim
from tinygrad_char import functional as F
from tinygrad_char.autograd import Function
from tinygrad_char.kernels.backend import Backend

OTHER_DEVICE = Backend("elsewhere", np, np.ndarray)


def leaf(values, dtype=np.float64):
    return tg.Tensor(np.array(values, dtype), requires_grad=True)


class Scale(Function):
    """An operation as a user writes one: y = factor * x."""

    def forward(self, x, *, factor):
        self.factor = factor
        return x * factor

    def backward(self, grad):
        return grad * self.factor


def operation(result):
    """Return an operation x -> x whose backward returns `result(grad)`."""

    class Custom(Function):
        def forward(self, x):
            return x.copy()

        def backward(self, grad):
            return result(grad)

    return Custom.apply


class TestBackward:
    def test_a_single_element_needs_no_cotangent(self):
        x = leaf([[3.0]])
        (x * x).backward()
        assert x.grad.tolist() == [[6.0]]

    def test_several_elements_need_a_cotangent(self):
        x = leaf([1.0, 2.0])
        with pytest.raises(RuntimeError, match=r"backward from shape \(2,\).*cotangent"):
            (x * x).backward()

    @pytest.mark.parametrize("kind", [list, np.array, tg.Tensor])
    def test_the_cotangent_weighs_the_elements(self, kind):
        x = leaf([1.0, 2.0, 3.0])
        (x * x).backward(kind([1.0, 10.0, 100.0]))
        assert x.grad.tolist() == [2.0, 40.0, 600.0]

    def test_a_cotangent_of_another_shape_is_refused(self):
        x = leaf([1.0, 2.0])
        with pytest.raises(ValueError, match=r"cotangent of shape \(3,\).*\(2,\)"):
            (x * x).backward(np.ones(3))

    def test_a_tensor_without_history_is_refused(self):
        with pytest.raises(RuntimeError, match="does not require grad"):
            tg.Tensor(1.0).backward()

    def test_gradients_add_up_in_leaves(self):
        x = leaf(2.0)
        (x * x).backward()
        (x * 3).backward()
        assert x.grad.item() == 7.0
        x.zero_grad()
        assert x.grad is None

    def test_a_leaf_is_its_own_gradient_of_one(self):
        x = leaf(2.0)
        x.backward()
        x.backward()
        assert x.grad.item() == 2.0

    def test_only_leaves_that_ask_for_a_gradient_get_one(self):
        x, constant = leaf(2.0), tg.Tensor(np.float64(3.0))
        middle = x * constant
        middle.sum().backward()
        assert x.grad.item() == 3.0
        assert constant.grad is None
        assert middle.grad is None

    def test_gradients_have_the_leaf_s_dtype_and_own_memory(self):
        x = leaf(np.ones((3, 4)), np.float32)
        cotangent = np.full((3, 4), 2.0, np.float32)
        x.backward(cotangent)
        assert x.grad.dtype == np.float32
        assert not np.shares_memory(x.grad.array, cotangent)
        assert x.grad.array.flags.writeable


class TestDiamonds:
    def test_two_paths(self):
        x = leaf(0.7)
        a, b = x.exp(), x * x
        (a * b + a / b).backward()
        e = np.exp(0.7)
        expected = e * (0.7**2 + 2 * 0.7) + e * (0.7**-2 - 2 * 0.7**-3)
        assert x.grad.item() == pytest.approx(expected, rel=1e-14)

    def test_every_level_doubles(self):
        x = leaf([1.0, -2.0])
        y = x
        for _ in range(50):
            y = y + y
        y.backward(np.array([1.0, 3.0]))
        assert x.grad.tolist() == [2.0**50, 3 * 2.0**50]

    @given(st.integers(1, 6), st.data())
    @settings(deadline=None, max_examples=50)
    def test_a_random_graph_of_sums_counts_its_paths(self, depth, data):
        x = leaf([1.0, 2.0])
        nodes, paths = [x], [1]
        for _ in range(depth):
            chosen = data.draw(st.lists(st.integers(0, len(nodes) - 1), min_size=1, max_size=4))
            total, count = nodes[chosen[0]] * 2, 2 * paths[chosen[0]]
            for i in chosen[1:]:
                total, count = total + nodes[i], count + paths[i]
            nodes.append(total)
            paths.append(count)
        cotangent = np.array([1.0, -3.0])
        nodes[-1].backward(cotangent)
        assert x.grad.tolist() == [paths[-1], -3 * paths[-1]]
        assert cotangent.tolist() == [1.0, -3.0]

    @pytest.mark.parametrize(
        ("expression", "factor"),
        [
            (lambda a, b: a + a + b - b, (2, 0)),
            (lambda a, b: (a + b) + (a + b), (2, 2)),
            (lambda a, b: (a + b) + a + a + b, (3, 2)),
            (lambda a, b: a.reshape(3, 1).reshape(3) + a + a - b, (3, -1)),
            (lambda a, b: F.stack([a, b, a]).sum(0) + b + b, (2, 3)),
        ],
    )
    def test_a_cotangent_shared_by_several_edges_stays_as_it_was(self, expression, factor):
        a, b = leaf([1.0, 2.0, 3.0]), leaf([4.0, 5.0, 6.0])
        cotangent = np.array([1.0, 10.0, 100.0])
        middle = expression(a * 1, b * 1)
        middle.backward(cotangent, retain_graph=True)
        middle.backward(cotangent)
        assert cotangent.tolist() == [1.0, 10.0, 100.0]
        assert a.grad.tolist() == (2 * factor[0] * cotangent).tolist()
        assert b.grad.tolist() == (2 * factor[1] * cotangent).tolist()

    def test_a_squared_sum(self):
        a, b = leaf([1.0, 2.0]), leaf([3.0, 5.0])
        ((a + b) * (a + b)).backward(np.array([1.0, 0.5]))
        assert a.grad.tolist() == b.grad.tolist() == [8.0, 7.0]

    def test_a_read_only_cotangent_is_enough_for_every_way_through(self):
        x = leaf(np.linspace(0.1, 1, 12).reshape(3, 4))
        cotangent = np.ones((3, 4))
        cotangent.flags.writeable = False
        y = x.exp() + x.softmax() + F.layer_norm(x) + x.gelu() + x.relu() + x.T.T + x[:] + x
        y.backward(cotangent)
        assert np.isfinite(x.grad.array).all()


class TestGrad:
    def test_leaves_keep_their_grad(self):
        x, y = leaf(2.0), leaf(3.0)
        (x * y).backward()
        gradients = tg.grad(x * x * y, [y, x])
        assert [each.item() for each in gradients] == [4.0, 12.0]
        assert (x.grad.item(), y.grad.item()) == (3.0, 2.0)

    def test_intermediate_results(self):
        x = leaf([1.0, 2.0])
        h = x * x
        loss = (h * h).sum()
        dh, dx = tg.grad(loss, [h, x])
        assert dh.tolist() == [2.0, 8.0]
        assert dx.tolist() == [4.0, 32.0]
        assert x.grad is h.grad is None

    def test_what_lies_before_intermediate_inputs_can_be_walked_later(self):
        x = leaf([1.0, 2.0])
        h = x * x
        (dh,) = tg.grad((h * h).sum(), h)
        h.backward(dh)
        assert x.grad.tolist() == [4.0, 32.0]

    def test_an_intermediate_input_before_another(self):
        x = leaf(3.0)
        first = x * 2
        second = first * first
        g2, g1 = tg.grad(second * 5 + first, [second, first])
        assert (g2.item(), g1.item()) == (5.0, 5 * 2 * 6.0 + 1)

    def test_an_output_by_itself(self):
        x = leaf([1.0, 2.0])
        y = x * 1
        assert tg.grad(y, y, np.array([3.0, 4.0]))[0].tolist() == [3.0, 4.0]
        assert tg.grad(x, x, [np.array([3.0, 4.0])])[0].tolist() == [3.0, 4.0]

    def test_several_outputs_with_cotangents(self):
        x = leaf([1.0, 2.0])
        outputs = [x * x, (x * 3).sum(), x.exp()]
        (g,) = tg.grad(outputs, x, [np.array([1.0, 0.0]), None, tg.Tensor(np.zeros(2))])
        assert g.tolist() == [5.0, 3.0]

    def test_unused_inputs(self):
        x, y = leaf(1.0), leaf(1.0)
        with pytest.raises(RuntimeError, match=r"no output depends on input 1.*allow_unused"):
            tg.grad(x * 2, [x, y])
        assert tg.grad(x * 2, [x, y], allow_unused=True)[1] is None

    def test_the_same_input_twice(self):
        x = leaf(3.0)
        seen = []
        x.register_hook(lambda g: seen.append(g.item()))
        assert [each.item() for each in tg.grad(x * x, [x, x])] == [6.0, 6.0]
        assert seen == [6.0]

    def test_as_many_cotangents_as_outputs(self):
        x = leaf([1.0, 2.0])
        with pytest.raises(ValueError, match=r"1 cotangent\(s\) for 2 output\(s\)"):
            tg.grad([x * 1, x * 2], x, [np.ones(2)])

    def test_results_are_not_linked_and_own_their_memory(self):
        x = leaf(np.ones((2, 3)))
        (g,) = tg.grad(x.sum(), x)
        assert not g.requires_grad
        g.fill_(7)
        assert g.tolist() == [[7.0] * 3] * 2


class TestNoGrad:
    def test_context(self):
        x = leaf(2.0)
        with tg.no_grad():
            y = x * x
            assert not tg.is_grad_enabled()
        assert tg.is_grad_enabled()
        assert not y.requires_grad
        assert y.node is None

    def test_decorator(self):
        x = leaf(2.0)

        @tg.no_grad()
        def square(depth):
            return x * x if depth == 0 else square(depth - 1)

        assert not square(3).requires_grad
        assert tg.is_grad_enabled()

    def test_nested_and_left_by_an_exception(self):
        with tg.no_grad():
            with pytest.raises(KeyError), tg.no_grad():
                raise KeyError
            assert not tg.is_grad_enabled()
        assert tg.is_grad_enabled()

    def test_backward_of_what_was_recorded_before(self):
        x = leaf(2.0)
        y = x * x
        with tg.no_grad():
            y.backward()
        assert x.grad.item() == 4.0


class TestDetach:
    def test_shares_memory_and_version_and_has_no_history(self):
        x = leaf([1.0, 2.0])
        y = x * 1
        d = y.detach()
        assert d.array is y.array
        assert d.version is y.version
        assert d.is_leaf
        assert not d.requires_grad

    def test_stops_the_gradient(self):
        x = leaf(3.0)
        (x * x.detach()).backward()
        assert x.grad.item() == 3.0


class TestRetainGraph:
    def test_a_second_backward_needs_it(self):
        x = leaf(3.0)
        y = (x * x).exp()
        y.backward()
        with pytest.raises(RuntimeError, match=r"backward through exp.*retain_graph=True"):
            y.backward()

    def test_with_it_gradients_add_up(self):
        x = leaf(3.0)
        y = x * x
        y.backward(retain_graph=True)
        tg.grad(y, x, retain_graph=True)
        y.backward()
        assert x.grad.item() == 12.0

    def test_a_shared_part_that_was_freed(self):
        x = leaf(3.0)
        shared = x * x
        a, b = shared + 1, shared + 2
        a.backward()
        with pytest.raises(RuntimeError, match=r"backward through multiply: .*freed"):
            b.backward()


class TestHooks:
    def test_a_leaf_s_hook_sees_the_whole_sum_once(self):
        x = leaf(3.0)
        seen = []
        x.register_hook(lambda g: seen.append(g.item()))
        (x * x + x * 2 + x).backward()
        assert seen == [9.0]
        assert x.grad.item() == 9.0

    def test_a_result_s_hook_sees_the_whole_sum_once(self):
        x = leaf(3.0)
        y = x * 1
        seen = []
        y.register_hook(lambda g: seen.append(g.item()))
        (y * y + y * 2 + y).backward()
        assert seen == [9.0]

    @pytest.mark.parametrize("make", [lambda x: x, lambda x: x * 1], ids=["leaf", "result"])
    def test_hooks_replace_one_after_the_other(self, make):
        x = leaf([1.0, 2.0])
        y = make(x)
        y.register_hook(lambda g: g * 10)
        y.register_hook(lambda g: (g + 1).numpy())
        (y * 3).sum().backward()
        assert x.grad.tolist() == [31.0, 31.0]
        (g,) = tg.grad((make(x) * 3).sum(), x)
        assert g.tolist() == ([31.0, 31.0] if y is x else [3.0, 3.0])

    @pytest.mark.parametrize("make", [lambda x: x, lambda x: x * 1], ids=["leaf", "result"])
    def test_removed_hooks_are_silent(self, make):
        x = leaf(1.0)
        y = make(x)
        handle = y.register_hook(lambda g: g * 10)
        y.register_hook(lambda g: g * 3)
        handle.remove()
        handle.remove()
        (y * 1).backward()
        assert x.grad.item() == 3.0

    def test_a_hook_that_writes_in_place_changes_its_own_gradient_alone(self):
        for hooked in (0, 1):
            leaves = [leaf([1.0]), leaf([1.0])]
            parts = [each * 1 for each in leaves]
            parts[hooked].register_hook(lambda g: g.fill_(5))
            (parts[0] + parts[1]).backward(np.array([2.0]))
            assert leaves[hooked].grad.tolist() == [5.0]
            assert leaves[1 - hooked].grad.tolist() == [2.0]

    @pytest.mark.parametrize("wrong", [np.ones(3), np.ones(2, np.float32), 1.0])
    def test_a_replacement_that_does_not_fit_is_refused(self, wrong):
        x = leaf([1.0, 2.0])
        x.register_hook(lambda g: wrong)
        with pytest.raises(RuntimeError, match=r"hook returned float.*float64 of shape \(2,\)"):
            x.sum().backward()

    def test_a_tensor_without_gradient_takes_none(self):
        with pytest.raises(RuntimeError, match="does not require grad"):
            tg.Tensor(1.0).register_hook(print)


class TestRetainGrad:
    def test_keeps_and_adds_up(self):
        x = leaf([1.0, 2.0])
        y = x * x
        y.retain_grad()
        (y * 3).sum().backward(retain_graph=True)
        (y * 1).sum().backward()
        assert y.grad.tolist() == [4.0, 4.0]
        assert x.grad.tolist() == [8.0, 16.0]

    def test_grad_leaves_it_alone(self):
        x = leaf(2.0)
        y = x * x
        y.retain_grad()
        assert tg.grad(y * 3, [x, y])[1].item() == 3.0
        assert y.grad is None

    def test_keeps_what_the_hooks_made_of_it(self):
        x = leaf(2.0)
        y = x * x
        y.retain_grad()
        y.register_hook(lambda g: g * 10)
        (y * 3).backward()
        assert y.grad.item() == 30.0

    def test_asking_twice_counts_once(self):
        y = leaf(2.0) * 1
        y.retain_grad()
        y.retain_grad()
        y.backward()
        assert y.grad.item() == 1.0

    def test_does_not_keep_the_tensor_alive(self):
        x = leaf(2.0)
        y = x * x
        y.retain_grad()
        z = y * 3
        del y
        z.backward()
        assert x.grad.item() == 12.0


def _optimizer_step(x):
    optimizer = optim.SGD([x], lr=0.5)
    x.grad = tg.Tensor(np.ones(x.shape))
    optimizer.step()


def _setitem(x):
    x[0] = 5.0


def _write_data(x):
    x.data[0] = 5.0


def _assign_data(x):
    x.data = x.data * 2


def _subtract_data(x):
    x.data -= 0.5


def _row(x):
    next(iter(x.data)).fill_(5.0)


CHANGES = {
    "copy_": lambda x: x.copy_(np.full(x.shape, 5.0)),
    "fill_": lambda x: x.fill_(5.0),
    "zero_": lambda x: x.zero_(),
    "assignment": _setitem,
    "assignment into .data": _write_data,
    "assignment to .data": _assign_data,
    "subtraction from .data": _subtract_data,
    "fill_ of .detach()": lambda x: x.detach().fill_(5.0),
    "fill_ of a slice": lambda x: x[1:].fill_(5.0),
    "fill_ of a transposed view": lambda x: x.T.fill_(5.0),
    "fill_ of a view of a view": lambda x: x.reshape(-1)[1:].reshape(1, -1).fill_(5.0),
    "fill_ of a row": _row,
}

IN_PLACE = r"backward through %s .*changed in place 1 time"
SAVED = {
    "an input": lambda x: (x, x.log().sum(), IN_PLACE % "log"),
    "a result": lambda x: ((y := x.exp()), y.sum(), IN_PLACE % "exp"),
    "the base of a view": lambda x: (x, x.T[:, ::-1].log().sum(), "backward through log "),
}
"""For x: what is changed, the loss that needs it as it was, and what backward says."""


class TestVersions:
    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    @pytest.mark.parametrize("saved", SAVED)
    def test_what_was_saved_and_then_changed(self, saved, change):
        x = leaf([[1.0, 2.0], [3.0, 4.0]])
        changed, loss, message = SAVED[saved](x)
        with tg.no_grad():
            change(changed)
        with pytest.raises(RuntimeError, match=message):
            loss.backward()

    def test_an_optimizer_step_between_forward_and_backward(self):
        x = leaf([[1.0, 2.0], [3.0, 4.0]])
        loss = x.log().sum()
        _optimizer_step(x)
        with pytest.raises(RuntimeError, match="backward through log "):
            loss.backward()

    def test_a_step_of_an_optimizer_that_stood_before(self):
        x = leaf([[1.0, 2.0]])
        optimizer = optim.SGD([x], lr=0.5)
        loss = x.log().sum()
        x.grad = tg.Tensor(np.ones((1, 2)))
        optimizer.step()
        with pytest.raises(RuntimeError, match="backward through log "):
            loss.backward()

    @pytest.mark.parametrize(
        "fn",
        [
            lambda x: x + 1,
            lambda x: x.sum(),
            lambda x: x.exp(),
            lambda x: (x + 0).log(),
            lambda x: x.T.reshape(-1).log(),
            lambda x: x.clone().log(),
        ],
        ids=["add", "sum", "exp", "copy", "copying view", "clone"],
    )
    def test_inputs_that_were_not_saved_may_change(self, fn):
        x = leaf([[1.0, 2.0], [3.0, 4.0]])
        (expected,) = tg.grad(fn(x).sum(), x)
        y = fn(x).sum()
        x.data.fill_(5)
        y.backward()
        assert x.grad.tolist() == expected.tolist()

    def test_a_neighbour_in_the_optimizer_s_buffer_may_change(self):
        x, weight, bias = leaf(np.ones((2, 3))), leaf(np.ones((4, 3))), leaf(np.zeros(4))
        optim.SGD([weight, bias], lr=0.1)
        y = F.linear(x, weight, bias).sum()
        bias.data.fill_(3)
        y.backward()
        assert x.grad.tolist() == [[4.0] * 3] * 2

    def test_parameters_without_gradient_keep_their_version(self):
        a, b = leaf([1.0]), leaf([2.0])
        optimizer = optim.SGD([a, b], lr=0.1)
        y = b.log()
        a.grad = tg.Tensor(np.ones(1))
        optimizer.step()
        y.backward()
        assert b.grad.tolist() == [0.5]

    def test_a_gradient_that_grows_while_a_graph_holds_it(self):
        x, w = leaf([1.0]), leaf([3.0])
        (x * 2).backward()
        y = w * x.grad
        (x * 2).backward()
        with pytest.raises(RuntimeError, match=r"backward through multiply .*changed"):
            y.backward()

    def test_a_gradient_buffer_that_is_filled_again_while_a_graph_holds_it(self):
        x, w = leaf([1.0]), leaf([3.0])
        optimizer = optim.SGD([x], lr=0.1)
        (x * 2).backward()
        y = w * x.grad
        optimizer.zero_grad()
        (x * 5).backward()
        with pytest.raises(RuntimeError, match=r"backward through multiply .*changed"):
            y.backward()

    def test_an_operation_that_saves_a_view_of_foreign_memory(self):
        class SquareOfTail(Function):
            def forward(self, x):
                self.saved = (x[1:],)
                return self.saved[0] ** 2

            def backward(self, grad):
                return np.concatenate([[0.0], 2 * self.saved[0] * grad])

        foreign = tg.from_dlpack(np.arange(3.0))
        for x in (leaf([0.0, 1.0, 2.0]), foreign.requires_grad_()):
            y = SquareOfTail.apply(x)
            x.data.fill_(1)
            with pytest.raises(RuntimeError, match="backward through squareoftail"):
                y.backward(np.ones(2))

    def test_a_change_before_the_operation_is_no_matter(self):
        x = leaf([1.0, 2.0])
        x.data.fill_(4)
        x.log().sum().backward()
        assert x.grad.tolist() == [0.25, 0.25]


class TestOwnOperations:
    def test_forward_and_backward(self):
        x = leaf([1.0, 2.0])
        y = Scale.apply(x, factor=3)
        y.backward(np.array([1.0, 10.0]))
        assert y.tolist() == [3.0, 6.0]
        assert x.grad.tolist() == [3.0, 30.0]

    def test_passes_gradcheck(self):
        tg.gradcheck(lambda x: Scale.apply(x, factor=3) * x, leaf(np.linspace(-1, 1, 5)))

    def test_is_told_which_inputs_need_a_gradient(self):
        class Product(Function):
            def forward(self, a, b, c):
                self.saved = (a, b)
                return a * b * c

            def backward(self, grad):
                assert self.needs == (False, True, False)
                return None, grad * self.saved[0] * 2.0, None

        x = leaf(5.0)
        y = Product.apply(tg.Tensor(np.float64(3.0)), x, 2.0)
        y.backward()
        assert x.grad.item() == 6.0

    @pytest.mark.parametrize(
        ("result", "message"),
        [
            (lambda g: g[:1], r"returned float64 of shape \(1,\) .* float64 of shape \(2,\)"),
            (lambda g: g.astype(np.float32), r"returned float32 of shape \(2,\)"),
            (lambda g: None, "returned NoneType"),
            (lambda g: 1.0, "returned float "),
            (lambda g: [g], "returned list "),
            (tg.Tensor, "returned Tensor "),
            (lambda g: (g, g), r"returned 2 gradient\(s\) for 1 input\(s\)"),
            (lambda g: (), r"returned 0 gradient\(s\) for 1 input\(s\)"),
        ],
    )
    @pytest.mark.parametrize("before", [lambda x: x, lambda x: x * 1], ids=["leaf", "result"])
    def test_a_wrong_gradient_is_refused(self, before, result, message):
        x = leaf([1.0, 2.0])
        y = operation(result)(before(x))
        with pytest.raises(RuntimeError, match=f"backward of Custom {message}"):
            y.sum().backward()
        assert x.grad is None

    def test_apply_needs_a_tensor(self):
        with pytest.raises(TypeError, match=r"scale: expected at least one tensor.*'float'"):
            Scale.apply(1.0, factor=2)

    def test_missing_methods_are_named(self):
        class Empty(Function):
            """Neither forward nor backward."""

        with pytest.raises(NotImplementedError, match="Empty defines no forward"):
            Empty.apply(leaf(1.0))

    def test_tensors_of_two_devices_do_not_mix(self):
        a, b = leaf([1.0]), leaf([1.0])
        b.backend = OTHER_DEVICE
        for mix in (lambda: a + b, lambda: a @ b, lambda: F.cat([a, b])):
            with pytest.raises(
                tg.DeviceError, match=r"tensors on cpu and elsewhere.*\.to\('cpu'\)"
            ):
                mix()


class TestLongChains:
    LENGTH = 100_000

    def test_backward(self):
        x = leaf(1.0)
        y = x
        for _ in range(self.LENGTH):
            y = y + 1
        y.backward()
        assert y.item() == self.LENGTH + 1
        assert x.grad.item() == 1.0

    def test_backward_of_saved_values_and_views(self):
        x = leaf([1.0, 2.0])
        y = x
        for _ in range(self.LENGTH // 10):
            y = (y * 1.0).reshape(2)
        y.backward(np.array([1.0, 3.0]))
        assert x.grad.tolist() == [1.0, 3.0]

    def test_a_chain_whose_backward_is_never_called_is_freed(self):
        x = leaf(1.0)
        y = x
        for _ in range(self.LENGTH):
            y = y * 1.0
        first = y.node
        del y
        assert first.edges is not None
        del first
        assert gc.collect() == 0


class TestDetectNonfinite:
    def test_names_the_first_operation_forward(self):
        x = leaf([0.0, 4.0])
        with (
            np.errstate(divide="ignore"),
            tg.detect_nonfinite(),
            pytest.raises(tg.NonFiniteError, match=r"forward of log .*float64 \(2,\) from 0 to 4$"),
        ):
            ((x * 1).log() * 2 + 1).sum()

    def test_names_the_first_operation_backward(self):
        x = leaf([0.0, 4.0])
        loss = (x * 1).sqrt().sum()
        with (
            np.errstate(divide="ignore"),
            tg.detect_nonfinite(),
            pytest.raises(
                tg.NonFiniteError, match=r"backward of sqrt .*float64 \(2,\) from 0 to 2$"
            ),
        ):
            loss.backward()

    def test_tells_how_many_inputs_were_not_finite(self):
        x = leaf([np.inf, 1.0, np.nan])
        with (
            tg.detect_nonfinite(),
            pytest.raises(tg.NonFiniteError, match=r"forward of multiply .*with 2 not finite"),
        ):
            x * 2

    def test_finite_values_pass_and_the_mode_ends(self):
        x = leaf([1.0, 2.0])
        with tg.detect_nonfinite():
            (x.log() * tg.arange(2)).sum().backward()
        assert x.grad.tolist() == [0.0, 0.5]
        with np.errstate(divide="ignore"):
            assert (x * 0).log().tolist() == [-np.inf, -np.inf]

    def test_gradients_that_nobody_needs_are_not_looked_at(self):
        class Half(Function):
            def forward(self, a, b):
                return a + b

            def backward(self, grad):
                return grad, grad * np.inf

        x = leaf(1.0)
        with tg.detect_nonfinite():
            Half.apply(x, tg.Tensor(np.float64(1.0))).backward()
        assert x.grad.item() == 1.0


class TestNumpysErrorState:
    @pytest.fixture(params=["variable", "functions"])
    def _way(self, request, monkeypatch):
        """NumPy's state is set by its context variable, or without one."""
        if request.param == "functions":
            for module in (autograd, modes):
                monkeypatch.setattr(module, "errors", modes.ErrorState)
                monkeypatch.setattr(module, "IGNORED", {"all": "ignore"})

    def test_numpy_has_the_variable(self):
        assert modes.errors is not modes.ErrorState

    @pytest.mark.usefixtures("_way")
    def test_errors_are_ignored_and_the_users_state_is_left(self):
        x = leaf([0.0, 1.0])
        with np.errstate(divide="raise", invalid="raise", over="warn", under="print"):
            before = np.geterr()
            y = ((x - 1) / (x * 0)).log()
            y.sum().backward()
            with pytest.raises(ValueError, match="broadcast"):
                x + leaf([1.0, 2.0, 3.0])
            assert np.geterr() == before
            with pytest.raises(FloatingPointError):
                np.ones(1) / np.zeros(1)
        assert np.isnan(y.array).all()

    @pytest.mark.usefixtures("_way")
    def test_an_operation_within_an_operation_ends_nothing(self):
        class Inner(Function):
            upcasts = True

            def forward(self, x):
                tg.Tensor(x).exp()
                return x / 0

        with np.errstate(all="raise"):
            assert Inner.apply(tg.Tensor(1.0)).item() == np.inf
            with pytest.raises(FloatingPointError):
                np.ones(1) / np.zeros(1)


class TestScalars:
    def test_the_expression_of_micrograd_s_readme(self):
        a, b = tg.Value(-4.0), tg.Value(2.0)
        c = a + b
        d = a * b + b**3
        c += c + 1
        c += 1 + c + (-a)
        d += d * 2 + (b + a).relu()
        d += 3 * d + (b - a).relu()
        e = c - d
        f = e**2
        g = f / 2.0
        g += 10.0 / f
        assert f"{g.data:.4f}" == "24.7041"
        g.backward()
        assert f"{a.grad:.4f}" == "138.8338"
        assert f"{b.grad:.4f}" == "645.5773"

    def test_a_network_of_scalars_trains_as_the_same_network_of_matrices(self):
        rng = np.random.default_rng(0)
        xs, ys = rng.standard_normal((4, 3)), np.array([1.0, -1.0, -1.0, 1.0])
        w1, b1 = rng.standard_normal((4, 3)), rng.standard_normal(4)
        w2, b2 = rng.standard_normal(4), 0.1
        lr = 0.05

        hidden = [([tg.Value(w) for w in row], tg.Value(b)) for row, b in zip(w1, b1, strict=True)]
        last = ([tg.Value(w) for w in w2], tg.Value(b2))
        parameters = [p for weights, bias in [*hidden, last] for p in [*weights, bias]]

        def neuron(weights, bias, inputs):
            return sum((w * x for w, x in zip(weights, inputs, strict=True)), bias).tanh()

        for _ in range(20):
            loss = sum(
                (neuron(*last, [neuron(*each, x) for each in hidden]) - y) ** 2
                for x, y in zip(xs.tolist(), ys.tolist(), strict=True)
            )
            for p in parameters:
                p.grad = None
            loss.backward()
            for p in parameters:
                p.data -= lr * p.grad

            h = np.tanh(xs @ w1.T + b1)  # (4, 4)
            out = np.tanh(h @ w2 + b2)
            assert loss.item() == pytest.approx(((out - ys) ** 2).sum(), rel=1e-12)
            d_out = 2 * (out - ys) * (1 - out**2)
            d_h = np.outer(d_out, w2) * (1 - h**2)
            w2 = w2 - lr * d_out @ h
            b2 = b2 - lr * d_out.sum()
            w1 = w1 - lr * d_h.T @ xs
            b1 = b1 - lr * d_h.sum(0)

        expected = [*np.concatenate([w1, b1[:, None]], 1).ravel(), *w2, b2]
        np.testing.assert_allclose([p.item() for p in parameters], expected, rtol=1e-12)

    def test_a_sum_of_python_s_starts_from_a_number(self):
        values = [tg.Value(1.0), tg.Value(2.0)]
        sum(values).backward()
        assert [v.grad.item() for v in values] == [1.0, 1.0]


def test_copies_are_leaves_of_their_own():
    x = leaf([1.0, 2.0])
    x.sum().backward()
    twin = copy.deepcopy(x)
    assert twin.requires_grad
    assert twin.grad.tolist() == [1, 1]
    assert twin.grad is not x.grad
    assert not np.shares_memory(twin.array, x.array)
    with pytest.raises(RuntimeError, match="only leaves"):
        copy.deepcopy(x * 1)


class TestGradientsThatAreAssigned:
    @pytest.mark.parametrize("held", [False, True], ids=["alone", "in a flat buffer"])
    def test_what_fits(self, held):
        x = leaf([[1.0, 2.0]], np.float32)
        optimizer = optim.SGD([x, leaf([0.0], np.float32)], lr=1.0) if held else None
        source = np.array([[3, 4]])
        values = (2, 2.5, np.float64(3), True * 1, source, np.float64([[1, 2]]), tg.Tensor(source))
        for value in values:
            x.grad = value
            expected = np.broadcast_to(getattr(value, "array", value), (1, 2))
            assert x.grad.dtype == np.float32
            assert x.grad.tolist() == expected.tolist()
            assert x.grad_buffer is None or x.grad is x.grad_buffer
        x.grad = source
        source[...] = 9
        assert x.grad.tolist() == [[3, 4]]
        x.grad += 1
        (x * 2).sum().backward()
        assert x.grad.tolist() == [[6, 7]]
        if optimizer is not None:
            optimizer.step()
            assert x.tolist() == [[-5, -5]]
        x.grad = None
        assert x.grad is None

    def test_micrograd_s_loop(self):
        a = tg.Value(2.0)
        for _ in range(3):
            a.grad = 0.0
            (a * a).backward()
            assert a.grad.item() == 4

    @pytest.mark.parametrize(
        ("value", "error"),
        [
            (np.ones(3), ValueError),
            (np.ones((2, 1)), ValueError),
            (np.ones(()), ValueError),
            (tg.ones(1), ValueError),
            ([1.0, 2.0], TypeError),
            ("0", TypeError),
            (True, TypeError),
            (1j, TypeError),
            (np.complex64(1), TypeError),
            (np.array([1j, 2]), TypeError),
            (np.array(["a", "b"]), TypeError),
            (object(), TypeError),
        ],
        ids=lambda each: getattr(each, "__name__", type(each).__name__),
    )
    def test_what_does_not(self, value, error):
        x = leaf([1.0, 2.0])
        x.grad = 5.0
        with pytest.raises(error, match="grad: "):
            x.grad = value
        assert x.grad.tolist() == [5, 5]

    def test_integers_have_none(self):
        with pytest.raises(TypeError, match="this one is int64"):
            tg.Tensor([1, 2]).grad = 1.0

    def test_a_gradient_from_before_the_optimizer(self):
        x = leaf([1.0, 2.0])
        x.grad = 3.0
        optim.SGD([x], lr=1.0).step()
        assert x.tolist() == [-2, -1]


class TestGradientsOfGradients:
    def test_a_loss_that_reaches_a_result_of_grad_refuses(self):
        x, w = leaf([2.0, 3.0]), leaf([1.0, 1.0])
        (g,) = tg.grad((x**3).sum(), x)
        assert not g.requires_grad
        for loss in (
            lambda: (w * g).sum(),
            lambda: x.sum() + (g * g).sum(),
            lambda: x.sum() + g.reshape(1, 2).T[0].exp().sum() * 2,
            lambda: (x - g * 0.1).sum(),
        ):
            with pytest.raises(RuntimeError, match=r"result of grad\(\).*\.detach\(\)"):
                loss().backward()
            with pytest.raises(RuntimeError, match=r"result of grad"):
                tg.grad(loss(), [x], allow_unused=True)
        with pytest.raises(RuntimeError, match="gradients of gradients are not computed"):
            (g * g).sum().backward()

    def test_a_loss_with_constants_takes_none(self):
        x = leaf([2.0, 3.0])
        (g,) = tg.grad((x * x).sum(), x)
        with pytest.raises(ValueError, match=r"no gradient is computed by weight.*detach"):
            tg.functional.cross_entropy(x, 0, weight=g)
        with pytest.raises(ValueError, match=r"no gradient is computed by pos_weight.*detach"):
            tg.functional.binary_cross_entropy_with_logits(x, x.detach(), pos_weight=g)
        for weight in (g.detach(), g):
            with tg.no_grad():
                assert tg.functional.cross_entropy(x, 0, weight=weight).item() > 0

    def test_what_ends_it(self):
        x = leaf([2.0, 3.0])

        def fresh():
            return tg.grad((x * x).sum(), x)[0]

        g = fresh()
        with tg.no_grad():
            outside = g * 2
        written, summed = tg.zeros(2, np.float64), tg.zeros(2, np.float64)
        written.copy_(fresh())
        summed += fresh()
        scaled = fresh()
        scaled *= 0.5
        for constant in (fresh().detach(), outside, written, summed, scaled):
            x.grad = None
            (x * constant).sum().backward()
            assert x.grad.tolist() == constant.tolist()
        again = fresh().requires_grad_()
        (again * 3).sum().backward()
        assert again.grad.tolist() == [3, 3]

    def test_functional_loops_run(self):
        p, q = leaf([4.0]), leaf([4.0])
        for _ in range(3):
            (g,) = tg.grad((p * p).sum(), p)
            with tg.no_grad():
                p = p - 0.1 * g
            p.requires_grad_()
            (g,) = tg.grad((q * q).sum(), q)
            q = (q - 0.1 * g).detach().requires_grad_()
        assert p.item() == q.item() == pytest.approx(4 * 0.8**3)

    def test_the_way_through_before_it_is_free(self):
        x = leaf([2.0])
        (g,) = tg.grad((x * x).sum(), x)
        h = x * g
        y = h * 3
        assert tg.grad(y, h)[0].tolist() == [3]

    def test_create_graph_says_so(self):
        x = leaf([2.0])
        with pytest.raises(NotImplementedError, match=r"grad\(create_graph=True\)"):
            tg.grad((x * x).sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match=r"backward\(create_graph=True\)"):
            (x * x).sum().backward(create_graph=True)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (lambda x: None, "returned None, expected an array; is a return missing"),
        (lambda x: 1.5, "returned float"),
        (lambda x: [1.0, 2.0], "returned list"),
        (lambda x: (x, x), "returned tuple"),
        (lambda x: tg.Tensor(x), "returned Tensor, .* raw arrays"),
        (lambda x: "text", "returned str"),
    ],
)
def test_a_forward_that_returns_no_array(result, words):
    class Wrong(Function):
        def forward(self, x):
            return result(x)

    for x in (leaf([1.0, 2.0]), tg.ones(2)):
        with pytest.raises(TypeError, match=f"forward of Wrong {words}"):
            Wrong.apply(x)


def test_a_forward_may_return_a_number_of_numpy():
    class Total(Function):
        def forward(self, x):
            self.shape_before = x.shape
            return x.sum()

        def backward(self, grad):
            return np.broadcast_to(grad, self.shape_before)

    x = leaf([1.0, 2.0])
    Total.apply(x).backward()
    assert x.grad.tolist() == [1, 1]


def test_a_change_by_another_thread_during_forward_is_noticed():
    class Interrupted(Function):
        def forward(self, x):
            y = x.copy()
            x_tensor.data.fill_(7)
            self.saved = (x,)
            return y

        def backward(self, grad):
            return grad * self.saved[0]

    x_tensor = leaf([1.0, 2.0])
    y = Interrupted.apply(x_tensor)
    with pytest.raises(RuntimeError, match="changed in place 1 time"):
        y.sum().backward()
