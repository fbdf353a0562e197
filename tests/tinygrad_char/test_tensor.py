"""Tensor as NumPy and PyTorch users expect it: values, dtypes, conversions, changes, errors."""

import copy
import math
import operator
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import DeviceError, Tensor
from tinygrad_char import functional as F
from tinygrad_char.kernels.backend import CPU, Backend
from tinygrad_char.kernels.dropout import DropoutKey
from tinygrad_char.ops.shape import Transfer

ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


def f32(*values):
    return Tensor(np.array(values, np.float32))


def leaf(*values):
    return Tensor(np.array(values, np.float32), requires_grad=True)


# Making tensors


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (1.5, np.float32, ()),
        (2, np.int64, ()),
        (True, np.bool_, ()),
        ([1, 2, 3], np.int64, (3,)),
        ([1, 2.5], np.float32, (2,)),
        ([[True, False]], np.bool_, (1, 2)),
        ([], np.float32, (0,)),
        (np.float64(2), np.float64, ()),
        (np.ones((2, 3)), np.float64, (2, 3)),
        (np.ones(2, np.float16), np.float16, (2,)),
        (np.ones(2, np.int8), np.int8, (2,)),
        (range(4), np.int64, (4,)),
        (((1.0, 2.0), [3.0, 4.0]), np.float32, (2, 2)),
    ],
)
def test_dtype_of_data(data, dtype, shape):
    t = Tensor(data)
    assert t.dtype == dtype
    assert t.shape == shape
    np.testing.assert_array_equal(t.numpy(), np.array(data))


def test_nested_tensors_become_one():
    t = Tensor([Tensor([1.0, 2.0]), [3, Tensor(4)]])
    assert t.tolist() == [[1, 2], [3, 4]]


def test_data_is_copied():
    array = np.zeros(3)
    t = Tensor(array)
    again = Tensor(t)
    array[0] = 1
    t[1] = 1
    assert t.tolist() == [0, 1, 0]
    assert again.tolist() == [0, 0, 0]


def test_dtype_argument_converts():
    assert Tensor([1, 2], np.float64).dtype == np.float64
    assert Tensor(np.array([1.5, 2.5]), "int64").tolist() == [1, 2]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([[1, 2], [3]], ValueError, "nested sequence"),
        (1j, TypeError, "not complex128"),
        ("text", TypeError, "from str"),
        (None, TypeError, "not object .from NoneType"),
        ([2**80], OverflowError, "does not fit into int64"),
        ([{}], TypeError, "not object"),
        (np.array(["a"]), TypeError, "from ndarray"),
    ],
)
def test_data_that_is_no_number_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        Tensor(data)


def test_only_floats_require_a_gradient():
    with pytest.raises(TypeError, match=r"only floating tensors can require a gradient.*int64"):
        Tensor([1, 2], requires_grad=True)


def test_creation_functions():
    assert tg.zeros((2, 3)).numpy().tolist() == [[0] * 3] * 2
    assert tg.zeros(3).dtype == tg.ones(3).dtype == np.float32
    assert tg.full((2,), 7, np.int64).tolist() == [7, 7]
    assert tg.ones((), np.float64, requires_grad=True).requires_grad
    like = Tensor(np.ones((2, 2), np.float16))
    for made, value in ((tg.zeros_like(like), 0), (tg.ones_like(like), 1)):
        assert made.dtype == np.float16
        assert made.tolist() == [[value] * 2] * 2
    assert tg.arange(3).tolist() == [0, 1, 2]
    assert tg.arange(3).dtype == tg.arange(np.int32(3)).dtype == np.int64
    assert tg.arange(0, 1, 0.25).dtype == np.float32
    assert tg.arange(1, 3, dtype="f8").dtype == np.float64
    assert tg.Value(2).dtype == np.float64
    assert tg.Value(2).requires_grad
    assert tg.tensor([1.0], requires_grad=True).requires_grad


# dtypes of results


TABLE = [
    ("f4", "f4", "f4", "f4"),
    ("f8", "f8", "f8", "f8"),
    ("f2", "f2", "f2", "f2"),
    ("f4", "i8", "f4", "f4"),
    ("f2", "i8", "f2", "f2"),
    ("f8", "?", "f8", "f8"),
    ("i4", "i8", "i8", "f4"),
    ("i8", "i8", "i8", "f4"),
    ("u1", "?", "u1", "f4"),
]


@pytest.mark.parametrize(("a", "b", "product", "quotient"), TABLE)
def test_dtypes_of_two_tensors(a, b, product, quotient):
    left, right = Tensor(np.ones(2, a)), Tensor(np.ones(2, b))
    for x, y in ((left, right), (right, left)):
        assert (x * y).dtype == np.dtype(product)
        assert (x / y).dtype == np.dtype(quotient)
        assert (x < y).dtype == bool
        assert tg.where(x > 0, x, y).dtype == np.dtype(product)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize(
    "number", [2, 2.5, True, np.float64(2), np.float32(2), np.int8(2), np.bool_(1)]
)
def test_numbers_take_the_dtype_of_a_floating_tensor(dtype, number):
    t = Tensor(np.array([1.0, 2.0], dtype))
    for function in ARITHMETIC:
        for result in (function(t, number), function(number, t)):
            assert type(result) is Tensor
            assert result.dtype == dtype
        np.testing.assert_allclose(
            function(number, t).numpy(), function(float(number), t.numpy().astype(float)), rtol=1e-2
        )
    for result in (
        *(tg.maximum(t, number), tg.minimum(number, t), tg.where(t > 1, t, number)),
        *(
            tg.where(t > 1, number, t),
            t.masked_fill(t > 1, number),
            t.clip(number),
            t.clip(high=number),
        ),
    ):
        assert result.dtype == dtype


def test_integers_stay_integers_until_a_float_comes():
    t = Tensor([1, 2, 3])
    assert (t + 1).dtype == (t * True).dtype == (-t).dtype == (t**2).dtype == np.int64
    assert (t + 1.5).dtype == (t / 2).dtype == (1 / t).dtype == t.mean().dtype == np.float32
    assert t.exp().dtype == t.sqrt().dtype == t.softmax().dtype == t.gelu().dtype == np.float32
    assert t.clip(0.5, 2.5).tolist() == [1, 2, 2.5]
    assert t.clip(2).dtype == np.int64
    assert t.sum().dtype == t.max().dtype == t.cumsum(0).dtype == np.int64
    assert Tensor([True, True]).sum().item() == 2
    assert Tensor([True, True]).cumsum(0).tolist() == [1, 2]
    assert F.layer_norm(t).dtype == F.dropout(t, 0.5, DropoutKey(0, 0)).dtype == np.float32
    assert F.cross_entropy(Tensor([[1, 2]]), [0]).dtype == np.float32


@pytest.mark.parametrize(
    "function", [*ARITHMETIC, *COMPARISONS, operator.matmul, tg.maximum, tg.minimum]
)
def test_two_floating_dtypes_do_not_mix(function):
    a, b = f32(1, 2), Tensor(np.array([1.0, 2.0]))
    for x, y in ((a, b), (b, a), (a, np.array([1.0, 2.0])), (np.array([1.0, 2.0]), a)):
        with pytest.raises(TypeError, match=r"float(32|64) and float(32|64).*\.astype\('float"):
            function(x, y)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("cat", lambda a, b: tg.cat([a, b])),
        ("stack", lambda a, b: tg.stack([a, b])),
        ("linear", lambda a, b: F.linear(a, b[None])),
        ("layer_norm", F.layer_norm),
        ("where", lambda a, b: tg.where(a > 0, a, b)),
        ("attention", lambda a, b: F.attention(*([a[None, None, None]] * 2), b[None, None, None])),
    ],
)
def test_functions_name_themselves_where_dtypes_differ(name, function):
    with pytest.raises(TypeError, match=rf"{name}: dtypes float32(,| and) float64"):
        function(f32(1, 2), Tensor(np.array([1.0, 2.0])))


# NumPy on either side


@pytest.mark.parametrize("function", [*ARITHMETIC, *COMPARISONS])
def test_arrays_on_either_side(function):
    array, t = np.array([1, 2], np.float32), f32(3, 2)
    for left, right in ((array, t), (t, array), ([1, 2], t), (t, [1, 2])):
        result = function(left, right)
        assert type(result) is Tensor
        np.testing.assert_array_equal(
            result.numpy(), function(np.array(left, "f4"), np.array(right, "f4"))
        )
    number = function(np.float64(2), t)
    assert type(number) is Tensor
    np.testing.assert_array_equal(number.numpy(), function(np.float32(2), t.numpy()))


def test_gradient_flows_through_an_array_on_the_left():
    t = leaf(1, 2)
    (np.array([3, 4], np.float32) * t).sum().backward()
    assert t.grad.tolist() == [3, 4]
    assert (np.eye(2, dtype=np.float32) @ t).tolist() == [1, 2]


def test_numpys_functions_refuse_rather_than_lose_the_history():
    with pytest.raises(TypeError, match=r"np.exp: .*call x.exp\(\) or tinygrad_char.exp\(x\)"):
        np.exp(leaf(1, 2))


@pytest.mark.parametrize("other", ["text", None, 1j, object()])
@pytest.mark.parametrize(
    ("message", "function"),
    [
        (r"unsupported operand type\(s\) for \+: 'Tensor'", operator.add),
        (r"unsupported operand type\(s\) for @: 'Tensor'", operator.matmul),
        (r"'<' not supported between instances of 'Tensor'", operator.lt),
        (r"maximum: expected a tensor, a number, an array", tg.maximum),
    ],
)
def test_other_operands_are_refused_by_name(message, function, other):
    with pytest.raises(TypeError, match=message):
        function(f32(1), other)
    with pytest.raises(TypeError, match=r"expected a tensor, a number, an array .* got complex"):
        function(f32(1), np.complex64(1))


# Comparisons, masks, logic


def test_logic_of_masks():
    a, b = Tensor([True, True, False]), Tensor([True, False, False])
    assert (a & b).tolist() == [True, False, False]
    assert (a | b).tolist() == [True, True, False]
    assert (a ^ b).tolist() == [False, True, False]
    assert (~a).tolist() == [False, False, True]
    assert (np.array([True, False, True]) & a).tolist() == [True, False, False]
    assert (True & a).tolist() == (a & True).tolist() == a.tolist()
    assert (False | a).tolist() == a.tolist()
    assert (Tensor([6]) & 3).tolist() == [2]
    assert a.any()
    assert not a.all()
    assert f32(1, 2).argmax().item() == 1
    assert Tensor([[1, 5], [7, 2]]).argmin(axis=1).tolist() == [0, 1]


def test_equality_is_elementwise_and_hash_is_identity():
    a = f32(1, 2)
    assert (a == f32(1, 3)).tolist() == [True, False]
    assert a in {a}
    assert len({a, f32(1, 2)}) == 2


# Conversions


def test_single_elements_become_numbers():
    t = Tensor([[2.5]])
    assert t.item() == float(t) == 2.5
    assert type(t.item()) is float
    assert int(t) == 2
    assert bool(t)
    assert not f32(0)
    assert math.sqrt(Tensor(4.0)) == 2
    assert [10, 11, 12][Tensor(1)] == 11
    assert f"{t:.2f}" == "2.50"
    assert f"{Tensor(7):04d}" == "0007"


def test_length_iteration_and_lists():
    t = Tensor([[1, 2], [3, 4]])
    assert len(t) == 2
    assert [row.tolist() for row in t] == [[1, 2], [3, 4]]
    assert t.tolist() == [[1, 2], [3, 4]]
    assert 3 in Tensor([1, 3])
    assert (t.ndim, t.size, t.numel(), t.device, t.is_leaf) == (2, 4, 4, "cpu", True)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda: f32(1, 2).item(), ValueError, r"item\(\) of shape \(2,\): expected exactly one"),
        (lambda: bool(f32(1, 2)), ValueError, r"shape \(2,\)"),
        (lambda: float(f32()), ValueError, r"shape \(0,\)"),
        (lambda: len(Tensor(1.0)), TypeError, "without axes"),
        (lambda: list(Tensor(1.0)), TypeError, "without axes"),
        (lambda: [1, 2][f32(1)], TypeError, "float32 tensor cannot be used as an index"),
        (lambda: [1, 2][Tensor(True)], TypeError, "bool tensor cannot be used as an index"),
    ],
)
def test_conversions_that_make_no_sense(function, error, message):
    with pytest.raises(error, match=message):
        function()


def test_repr_tells_what_matters():
    assert repr(f32(1, 2.5)) == "Tensor([1. , 2.5])"
    assert repr(Tensor([1, 2])) == "Tensor([1, 2])"
    assert repr(Tensor(np.ones(1))) == "Tensor([1.], dtype=float64)"
    assert repr(leaf(1)) == "Tensor([1.], requires_grad=True)"
    assert repr(leaf(1) * 2) == "Tensor([2.], made by multiply)"
    assert f"{leaf(1)}" == repr(leaf(1))
    assert len(repr(tg.zeros((1000, 1000)))) < 500


def test_array_is_a_read_only_view():
    t = f32(1, 2)
    for view in (t.numpy(), np.asarray(t)):
        assert np.shares_memory(view, t.array)
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 5
    changed = np.array(t)
    changed[0] = 5
    assert t.tolist() == [1, 2]
    assert np.asarray(t, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="copy"):
        np.array(t, dtype=np.float64, copy=False)
    for function in (lambda t: t.numpy(), np.asarray):
        with pytest.raises(RuntimeError, match=r"\.detach\(\)"):
            function(leaf(1, 2))
    assert leaf(1, 2).detach().numpy().tolist() == [1, 2]


def test_from_numpy_shares_memory():
    array = np.zeros(3)
    t = tg.from_numpy(array)
    t[0] = 1
    array[1] = 2
    assert t.tolist() == array.tolist() == [1, 2, 0]
    assert tg.from_numpy(np.array(1.0)).shape == ()
    with pytest.raises(TypeError, match=r"expected a numpy\.ndarray, got list"):
        tg.from_numpy([1])
    with pytest.raises(TypeError, match="complex128"):
        tg.from_numpy(np.ones(1, complex))


def test_dlpack_with_numpy_shares_memory():
    t = f32(1, 2)
    array = np.from_dlpack(t)
    t[0] = 5
    assert array.tolist() == [5, 2]
    back = tg.from_dlpack(array)
    assert back.dtype == np.float32
    assert np.shares_memory(back.array, t.array)
    with pytest.raises(BufferError, match=r"\.detach\(\)"):
        np.from_dlpack(leaf(1))
    with pytest.raises(TypeError, match="speaks DLPack, got list"):
        tg.from_dlpack([1.0])


def test_dlpack_with_pytorch_shares_memory():
    torch = pytest.importorskip("torch", reason="DLPack exchange with PyTorch needs PyTorch")
    t = f32(1, 2)
    theirs = torch.from_dlpack(t)
    theirs[0] = 7
    assert t.tolist() == [7, 2]
    source = torch.ones(2, 3, dtype=torch.float64)
    ours = tg.from_dlpack(source)
    ours[0, 1] = 4
    source[1, 2] = 9
    assert ours.dtype == np.float64
    assert ours.tolist() == source.tolist() == [[1, 4, 1], [1, 1, 9]]
    assert tg.from_dlpack(source.T).shape == (3, 2)


def test_tensor_of_a_pytorch_tensor_copies_and_keeps_the_dtype():
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    source = torch.ones(2, dtype=torch.float64)
    t = Tensor(source)
    source[0] = 5
    assert t.dtype == np.float64
    assert t.tolist() == [1, 1]


# Changes in place


def test_setitem():
    t = tg.zeros((2, 3))
    t[0] = 1
    t[1, ::2] = [5, 6]
    t[[0], [2]] = f32(9)
    t[t == 1] = -1
    assert t.tolist() == [[-1, -1, 9], [5, 0, 6]]
    t[Tensor([0]), Tensor([1])] = np.float64(3)
    assert t[0, 1].item() == 3
    assert t.dtype == np.float32


def test_views_change_with_their_base():
    t = tg.zeros((2, 3))
    t[1].fill_(2)
    t[0, 1].fill_(7)
    t.T[0] = 4
    t.reshape(6)[2] = 1
    assert t.tolist() == [[4, 7, 1], [4, 2, 2]]


def test_copy_fill_zero_and_data():
    t = leaf(1, 2)
    with tg.no_grad():
        assert t.fill_(3) is t
        assert t.tolist() == [3, 3]
        t.copy_([5, 6])
    t.data -= 1
    assert t.tolist() == [4, 5]
    with tg.no_grad():
        assert t.zero_().tolist() == [0, 0]
        assert t.requires_grad
        with pytest.raises(ValueError, match=r"copy_: values of shape \(3,\) into \(2,\)"):
            t.copy_([1, 2, 3])


def test_change_of_a_saved_tensor_is_noticed_through_every_alias():
    for change in (
        lambda x: x.data.fill_(1),
        lambda x: x.detach().fill_(1),
        lambda x: x.detach()[0].fill_(1),
        lambda x: x.detach().reshape(2, 1).T.zero_(),
    ):
        x = leaf(1, 2)
        y = (x * x).sum()
        change(x)
        with pytest.raises(RuntimeError, match="changed in place"):
            y.backward()


@pytest.mark.parametrize("kind", [np.array, Tensor, list])
def test_index_that_changes_later_does_not_matter(kind):
    x = leaf(1, 2, 3)
    index = kind([0, 1])
    y = x[index]
    index[0] = 2
    y.sum().backward()
    assert x.grad.tolist() == [1, 1, 0]


# Copies, devices, dtypes


def test_clone_and_contiguous():
    for dtype in ("?", "i2", "f2", "f8"):
        t = Tensor(np.ones((2, 3), dtype)).T
        for result in (t.clone(), t.contiguous()):
            assert result.dtype == t.dtype
            assert result.array.flags.c_contiguous
            assert not np.shares_memory(result.array, t.array)
    assert math.copysign(1, Tensor(-0.0).clone().item()) == -1
    row = f32(1, 2)
    assert row.contiguous() is row


def test_deep_copy():
    x = leaf(1, 2)
    other = copy.deepcopy(x)
    other.data.fill_(0)
    assert x.tolist() == [1, 2]
    assert other.requires_grad
    with pytest.raises(RuntimeError, match="only leaves"):
        copy.deepcopy(x * 2)


def test_to_and_astype():
    t = leaf(1, 2)
    assert t.to("cpu") is t.cpu() is t.astype("float32") is t
    y = t.to(np.float64)
    assert y.dtype == np.float64
    y.sum().backward()
    assert t.grad.dtype == np.float32
    assert t.astype(int).tolist() == [1, 2]
    assert not t.astype(int).requires_grad
    for target in ("tpu", None, "flaot32"):
        with pytest.raises(DeviceError, match=r"expected a device \('cpu', 'cuda', .* or a dtype"):
            t.to(target)
    with pytest.raises(TypeError, match=r"astype\('complex64'\)"):
        t.astype(np.complex64)
    with pytest.raises(DeviceError, match="unknown device 'tpu'"):
        Tensor([1.0], device="tpu")


class Elsewhere(np.ndarray):
    """Arrays of a device that does not exist."""


class ElsewhereBackend(Backend):
    def from_numpy(self, array):
        return array.view(Elsewhere)

    def to_numpy(self, array):
        return array.view(np.ndarray)


@pytest.fixture
def elsewhere(monkeypatch):
    namespace = SimpleNamespace(
        asarray=lambda array: np.asanyarray(array).view(Elsewhere), ones_like=np.ones_like
    )
    backend = ElsewhereBackend("elsewhere", namespace, Elsewhere)
    monkeypatch.setattr(
        sys.modules[Tensor.__module__],
        "backend_of",
        lambda array: backend if isinstance(array, Elsewhere) else CPU,
    )
    return backend


def test_moved_tensor_belongs_to_its_new_device_and_its_gradient_comes_back(elsewhere):
    x = leaf(1, 2)
    y = Transfer.apply(x, target=elsewhere)
    assert y.device == "elsewhere"
    assert type(y.array) is Elsewhere
    back = Transfer.apply(y, target=CPU)
    assert back.device == "cpu"
    assert type(back.array) is np.ndarray
    (back * f32(3, 4)).sum().backward()
    assert type(x.grad.array) is np.ndarray
    assert x.grad.tolist() == [3, 4]


def test_tensors_of_two_devices_do_not_mix(elsewhere):
    x = f32(1, 2)
    y = Transfer.apply(x, target=elsewhere)
    with pytest.raises(DeviceError, match=r"add: tensors on cpu and elsewhere.*\.to\('cpu'\)"):
        x + y
    with pytest.raises(DeviceError, match="elsewhere"):
        x[:] = y
    with pytest.raises(TypeError, match=r"call \.to\('cpu'\)"):
        np.asarray(y)


# Hooks


def test_hooks_run_in_order_though_their_handles_are_forgotten():
    x = leaf(1)
    seen = []
    for number in range(5):
        x.register_hook(lambda grad, number=number: seen.append(number))
    (x * 2).backward()
    assert seen == [0, 1, 2, 3, 4]


def test_removed_hook_is_silent_and_a_result_replaces_the_gradient():
    x = leaf(1)
    handle = x.register_hook(lambda grad: grad * 100)
    x.register_hook(lambda grad: grad * 10)
    handle.remove()
    handle.remove()
    (x * 2).backward()
    assert x.grad.tolist() == [20]


# Ties and other points where there is no one derivative: PyTorch's choice


@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (lambda x: tg.maximum(x, 1.0), lambda t, x: t.maximum(x, t.ones(3)), [1, 0, 2]),
        (lambda x: tg.minimum(x, 1.0), lambda t, x: t.minimum(x, t.ones(3)), [1, 0, 2]),
        (lambda x: x.max(), lambda t, x: x.amax(), [3, 3, 1]),
        (lambda x: x.min(), lambda t, x: x.amin(), [3, 1, 1]),
        (lambda x: x.clip(0, 2), lambda t, x: x.clip(0, 2), [0, 1, 2]),
        (lambda x: x.relu(), lambda t, x: x.relu(), [0, 1, -1]),
        (abs, lambda t, x: abs(x), [0, 1, -1]),
        (lambda x: x**0, lambda t, x: x**0, [0, 1, -1]),
        (lambda x: x**1, lambda t, x: x**1, [0, 1, -1]),
        (lambda x: x**2, lambda t, x: x**2, [0, 1, -1]),
        (lambda x: x.std(), lambda t, x: x.std(correction=0), [2, 2, 2]),
        (lambda x: x.var(), lambda t, x: x.var(correction=0), [2, 2, 2]),
        (lambda x: x ** Tensor([0.0, 0, 2]), lambda t, x: x ** t.tensor([0.0, 0, 2]), [0, 1, 0]),
        (lambda x: Tensor([0.0, 2, 1]) ** x, lambda t, x: t.tensor([0.0, 2, 1]) ** x, [0, 0, 2]),
        (lambda x: (x * 500).sigmoid(), lambda t, x: (x * 500).sigmoid(), [-1, 0, 1]),
        (lambda x: (x * 500).tanh(), lambda t, x: (x * 500).tanh(), [-1, 0, 1]),
    ],
)
def test_special_points_as_pytorch(ours, theirs, values):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch")
    x, t = leaf(*values), torch.tensor(values, dtype=torch.float32, requires_grad=True)
    mine, other = ours(x), theirs(torch, t)
    np.testing.assert_allclose(mine.detach().numpy(), other.detach().numpy(), rtol=1e-6)
    mine.backward(np.ones(mine.shape))
    other.backward(torch.ones_like(other))
    np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-6)


def test_hidden_row_of_a_softmax_gives_zeros_and_no_gradient():
    x = Tensor(np.array([[1.0, 2.0], [3.0, 4.0]]), requires_grad=True)
    y = F.softmax(x, mask=[[True, True], [False, False]])
    assert y[1].tolist() == [0, 0]
    y.backward(np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert x.grad[1].tolist() == [0, 0]
    assert abs(x.grad[0, 0].item()) > 0


def test_causal_softmax_of_the_last_rows():
    y = F.softmax(tg.zeros((2, 4)), mask="causal")
    np.testing.assert_allclose(y.numpy(), [[1 / 3, 1 / 3, 1 / 3, 0], [1 / 4] * 4], rtol=1e-6)


# Shapes


def test_transpose_swaps_as_pytorch_and_reorders_as_numpy():
    t = tg.zeros((2, 3, 4))
    assert t.transpose().shape == t.T.shape == (4, 3, 2)
    assert t.transpose(0, 2).shape == (4, 3, 2)
    assert t.transpose(-1, -2).shape == t.mT.shape == (2, 4, 3)
    assert t.transpose(1, 2, 0).shape == t.transpose((1, 2, 0)).shape == (3, 4, 2)
    matrix = tg.zeros((2, 3))
    assert matrix.transpose(0, 1).shape == matrix.transpose(1, 0).shape == (3, 2)
    assert matrix.transpose((0, 1)).shape == (2, 3)


def test_shapes_may_come_as_numbers_or_as_one_sequence():
    t = tg.zeros(6)
    for result in (
        t.reshape(2, 3),
        t.reshape((2, 3)),
        t.view([2, -1]),
        t.reshape(np.array([2, 3])),
    ):
        assert result.shape == (2, 3)
    assert t.reshape(np.int64(3), 2).shape == (3, 2)
    assert t.sum(np.int64(0)).shape == ()
    assert tg.zeros((2, 3)).sum([0, 1]).shape == ()
    assert tg.zeros((1, 3, 1)).squeeze((0, 2)).shape == (3,)
    assert [part.shape for part in t.split(np.int64(4))] == [(4,), (2,)]


def test_zero_sized_shapes():
    t = tg.zeros((0, 2, 3))
    assert t.flatten(1).shape == (0, 6)
    assert t.sum().item() == 0
    assert [part.shape for part in t.split(2)] == [(0, 2, 3)]
    assert t.softmax().shape == t.log_softmax(1).shape == F.layer_norm(t).shape == (0, 2, 3)
    assert F.linear(tg.zeros((3, 0)), tg.zeros((2, 0)), f32(1, 2)).tolist() == [[1, 2]] * 3
    weight = Tensor(np.ones((3, 2)), requires_grad=True)
    F.embedding(np.zeros((0, 4), int), weight).backward(np.zeros((0, 4, 2)))
    assert weight.grad.tolist() == [[0, 0]] * 3
    assert F.attention(*[tg.zeros((0, 1, 2, 3))] * 3).shape == (0, 1, 2, 3)
    assert F.self_attention(tg.zeros((2, 0, 6)), 2).shape == (2, 0, 2)


# Errors say which operation, which shapes, what was expected

E22, E23, E4 = tg.zeros((2, 2)), tg.zeros((2, 3)), tg.zeros(4)
B4 = tg.zeros((1, 1, 2, 4))
KEY = DropoutKey(0, 0)


@pytest.mark.parametrize(
    ("function", "error", "parts"),
    [
        (lambda: E23 + E4, ValueError, ["add", "(2, 3)", "(4,)"]),
        (lambda: E4 - E23, ValueError, ["subtract", "(4,)", "(2, 3)"]),
        (lambda: E23 > E4, ValueError, ["greater", "(2, 3)", "(4,)"]),
        (lambda: (E23 > 0) & (E4 > 0), ValueError, ["bitwise_and", "(2, 3)", "(4,)"]),
        (lambda: E4 | True, TypeError, ["bitwise_or", "float32", "booleans or integers"]),
        (lambda: ~E4, TypeError, ["invert", "float32"]),
        (lambda: tg.where(E4 > 0, E23, 0), ValueError, ["where", "(4,)", "(2, 3)"]),
        (lambda: tg.where(E4, E4, 0), TypeError, ["where", "float32", "booleans"]),
        (lambda: tg.where(True, 1, 2), TypeError, ["where", "at least one tensor"]),
        (lambda: tg.maximum(1, 2), TypeError, ["maximum", "at least one tensor"]),
        (lambda: E4.masked_fill(E4, 0), TypeError, ["masked_fill", "float32", "booleans"]),
        (lambda: E4.masked_fill(E23 > 0, 0), ValueError, ["masked_fill", "(2, 3)", "(4,)"]),
        (lambda: E4.clip("a"), TypeError, ["clip", "'a'", "numbers or None"]),
        (lambda: E4.gelu("fast"), ValueError, ["gelu", "'fast'", "'none' or 'tanh'"]),
        (lambda: E23 @ E23, ValueError, ["matmul", "(2, 3)"]),
        (lambda: E23 @ 2, ValueError, ["matmul", "(2, 3)", "()"]),
        (
            lambda: tg.zeros((2, 4, 3)) @ tg.zeros((5, 3, 2)),
            ValueError,
            ["matmul", "batch", "(2, 4, 3)", "(5, 3, 2)"],
        ),
        (lambda: E23.sum(2), IndexError, ["sum", "axis 2", "2 axes"]),
        (lambda: E23.mean((0, -3)), IndexError, ["mean", "axis -3", "2 axes"]),
        (lambda: E23.max((0, -2)), ValueError, ["max", "(0, -2)", "twice"]),
        (lambda: E23.var(1.5), TypeError, ["var", "1.5", "integer"]),
        (lambda: E23.std(0, correction=2), ValueError, ["std", "(2, 3)", "correction=2"]),
        (lambda: E4[:0].mean(), ValueError, ["mean", "(0,)"]),
        (lambda: E4[:0].max(), ValueError, ["max", "(0,)"]),
        (lambda: E4[:0].argmax(), ValueError, ["argmax", "(0,)"]),
        (lambda: E23.argmin(2), IndexError, ["argmin", "axis 2"]),
        (lambda: E23.all(2), IndexError, ["all", "axis 2"]),
        (lambda: E23.cumsum(2), IndexError, ["cumsum", "axis 2"]),
        (lambda: E23.softmax(2), IndexError, ["softmax", "axis 2"]),
        (lambda: E23.log_softmax(-3), IndexError, ["log_softmax", "axis -3"]),
        (lambda: Tensor(1.0).softmax(1), IndexError, ["softmax", "axis 1", "0 axes"]),
        (lambda: F.softmax(E23, mask=[True]), None, []),
        (lambda: F.softmax(E23, mask=[True] * 2), ValueError, ["softmax", "(2,)", "(2, 3)"]),
        (lambda: F.softmax(E23, mask=[1, 0, 1]), TypeError, ["softmax", "int64", "booleans"]),
        (lambda: F.softmax(E23, mask="casual"), ValueError, ["softmax", "'casual'", "'causal'"]),
        (lambda: F.softmax(E4, mask="causal"), ValueError, ["softmax", "(4,)", "two axes"]),
        (lambda: E23.reshape(4, 2), ValueError, ["reshape", "(2, 3)", "6 elements", "(4, 2)"]),
        (lambda: E23.reshape(-1, -1), ValueError, ["reshape", "(2, 3)", "(-1, -1)"]),
        (lambda: E23.reshape(2.5), TypeError, ["float"]),
        (lambda: E23.permute(0), ValueError, ["permute", "(0,)", "(2, 3)"]),
        (lambda: E23.permute(0, 2), IndexError, ["permute", "axis 2"]),
        (lambda: E23.swapaxes(0, 2), IndexError, ["swapaxes", "axis 2"]),
        (lambda: E23.transpose(0, 2), IndexError, ["axis 2", "2 axes"]),
        (lambda: E4.mT, IndexError, ["axis -2", "1 axes"]),
        (lambda: E23.broadcast_to(3, 3), ValueError, ["broadcast_to", "(2, 3)", "(3, 3)"]),
        (lambda: E23.squeeze(0), ValueError, ["squeeze", "axis 0", "(2, 3)"]),
        (lambda: E23.unsqueeze(3), IndexError, ["unsqueeze", "axis 3"]),
        (lambda: E23.flatten(2), IndexError, ["flatten", "axis 2"]),
        (lambda: E4.split(0), ValueError, ["split", "0", "at least 1"]),
        (lambda: E4.split([1, 2]), ValueError, ["split", "[1, 2]", "(4,)"]),
        (lambda: E4.split(2, 1), IndexError, ["split", "axis 1"]),
        (lambda: E4.tril(), ValueError, ["tril", "(4,)", "two axes"]),
        (lambda: E4.triu(), ValueError, ["triu", "(4,)"]),
        (lambda: tg.cat([]), ValueError, ["cat", "at least one tensor"]),
        (lambda: tg.cat([E23, E4]), ValueError, ["cat", "(2, 3)", "(4,)"]),
        (lambda: tg.cat([E23, E22]), ValueError, ["cat", "(2, 3)", "(2, 2)", "axis"]),
        (lambda: tg.cat([E23], 2), IndexError, ["cat", "axis 2"]),
        (lambda: tg.cat([np.ones(2)]), TypeError, ["cat", "tensors", "ndarray"]),
        (lambda: tg.stack([E23, E22]), ValueError, ["stack", "(2, 3)", "(2, 2)"]),
        (lambda: tg.stack([E23], 3), IndexError, ["stack", "axis 3"]),
        (lambda: E23[2], IndexError, ["getitem", "(2, 3)", "index 2"]),
        (lambda: E23[0, 0, 0], IndexError, ["getitem", "(2, 3)", "too many"]),
        (lambda: E23[[0, 5]], IndexError, ["getitem", "(2, 3)", "5"]),
        (lambda: E23[np.array([True])], IndexError, ["getitem", "(2, 3)", "boolean"]),
        (lambda: E23[0.5], IndexError, ["getitem", "(2, 3)"]),
        (lambda: E23["a"], IndexError, ["getitem", "(2, 3)"]),
        (lambda: E23[f32(0)], IndexError, ["float32", "expected integers"]),
        (lambda: operator.setitem(E23, 5, 1), IndexError, ["setitem", "(2, 3)", "5"]),
        (lambda: operator.setitem(E23, 0, [1, 2]), ValueError, ["setitem", "(2, 3)", "(2,)"]),
        (lambda: F.linear(E23, E22), ValueError, ["linear", "(2, 3)", "(2, 2)", "(out, in)"]),
        (lambda: F.linear(E23, E23, E4), ValueError, ["linear", "(4,)", "(2,)"]),
        (lambda: F.linear(E23.numpy(), E23), TypeError, ["linear", "ndarray"]),
        (lambda: F.linear(E23, E23, None, "tanh"), ValueError, ["'tanh'", "'gelu_tanh'"]),
        (lambda: F.linear(E23, E22, None, "relu"), ValueError, ["(2, 3)", "(2, 2)", "(out, in)"]),
        (lambda: F.linear_residual(E23, E23, None, E23), ValueError, ["(2, 3)", "(2, 2)"]),
        (lambda: F.linear_residual(E23, E23, E4), ValueError, ["linear", "(4,)", "(2,)"]),
        (lambda: F.linear_residual(E23, E23, dropout=0.1), ValueError, ["dropout=0.1", "key"]),
        (lambda: F.linear_residual(E23, E23, dropout=2), ValueError, ["linear_residual", "2"]),
        (lambda: F.layer_norm(E23, E4), ValueError, ["layer_norm", "weight", "(4,)", "(3,)"]),
        (lambda: F.layer_norm(E23, None, E4), ValueError, ["layer_norm", "bias", "(4,)", "(3,)"]),
        (lambda: F.layer_norm(Tensor(1.0)), ValueError, ["layer_norm", "()"]),
        (lambda: F.embedding([2], E23), IndexError, ["embedding", "(0,)", "2", "0 to 1"]),
        (lambda: F.embedding([-1], E23), IndexError, ["embedding", "-1"]),
        (lambda: F.embedding([0.5], E23), TypeError, ["embedding", "float32", "integers"]),
        (lambda: F.embedding([0], E4), ValueError, ["embedding", "(4,)", "(rows, columns)"]),
        (lambda: F.embedding([0], E23, E4), ValueError, ["addend", "(4,)", "(1, 3)"]),
        (lambda: F.embedding([0], E23, Tensor(1.0)), ValueError, ["addend", "()", "(1, 3)"]),
        (
            lambda: F.embedding([0], E23, Tensor(np.zeros(3))),
            TypeError,
            ["embedding", "float32", "float64"],
        ),
        (lambda: F.embedding([0], E23, dtype=int), TypeError, ["embedding", "int64"]),
        (
            lambda: F.cross_entropy(E23, [0]),
            ValueError,
            ["cross_entropy", "(2, 3)", "(1,)", "(2,)"],
        ),
        (
            lambda: F.cross_entropy(E23, [0, 3]),
            IndexError,
            ["cross_entropy", "(1,)", "3", "0 to 2"],
        ),
        (lambda: F.cross_entropy(E23, [0.0, 1]), ValueError, ["cross_entropy", "probabilities"]),
        (lambda: F.cross_entropy(E23, [0, 1], "avg"), ValueError, ["'avg'", "mean"]),
        (lambda: F.cross_entropy(Tensor(1.0), 0), ValueError, ["cross_entropy", "classes"]),
        (lambda: F.attention(E4, E4, E4), ValueError, ["attention", "(4,)", "(B, H, T, D)"]),
        (lambda: F.attention(B4, B4, B4[..., :1, :]), ValueError, ["attention", "(1, 1, 1, 4)"]),
        (lambda: F.attention(B4, B4[..., :3], B4), ValueError, ["attention", "(1, 1, 2, 3)"]),
        (lambda: F.attention(B4, B4, B4, dropout=0.5), ValueError, ["attention", "0.5", "key"]),
        (lambda: F.attention(B4, B4, B4, dropout=2), ValueError, ["attention", "2", "0 to 1"]),
        (lambda: F.self_attention(tg.zeros((1, 2, 8)), 2), ValueError, ["(1, 2, 8)", "2 heads"]),
        (lambda: F.self_attention(tg.zeros((1, 2, 6)), 0), ValueError, ["heads=0"]),
        (lambda: F.self_attention(Tensor(1.0), 2), ValueError, ["self_attention", "()"]),
        (lambda: F.dropout(E4, 1.5, KEY), ValueError, ["dropout", "1.5", "0 to 1"]),
        (lambda: F.dropout(E4, math.nan, KEY), ValueError, ["dropout", "nan"]),
    ],
)
def test_errors_name_the_operation_and_what_is_wrong(function, error, parts):
    if error is None:
        assert isinstance(function(), Tensor)
        return
    with pytest.raises(error) as caught:
        function()
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("device", ["cpu", "cuda-on-cpu"])
def test_numpy_s_questions_about_the_shape_are_answered(device):
    try:
        x = tg.ones((2, 3), device=device).requires_grad_()
    except tg.DeviceError as error:
        pytest.skip(str(error))
    assert (np.shape(x), np.ndim(x), np.size(x), np.size(x, 0)) == ((2, 3), 2, 6, 2)
