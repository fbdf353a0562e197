"""float16, and bfloat16 on the host: computed in float32 inside an operation, rounded once."""

import ml_dtypes
import numpy as np
import pytest
from op_cases import CASES, cotangents, operations, outputs

import tinygrad_char as tg
from tinygrad_char import Tensor
from tinygrad_char import functional as F
from tinygrad_char.autograd import Function
from tinygrad_char.kernels.array import is_half

MOVE_ONLY = """Where Negate Absolute Cast GetItem Copy Reshape Permute BroadcastTo Concatenate Stack
    Triangle Transfer Flip Roll Diagonal DiagonalMatrix Overwrite""".split()  # noqa: SIM905
"""Operations that compute nothing of a float16 but, where backward adds up, that sum."""


DEVICE = "cpu"


@pytest.fixture(autouse=True)
def _on_each(device, monkeypatch):
    """Run every test here on each device: `half` makes tensors there."""
    monkeypatch.setitem(globals(), "DEVICE", device)


def half(values, dtype=np.float16):
    return Tensor(np.array(values, dtype), device=DEVICE, requires_grad=True)


def values_of(tensor):
    return tensor.detach().cpu().numpy()


def run(case, arrays, grads):
    tensors = [half(each, each.dtype) for each in arrays]
    results = outputs(case.ours(*tensors))
    for each, cotangent in zip(results, grads, strict=True):
        given = Tensor(cotangent.astype(each.dtype), device=each.device)
        each.backward(given, retain_graph=True)
    return [values_of(each) for each in results], [values_of(each.grad) for each in tensors]


def rounds_once(case, arrays):
    """Whether the case is one operation, which gives each input one gradient."""
    tensors = [Tensor(each, device=DEVICE) for each in arrays]
    with tg.autograd.tracing() as trace:
        case.ours(*tensors)
    if len(trace.operations) != 1:
        return False
    given = [each for each in trace.operations[0].inputs if isinstance(each, Tensor)]
    return len({id(each) for each in given}) == len(given)


each_case = pytest.mark.parametrize(
    "case",
    [each for each in CASES if each.name != "cpu"],  # which goes on with a tensor that stayed
    ids=lambda case: case.name,
)


@each_case
def test_results_are_those_of_float32_rounded_once(case):
    check_rounded_once(case, np.dtype(np.float16))


@pytest.mark.parametrize("device", ["cpu"])  # kernels of devices read bfloat16 as it is
@each_case
def test_results_of_bfloat16_are_those_of_float32_rounded_once(case):
    check_rounded_once(case, np.dtype(ml_dtypes.bfloat16))


def check_rounded_once(case, dtype):
    arrays = [each.astype(dtype) for each in case.inputs()]
    wide = [each.astype(np.float32) for each in arrays]
    results = outputs(case.ours(*(Tensor(each, device=DEVICE) for each in wide)))
    grads = [each.astype(dtype) for each in cotangents(results)]
    found, expected = run(case, arrays, grads), run(case, wide, grads)
    units = 0 if rounds_once(case, arrays) else 8  # what else is rounded on the way
    for mine, exact in zip(found[0] + found[1], expected[0] + expected[1], strict=True):
        if mine.dtype != dtype:
            assert mine.dtype == np.float32
            continue
        limit = units * float(ml_dtypes.finfo(dtype).eps) * np.abs(exact).max(initial=0)
        error = np.abs(mine.astype(np.float32) - exact.astype(dtype).astype(np.float32))
        assert error.max(initial=0) <= limit


def test_every_operation_that_computes_upcasts():
    assert {each.__name__ for each in operations() if not each.upcasts} == set(MOVE_ONLY)


def test_sums_do_not_stop_at_the_precision_of_sixteen_bits():
    ones = half(np.ones((5000, 2)))
    assert ones.sum(0).tolist() == [5000, 5000]
    assert ones.mean().item() == 1
    assert ones.cumsum(0)[-1].tolist() == [5000, 5000]
    assert half(np.ones(70000)).softmax(0)[0].item() == np.float16(1 / 70000)


def test_results_between_may_leave_the_range():
    x = half([300, -300, 3])
    expected = values_of(F.layer_norm(x.astype(np.float32)))
    np.testing.assert_array_equal(values_of(F.layer_norm(x)), expected.astype(np.float16))
    assert half([400.0, -400]).std().item() == 400
    signs = np.array([17, -17] * 2048).reshape(-1, 1)
    assert (half(np.ones((1, 4096))) @ half(signs)).item() == 0
    assert (half([0.5]) * 70000).item() == 35008
    assert half([0.5]).clip(None, 70000.0).item() == 0.5


def test_beyond_the_range_is_infinity_without_a_warning():
    assert (half([300.0]) * 300).item() == np.inf
    assert half([300.0, -300.0]).var().item() == np.inf
    assert Tensor([1e5]).astype(np.float16).item() == np.inf


def test_gradients_that_an_operation_adds_up():
    x = half(np.ones(70000))
    x.mean().backward()
    assert (values_of(x.grad) == np.float16(1 / 70000)).all()
    row = half(np.ones(3))
    (row + half(np.zeros((5000, 3)))).sum().backward()
    assert row.grad.tolist() == [5000] * 3
    row = half(np.ones(3))
    row.broadcast_to(5000, 3).sum().backward()
    assert row.grad.tolist() == [5000] * 3
    row = half(np.ones(1))
    F.where(np.ones(5000, bool), row, half(np.zeros(5000))).sum().backward()
    assert row.grad.tolist() == [5000]
    table = half(np.ones((1, 2)))
    table[np.zeros(5000, int)].sum().backward()
    assert table.grad.tolist() == [[5000] * 2]
    table = half(np.ones((1, 2)))
    F.embedding(np.zeros(5000, int), table).sum().backward()
    assert table.grad.tolist() == [[5000] * 2]


@pytest.mark.parametrize("leaf", [True, False])
@pytest.mark.parametrize("hooked", [True, False])
def test_gradients_of_many_operations_are_added_up_in_float32(leaf, hooked):
    x = half(1)
    source = x if leaf else x * 1
    seen = []
    if hooked:
        source.register_hook(lambda grad: seen.append(grad))
    total = F.stack([source] * 3000)
    (got,) = tg.grad(total.sum(), [x], retain_graph=True)
    assert (got.item(), got.dtype) == (3000, np.float16)
    total.sum().backward()
    assert (x.grad.item(), x.grad.dtype) == (3000, np.float16)
    assert [(each.item(), each.dtype) for each in seen] == [(3000, np.float16)] * 2 * hooked


def test_layer_norm_adds_what_its_input_has_already():
    x = half(np.arange(6).reshape(2, 3))
    (F.layer_norm(x) * x + x * 3).sum().backward()
    wide = half(values_of(x), np.float32)
    (F.layer_norm(wide) * wide + wide * 3).sum().backward()
    found, exact = values_of(x.grad), values_of(wide.grad)
    np.testing.assert_allclose(found, exact, rtol=4e-3, atol=4e-3)


class Dtypes(Function):
    """x + 1, noting what it is given."""

    def forward(self, x):
        self.given = [x.dtype]
        return x + 1

    def backward(self, grad):
        self.given.append(grad.dtype)
        return grad


class Upcast(Dtypes):
    upcasts = True


@pytest.mark.parametrize(("function", "dtype"), [(Dtypes, np.float16), (Upcast, np.float32)])
def test_functions_of_users_see_float32_if_they_ask_for_it(function, dtype):
    x = half([1.0, 2.0])
    y = function.apply(x)
    node = y.node
    y.sum().backward()
    assert node.given == [dtype, dtype]
    assert (y.dtype, x.grad.dtype) == (np.float16, np.float16)


def test_a_change_of_what_was_upcast_leaves_the_gradient_right():
    x = half([2.0])
    y = x * x
    x.detach()[...] = 5
    y.backward()
    assert x.grad.tolist() == [4]


def test_float32_is_left_as_it_is():
    seen = Upcast()
    x = np.ones(3, np.float32)
    assert seen.run_forward([x], {}) is not None
    assert seen.halves == ()
    assert not is_half(x)
    assert not is_half(np.ones(3, np.int16))
    assert not is_half(2.5)
