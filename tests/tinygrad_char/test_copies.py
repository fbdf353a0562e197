"""Copies and pickles of tensors, modules and generators."""

import copy
import pickle
import sys

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import nn
from tinygrad_char.kernels.backend import DeviceError
from tinygrad_char.models.bigram import Bigram
from tinygrad_char.models.gpt import GPT, GPTConfig
from tinygrad_char.random import Generator, default_generator


def pickled(value):
    return pickle.loads(pickle.dumps(value))


either = pytest.mark.parametrize("how", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])


class Named(tg.Tensor):
    """A subclass without slots."""


@either
class TestTensors:
    @pytest.mark.parametrize("dtype", [bool, np.int8, np.uint64, np.float16, np.float32, float])
    @pytest.mark.parametrize("shape", [(), (0, 2), (2, 3)])
    def test_values_dtype_and_shape(self, how, dtype, shape):
        x = tg.Tensor((np.random.default_rng(0).random(shape) * 3).astype(dtype))
        y = how(x)
        assert (type(y), y.dtype, y.shape, y.tolist()) == (tg.Tensor, x.dtype, shape, x.tolist())
        assert y.device == "cpu"
        assert not np.shares_memory(x.array, y.array)
        y.copy_(y)  # writable

    def test_bfloat16(self, how):
        ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
        x = tg.Tensor(np.array([1.5, -2.0], ml_dtypes.bfloat16))
        assert how(x).dtype == x.dtype
        assert how(x).tolist() == x.tolist()

    def test_the_gradient_goes_along(self, how):
        x = tg.Tensor([1.0, 2.0], requires_grad=True)
        (x * x).sum().backward()
        y = how(x)
        assert y.requires_grad
        assert y.grad.tolist() == [2.0, 4.0]
        (y * y).sum().backward()
        assert y.grad.tolist() == [4.0, 8.0]
        assert x.grad.tolist() == [2.0, 4.0]

    def test_classes_and_their_attributes(self, how):
        x = nn.Parameter([1.0])
        assert type(how(x)) is nn.Parameter
        named = Named([1.0])
        named.name = ["scale"]
        other = how(named)
        assert (type(other), other.name) == (Named, ["scale"])
        assert other.name is not named.name

    def test_views_and_strides(self, how):
        x = tg.Tensor(np.arange(6.0).reshape(2, 3))
        for view in (x.T, x[:, 1:], x[::-1, ::2], tg.from_numpy(np.broadcast_to(1.0, (2, 3)))):
            y = how(view.detach())
            assert y.tolist() == view.tolist()
            assert not np.shares_memory(y.array, x.array)
            y.copy_(np.zeros(y.shape))

    def test_one_tensor_stays_one(self, how):
        x = tg.Tensor([1.0], requires_grad=True)
        a, b = how([x, x])
        assert a is b

    def test_hooks_are_left_behind(self, how):
        x = tg.Tensor([1.0], requires_grad=True)
        x.register_hook(lambda grad: grad * 100)
        y = how(x)
        y.sum().backward()
        assert y.grad.tolist() == [1.0]

    def test_a_computed_tensor_is_refused(self, how):
        with pytest.raises(RuntimeError, match=r"only leaves can be .*detach\(\)"):
            how(tg.Tensor([1.0], requires_grad=True) * 2)

    def test_other_devices(self, how):
        try:
            x = tg.Tensor([1.0, 2.0], device="cuda-on-cpu", requires_grad=True)
        except DeviceError as error:
            pytest.skip(str(error))
        x.sum().backward()
        y = how(x)
        assert (y.device, y.cpu().tolist()) == ("cuda-on-cpu", [1.0, 2.0])
        assert y.grad.device == "cuda-on-cpu"
        assert y.grad.cpu().tolist() == [1.0, 1.0]


def test_a_device_that_is_missing_where_a_tensor_is_unpickled_is_named(monkeypatch):
    x = tg.Tensor([1.0])
    monkeypatch.setattr(tg.Tensor, "device", "cuda")
    data = pickle.dumps(x)

    def get_backend(name):
        raise DeviceError(f"device {name!r} needs CuPy")

    monkeypatch.setattr(sys.modules[tg.Tensor.__module__], "get_backend", get_backend)
    with pytest.raises(DeviceError, match=r"tensor \(1,\) was pickled on 'cuda'.*needs CuPy; move"):
        pickle.loads(data)


def test_a_shallow_copy_is_the_same_memory_and_history():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    y = copy.copy(x * 2)
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]
    z = copy.copy(x)
    assert z.array is x.array
    assert z.version is x.version
    assert z.requires_grad


@either
class TestModules:
    def test_layers_give_the_same(self, how):
        net = nn.Sequential(
            nn.Embedding(5, 4),
            nn.LayerNorm(4),
            nn.CausalSelfAttention(4, 2, dropout=0.5),
            nn.ModuleList([nn.Linear(4, 4)])[0],
            nn.GELU(),
        ).eval()
        other = how(net)
        idx = np.array([[0, 3, 2]])
        assert other(idx).tolist() == net(idx).tolist()
        assert not other.training
        assert repr(other) == repr(net)
        with tg.no_grad():
            other[1].weight.copy_(np.zeros(4))
        assert net[1].weight.tolist() == [1.0] * 4

    def test_shared_parameters_stay_shared_and_gradients_are_kept(self, how):
        net = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        net[1].weight = net[0].weight
        net[1](net[0](tg.ones((1, 2)))).sum().backward()
        other = how(net)
        assert other[1].weight is other[0].weight
        assert other[0].weight.grad.tolist() == net[0].weight.grad.tolist()
        assert [n for n, _ in other.named_parameters()] == [n for n, _ in net.named_parameters()]

    def test_buffers(self, how):
        norm = nn.BatchNorm1d(3)
        norm(tg.Tensor(np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)))
        assert how(norm).running_var.tolist() == norm.running_var.tolist()
        assert [name for name, _ in how(norm).named_buffers()] == [
            name for name, _ in norm.named_buffers()
        ]

    @pytest.mark.parametrize(
        "make",
        [
            lambda: GPT(GPTConfig(8, 1, 2, 16, dropout=0.1), 7, generator=Generator(3)),
            lambda: Bigram(7, 8, generator=Generator(3)),
        ],
        ids=["gpt", "bigram"],
    )
    def test_models(self, how, make):
        model = make().eval()
        idx = np.array([[1, 2, 3, 4]])
        assert how(model)(idx)[0].tolist() == model(idx)[0].tolist()

    def test_dropout_goes_on_from_where_it_was(self, how):
        layer = nn.Dropout(0.5, generator=Generator(7))
        x = tg.ones((64,))
        layer(x)
        other = how(layer)
        first = layer(x).tolist()
        if how is pickled:  # which has a generator of its own, at the same place
            assert other(x).tolist() == first
        else:
            assert other._generator is layer._generator


def test_generators_are_pickled_with_their_state():
    generator = Generator(5)
    generator.init.normal(0, 1, 3)
    generator.dropout.dropout_key()
    other = pickled(generator)
    assert other.get_state() == generator.get_state()
    assert other.init.normal(0, 1, 3).tolist() == generator.init.normal(0, 1, 3).tolist()
    assert pickled(default_generator()) is default_generator()
    stream = pickled(generator.batches)
    assert stream.integers(0, 100, 5).tolist() == generator.batches.integers(0, 100, 5).tolist()
