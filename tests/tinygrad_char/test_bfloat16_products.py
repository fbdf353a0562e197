"""Layers whose products round their operands to bfloat16, against PyTorch's of rounded operands."""

import numpy as np
import pytest

from tinygrad_char import Tensor, functional, nn
from tinygrad_char.kernels.operations import Settings, using

torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch")
RNG = np.random.default_rng(0)


class Rounded(torch.autograd.Function):
    """x W^T with all operands rounded, in backward too, and sums in float32."""

    @staticmethod
    def forward(ctx, x, weight):
        low, low_weight = x.bfloat16().float(), weight.bfloat16().float()
        ctx.save_for_backward(low, low_weight)
        return low @ low_weight.T

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        low = grad.bfloat16().float()
        return low @ weight, low.reshape(-1, low.shape[-1]).T @ x.reshape(-1, x.shape[-1])


def arrays(*shapes):
    return [RNG.standard_normal(shape).astype(np.float32) for shape in shapes]


def check(ours, theirs, *given):
    """Compare values and gradients of functions of the same arrays."""
    tensors = [Tensor(each, requires_grad=True) for each in given]
    others = [torch.from_numpy(each.copy()).requires_grad_() for each in given]
    with using(bf16=True):
        y = ours(*tensors)
    expected = theirs(*others)
    (cotangent,) = arrays(y.shape)
    y.backward(Tensor(cotangent))  # as forward was computed, though nothing is asked for by now
    expected.backward(torch.from_numpy(cotangent))
    found = [y.detach().numpy(), *(each.grad.numpy() for each in tensors)]
    wanted = [expected.detach(), *(each.grad for each in others)]
    for each, other in zip(found, wanted, strict=True):
        size = float(other.abs().max())
        np.testing.assert_allclose(each, other.numpy(), atol=2e-6 * size)


@pytest.mark.parametrize("rows", [1, 3, 6, 50])
def test_linear(rows):
    given = arrays((2, rows, 33), (17, 33), 17)
    check(functional.linear, lambda x, w, b: Rounded.apply(x, w) + b, *given)


def test_linear_with_an_activation():
    def theirs(x, weight, bias):
        return torch.nn.functional.gelu(Rounded.apply(x, weight) + bias)

    def ours(x, weight, bias):
        return functional.linear(x, weight, bias, "gelu")

    check(ours, theirs, *arrays((40, 20), (24, 20), 24))


def test_linear_residual():
    given = arrays((5, 9, 20), (12, 20), 12, (5, 9, 12))
    check(
        functional.linear_residual,
        lambda x, w, b, residual: residual + (Rounded.apply(x, w) + b),
        *given,
    )


def test_settings_go_with_a_module():
    layer = nn.Linear(8, 6, bias=False)
    (x,) = arrays((10, 8))
    exact = layer(Tensor(x)).detach().numpy()
    layer.settings = Settings(bf16=True)
    weight = torch.from_numpy(layer.weight.detach().numpy().copy())
    expected = Rounded.apply(torch.from_numpy(x), weight)
    np.testing.assert_allclose(layer(Tensor(x)).detach().numpy(), expected.numpy(), atol=1e-6)
    assert abs(exact - expected.numpy()).max() > 1e-4
    other = nn.Linear(8, 6, bias=False)
    other.load_state_dict(layer.state_dict())
    assert (other(Tensor(x)).detach().numpy() == exact).all()
