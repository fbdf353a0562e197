"""Layers beside PyTorch's: the same weights, the same result, the same gradients."""

import copy

import numpy as np
import pytest
from op_cases import torch_heads

import tinygrad_char as tg
from tinygrad_char import nn
from tinygrad_char.random import Generator

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[parity]'")

DTYPES = [np.float32, np.float64]


def normal(shape, dtype, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def copy_weights(ours, theirs, dtype):
    """Give both random weights, and make sure that they have the same names."""
    parameters = dict(ours.named_parameters())
    assert set(parameters) == {name for name, _ in theirs.named_parameters()}
    for seed, (name, tensor) in enumerate(theirs.named_parameters()):
        values = normal(tuple(tensor.shape), dtype, 100 + seed)
        tensor.data = torch.tensor(values)
        parameters[name].data = values


def run(model, tensors, cotangent):
    """Return the result, and by name the gradients of floating inputs and parameters, buffers."""
    for parameter in model.parameters():
        parameter.grad = None
    result = model(*tensors)
    result.backward(cotangent)
    found = {"result": result}
    found |= {f"input {i}": each.grad for i, each in enumerate(tensors) if each.requires_grad}
    found |= {f"gradient of {name}": each.grad for name, each in model.named_parameters()}
    found |= dict(model.named_buffers())
    return {name: each.detach().numpy() for name, each in found.items()}


def check(ours, theirs, inputs, dtype, *, steps=1):
    """Compare results, gradients and buffers of several steps in training or evaluation.

    The error allowed is a few times PyTorch's own against its float64 run, and a few roundings of
    the largest number of the step: gradients that cancel are sums of numbers of that size. In
    float64, where PyTorch's own error is unknown, it is 1e-12 of the largest number.
    """
    exact = copy.deepcopy(theirs).double()
    shape = copy.deepcopy(theirs)(*[torch.tensor(x) for x in inputs]).shape
    for step in range(steps):
        floating = [x.dtype.kind == "f" for x in inputs]
        mine = [tg.Tensor(x, requires_grad=f) for x, f in zip(inputs, floating, strict=True)]
        cotangent = normal(shape, dtype, 50 + step)
        got = run(ours, mine, cotangent)
        want, truth = (
            run(
                model,
                [
                    torch.tensor(x.astype(kind) if f else x, requires_grad=f)
                    for x, f in zip(inputs, floating, strict=True)
                ],
                torch.tensor(cotangent.astype(kind)),
            )
            for model, kind in ((theirs, dtype), (exact, np.float64))
        )
        assert got.keys() == want.keys()
        scale = max(abs(value).max(initial=1) for value in truth.values())
        for name, value in got.items():
            assert value.dtype == want[name].dtype, name
            assert value.shape == want[name].shape, name
            allowed = 4 * abs(want[name] - truth[name]).max(initial=0)
            allowed += max(16 * np.finfo(dtype).eps, 1e-12) * scale
            assert abs(value - truth[name]).max(initial=0) <= allowed, name
        inputs = [
            normal(x.shape, dtype, 70 + step) if f else x
            for x, f in zip(inputs, floating, strict=True)
        ]


def pair(ours, theirs, dtype):
    ours = ours.astype(dtype)
    theirs = theirs.to(torch.float64 if dtype == np.float64 else torch.float32)
    copy_weights(ours, theirs, dtype)
    return ours, theirs


@pytest.mark.parametrize("dtype", DTYPES)
class TestLayers:
    @pytest.mark.parametrize("shape", [(5,), (1, 5), (7, 5), (2, 3, 5), (2, 3, 4, 5), (0, 5)])
    @pytest.mark.parametrize("bias", [True, False])
    def test_linear(self, shape, bias, dtype):
        ours, theirs = pair(nn.Linear(5, 3, bias=bias), torch.nn.Linear(5, 3, bias=bias), dtype)
        check(ours, theirs, [normal(shape, dtype, 0)], dtype)

    @pytest.mark.parametrize("shape", [(), (4,), (3, 5), (2, 3, 4)])
    @pytest.mark.parametrize("rows", [7, 1500])
    def test_embedding(self, shape, rows, dtype):
        ours, theirs = pair(nn.Embedding(rows, 3), torch.nn.Embedding(rows, 3), dtype)
        check(ours, theirs, [np.random.default_rng(0).integers(0, rows, shape)], dtype)

    @pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6)])
    @pytest.mark.parametrize(
        "options",
        [{}, {"bias": False}, {"elementwise_affine": False}, {"eps": 0.1}],
        ids=str,
    )
    def test_layer_norm(self, shape, options, dtype):
        ours, theirs = pair(nn.LayerNorm(6, **options), torch.nn.LayerNorm(6, **options), dtype)
        check(ours, theirs, [normal(shape, dtype, 0)], dtype)

    @pytest.mark.parametrize("shape", [(4, 6), (2, 4, 6), (2, 3, 4, 6)])
    @pytest.mark.parametrize("options", [{}, {"bias": False}, {"eps": 0.1}], ids=str)
    def test_layer_norm_over_two_axes(self, shape, options, dtype):
        both = (nn.LayerNorm((4, 6), **options), torch.nn.LayerNorm((4, 6), **options))
        check(*pair(*both, dtype), [normal(shape, dtype, 0)], dtype)

    @pytest.mark.parametrize("shape", [(4, 6), (2, 4, 6), (2, 3, 4, 6)])
    @pytest.mark.parametrize("size", [6, (4, 6)])
    @pytest.mark.parametrize("options", [{}, {"elementwise_affine": False}, {"eps": 0.1}], ids=str)
    def test_rms_norm(self, shape, size, options, dtype):
        both = (nn.RMSNorm(size, **options), torch.nn.RMSNorm(size, **options))
        check(*pair(*both, dtype), [normal(shape, dtype, 0)], dtype)

    @pytest.mark.parametrize("shape", [(8, 3), (2, 3), (4, 3, 5), (1, 3, 2)])
    @pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": 0.4, "eps": 0.1}])
    def test_batch_norm(self, shape, options, dtype):
        ours, theirs = pair(nn.BatchNorm1d(3, **options), torch.nn.BatchNorm1d(3, **options), dtype)
        x = normal(shape, dtype, 0) * 3 + 1
        check(ours, theirs, [x], dtype, steps=4)
        assert ours.num_batches_tracked.item() == 4
        check(ours.eval(), theirs.eval(), [x], dtype, steps=2)
        assert ours.num_batches_tracked.item() == 4

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            (nn.ReLU(), torch.nn.ReLU()),
            (nn.GELU(), torch.nn.GELU()),
            (nn.GELU("tanh"), torch.nn.GELU("tanh")),
            (nn.Dropout(0.5).eval(), torch.nn.Dropout(0.5).eval()),
            (nn.Tanh(), torch.nn.Tanh()),
            (nn.Sigmoid(), torch.nn.Sigmoid()),
            (nn.SiLU(), torch.nn.SiLU()),
            (nn.LeakyReLU(0.1), torch.nn.LeakyReLU(0.1)),
            (nn.ELU(0.7), torch.nn.ELU(0.7)),
            (nn.Softplus(2.0, 5.0), torch.nn.Softplus(2.0, 5.0)),
            (nn.Softmax(dim=-1), torch.nn.Softmax(dim=-1)),
            (nn.LogSoftmax(dim=-1), torch.nn.LogSoftmax(dim=-1)),
            (nn.Identity(), torch.nn.Identity()),
            (nn.Flatten(0), torch.nn.Flatten(0)),
        ],
        ids=lambda module: type(module).__name__,
    )
    @pytest.mark.parametrize("shape", [(), (50,), (3, 4)])
    def test_without_parameters(self, ours, theirs, shape, dtype):
        check(ours, theirs, [normal(shape, dtype, 0) * 3], dtype)

    def test_sequential(self, dtype):
        def build(m):
            return m.Sequential(
                m.Linear(4, 8), m.LayerNorm(8), m.GELU(), m.Sequential(m.Linear(8, 2), m.ReLU())
            )

        check(*pair(build(nn), build(torch.nn), dtype), [normal((5, 4), dtype, 0)], dtype)

    def test_module_list(self, dtype):
        def build(m):
            class Residual(m.Module):
                def __init__(self):
                    super().__init__()
                    self.layers = m.ModuleList([m.Linear(4, 4) for _ in range(3)])

                def forward(self, x):
                    for layer in self.layers:
                        x = x + layer(x)
                    return x

            return Residual()

        check(*pair(build(nn), build(torch.nn), dtype), [normal((5, 4), dtype, 0)], dtype)

    def test_a_parameter_shared_by_two_layers(self, dtype):
        def build(m):
            tied = m.Sequential(m.Embedding(7, 4), m.Linear(4, 7, bias=False))
            tied[1].weight = tied[0].weight
            return tied

        idx = np.random.default_rng(0).integers(0, 7, (3, 5))
        check(*pair(build(nn), build(torch.nn), dtype), [idx], dtype)


class TorchSelfAttention(torch.nn.Module):
    def __init__(self, n_embd, n_head, causal, qkv_bias, bias):
        super().__init__()
        self.qkv = torch.nn.Linear(n_embd, 3 * n_embd, bias=qkv_bias)
        self.projection = torch.nn.Linear(n_embd, n_embd, bias=bias)
        self.n_head, self.causal = n_head, causal

    def forward(self, x):
        q, k, v = torch_heads(self.qkv(x), self.n_head)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.projection(y.transpose(1, 2).flatten(2))


class TorchCrossAttention(torch.nn.Module):
    def __init__(self, n_embd, n_head, n_context):
        super().__init__()
        self.query = torch.nn.Linear(n_embd, n_embd, bias=False)
        self.key_value = torch.nn.Linear(n_context, 2 * n_embd, bias=False)
        self.projection = torch.nn.Linear(n_embd, n_embd)
        self.n_head = n_head

    def forward(self, x, context):
        (q,) = torch_heads(self.query(x), self.n_head, parts=1)
        k, v = torch_heads(self.key_value(context), self.n_head, parts=2)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.projection(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("dtype", DTYPES)
class TestAttention:
    @pytest.mark.parametrize("layer", [nn.SelfAttention, nn.CausalSelfAttention])
    @pytest.mark.parametrize(("n_embd", "n_head"), [(6, 1), (6, 2), (6, 6)])
    @pytest.mark.parametrize("length", [1, 2, 9])
    @pytest.mark.parametrize("bias", [(False, True), (True, False)])
    def test_self_attention(self, layer, n_embd, n_head, length, bias, dtype):
        ours = layer(n_embd, n_head, qkv_bias=bias[0], bias=bias[1])
        theirs = TorchSelfAttention(n_embd, n_head, layer is nn.CausalSelfAttention, *bias)
        x = normal((2, length, n_embd), dtype, 0)
        check(*pair(ours, theirs, dtype), [x], dtype)

    @pytest.mark.parametrize(("queries", "keys"), [(1, 1), (4, 7), (7, 4)])
    @pytest.mark.parametrize("n_context", [6, 5])
    def test_cross_attention(self, queries, keys, n_context, dtype):
        ours = nn.CrossAttention(6, 2, n_context)
        theirs = TorchCrossAttention(6, 2, n_context)
        x, context = normal((2, queries, 6), dtype, 0), normal((2, keys, n_context), dtype, 1)
        check(*pair(ours, theirs, dtype), [x, context], dtype)


class TestInitialisation:
    SIZE = 300_000

    def compare(self, ours, theirs):
        """Two samples of one distribution: the largest distance of their distribution functions."""
        a, b = np.sort(ours.array.ravel()), np.sort(theirs.detach().numpy().ravel())
        points = np.concatenate([a, b])
        distance = abs(
            np.searchsorted(a, points, "right") / a.size
            - np.searchsorted(b, points, "right") / b.size
        ).max()
        assert distance < 1.95 * np.sqrt((a.size + b.size) / (a.size * b.size))  # alpha = 0.001

    @pytest.mark.parametrize("in_features", [3, 100])
    def test_linear(self, in_features):
        torch.manual_seed(0)
        ours = nn.Linear(in_features, self.SIZE // in_features, generator=Generator(0))
        theirs = torch.nn.Linear(in_features, self.SIZE // in_features)
        self.compare(ours.weight, theirs.weight)
        self.compare(ours.bias, theirs.bias)

    def test_embedding(self):
        torch.manual_seed(0)
        ours = nn.Embedding(self.SIZE // 10, 10, generator=Generator(0))
        self.compare(ours.weight, torch.nn.Embedding(self.SIZE // 10, 10).weight)
