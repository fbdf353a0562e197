"""Operations that choose: what is not chosen gets exactly 0, even of an infinite cotangent.

Values and gradients where functions have an edge (0, NaN, infinity) are compared with PyTorch's.
Warnings are errors here, so none of these operations may warn either.
"""

import numpy as np
import pytest
from op_cases import CASES, outputs

from tinygrad_char import Tensor, cat, nn, optim, stack
from tinygrad_char import functional as F
from tinygrad_char.autograd import grad
from tinygrad_char.kernels.dropout import DropoutKey, keep_mask, keep_scale
from tinygrad_char.modes import no_grad

INF, NAN = float("inf"), float("nan")
DTYPES = ["f4", "f8"]
KEY = DropoutKey(3, 4)
BELOW = np.array([-2.0, -1.0, 3.0])


def gradient(function, x, cotangent, dtype="f4", device="cpu"):
    """Return the gradient of <function(x), cotangent>."""
    leaf = Tensor(np.asarray(x, dtype), device=device, requires_grad=True)
    result = function(leaf)
    result.backward(Tensor(np.broadcast_to(cotangent, result.shape).astype(dtype), device=device))
    assert leaf.grad.dtype == leaf.dtype
    return leaf.grad.cpu().numpy()


GATES = {
    "relu": (lambda x: x.relu(), BELOW, [0, 0, 1]),
    "clip low": (lambda x: x.clip(0), BELOW, [0, 0, 1]),
    "clip high": (lambda x: x.clip(high=-1.5), BELOW, [1, 0, 0]),
    "clip": (lambda x: x.clip(-1.5, 2), BELOW, [0, 1, 0]),
    "maximum": (lambda x: F.maximum(x, 0), BELOW, [0, 0, 1]),
    "maximum of tensors": (
        lambda x: F.maximum(Tensor([0.0] * 3).to(x.dtype).to(x.device), x),
        BELOW,
        [0, 0, 1],
    ),
    "minimum": (lambda x: x.minimum(0.0), BELOW, [1, 1, 0]),
    "abs": (abs, [-2.0, 0.0, 3.0], [-1, 0, 1]),
    "where": (lambda x: F.where(x > 0, x, 2), BELOW, [0, 0, 1]),
    "where, other": (lambda x: F.where(x > 0, 2.0, x), BELOW, [1, 1, 0]),
    "masked_fill": (lambda x: x.masked_fill(x < 0, 0), BELOW, [0, 0, 1]),
    "max": (lambda x: x.max(), BELOW, [0, 0, 1]),
    "min": (lambda x: x.min(0, keepdims=True), BELOW, [1, 0, 0]),
    "max in rows": (lambda x: x.max(1), [[1.0, 2], [4, 3]], [[0, 1], [1, 0]]),
    "tril": (lambda x: x.tril(), np.ones((2, 2)), [[1, 0], [1, 1]]),
    "triu": (lambda x: x.triu(1), np.ones((2, 2)), [[0, 1], [0, 0]]),
    "x ** 0": (lambda x: x**0, [0.0, -1, 5], [0, 0, 0]),
    "getitem": (lambda x: x[1:], BELOW, [0, 1, 1]),
    "clip between": (lambda x: x.clip(x.detach() * 0, None), BELOW, [0, 0, 1]),
    "hypot at 0": (lambda x: x.hypot(0.0), [0.0, 3], [0, 1]),
    "arctan2 at 0": (lambda x: x.arctan2(0.0), [0.0], [0]),
    "norm of 0": (lambda x: x.norm(axis=1), [[0.0, 0], [0, 3]], [[0, 0], [0, 1]]),
    "logsumexp": (lambda x: x.logsumexp(0), [-INF, 2.0], [0, 1]),
    "logsumexp of nothing": (lambda x: x.logsumexp(0), [-INF, -INF], [0, 0]),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0), BELOW, [0, 0, 1]),
    "floor": (lambda x: x.floor(), BELOW, [0, 0, 0]),
    "sign": (lambda x: x.sign(), BELOW, [0, 0, 0]),
    "topk": (lambda x: x.topk(1).values, BELOW, [0, 0, 1]),
    "gather": (lambda x: x.gather(0, [2]), BELOW, [0, 0, 1]),
    "take": (lambda x: x.take([2]), BELOW, [0, 0, 1]),
    "diagonal": (lambda x: x.diagonal(), np.ones((2, 2)), [[1, 0], [0, 1]]),
    "pad, cut": (lambda x: x.pad((-1, 0)), BELOW, [0, 1, 1]),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cotangent", [INF, -INF, NAN])
@pytest.mark.parametrize("name", GATES)
def test_a_shut_gate_gives_zero_whatever_the_cotangent(name, cotangent, dtype, device):
    function, x, slope = GATES[name]
    found = gradient(function, x, cotangent, dtype, device)
    expected = np.zeros_like(found)
    expected[np.array(slope) > 0] = cotangent
    expected[np.array(slope) < 0] = -cotangent
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("bias", [None, [1.0, -1.0]])
def test_an_activation_of_a_linear_layer_selects(device, dtype, activation, bias):
    """Of outputs (-3, 2), or (-2, 1) with the bias, relu passes the second alone."""
    weight = Tensor(np.array([[-3.0], [2.0]], dtype), device=device)
    shift = None if bias is None else Tensor(np.array(bias, dtype), device=device)
    found = gradient(
        lambda x: F.linear(x, weight, shift, activation), [[1.0]], [[INF, 1.0]], dtype, device
    )
    if activation == "relu":
        assert found == 2
    else:
        assert not np.isfinite(found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("follow", ["log", "sqrt"])
@pytest.mark.parametrize(
    "gate",
    [
        lambda x: x.relu(),
        lambda x: x.clip(0),
        lambda x: F.maximum(x, 0),
        lambda x: F.linear(x[:, None], Tensor([[1.0]], x.dtype, device=x.device), None, "relu")[
            :, 0
        ],
        lambda x: x.masked_fill(x < 0, 0),
    ],
    ids=["relu", "clip", "maximum", "linear", "masked_fill"],
)
def test_logarithms_and_roots_of_what_a_gate_shut_off(gate, follow, dtype, device):
    found = gradient(lambda x: getattr(gate(x), follow)(), [-1.0, 4.0, -3.0], 1.0, dtype, device)
    np.testing.assert_array_equal(found, np.array([0, 1 / 4, 0], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_drops_what_is_not_finite(dtype, device):
    x = np.full((4, 33), INF)
    mask = keep_mask(np, x.shape, 0.5, KEY)
    found = gradient(lambda x: F.dropout(x, 0.5, KEY), np.ones_like(x), x, dtype, device)
    np.testing.assert_array_equal(found, np.where(mask, INF, 0))
    y = F.dropout(Tensor(x.astype(dtype), device=device), 0.5, KEY).cpu().numpy()
    np.testing.assert_array_equal(y, np.where(mask, INF, 0))
    weight = Tensor(np.eye(33, dtype=dtype), device=device)
    found = gradient(
        lambda b: F.linear_residual(
            Tensor(np.zeros_like(x, dtype), device=device), weight, b, dropout=0.5, key=KEY
        ),
        np.zeros(33),
        np.where(mask, 1, INF),
        dtype,
        device,
    )
    np.testing.assert_allclose(found, mask.sum(0) * keep_scale(0.5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["causal", "mask"])
def test_what_a_mask_of_softmax_hides_gets_nothing(kind, scale, dtype, device):
    mask = np.array([[True, False, True], [False, False, False], [True, True, True]])
    seen = np.tri(3, dtype=bool) if kind == "causal" else mask
    cotangent = np.array([[1.0, 2, 3], [3, 1, 2], [1, 4, 2]])

    def weights(x):
        return F.softmax(x, mask=kind if kind == "causal" else mask, scale=scale)

    x = np.arange(9.0).reshape(3, 3)
    expected = gradient(weights, x, np.where(seen, cotangent, 0), dtype, device)
    for value in (INF, -INF, NAN):
        found = gradient(weights, x, np.where(seen, cotangent, value), dtype, device)
        np.testing.assert_array_equal(found, expected)
    assert (expected[~seen] == 0).all()
    assert (expected[seen] != 0).any()


def test_roots_of_masked_weights(device):
    x = Tensor([[1.0, 2.0, 3.0]], device=device, requires_grad=True)
    F.softmax(x, mask=np.array([True, False, True])).sqrt().sum().backward()
    assert np.isfinite(x.grad.tolist()).all()
    assert x.grad.tolist()[0][1] == 0


# Edges, beside PyTorch

EDGES = {
    "relu": (lambda x: x.relu(), lambda t, x: x.relu()),
    "abs": (abs, lambda t, x: abs(x)),
    "clip": (lambda x: x.clip(-1, 1), lambda t, x: x.clamp(-1, 1)),
    "clip low": (lambda x: x.clip(0), lambda t, x: x.clamp(min=0)),
    "maximum": (lambda x: F.maximum(x, 0), lambda t, x: t.maximum(x, t.zeros_like(x))),
    "maximum, other": (lambda x: F.maximum(0.5, x), lambda t, x: t.maximum(t.full_like(x, 0.5), x)),
    "minimum": (lambda x: F.minimum(x, 0), lambda t, x: t.minimum(x, t.zeros_like(x))),
    "max": (lambda x: x.max(), lambda t, x: x.max()),
    "min": (lambda x: x.min(), lambda t, x: x.min()),
    "exp": (lambda x: x.exp(), lambda t, x: x.exp()),
    "log": (lambda x: x.log(), lambda t, x: x.log()),
    "sqrt": (lambda x: x.sqrt(), lambda t, x: x.sqrt()),
    "tanh": (lambda x: x.tanh(), lambda t, x: x.tanh()),
    "sigmoid": (lambda x: x.sigmoid(), lambda t, x: x.sigmoid()),
    "1 / x": (lambda x: 1 / x, lambda t, x: 1 / x),
    "x / 0": (lambda x: x / 0, lambda t, x: x / 0),
    "x * inf": (lambda x: x * INF, lambda t, x: x * INF),
    "x - inf": (lambda x: x - INF, lambda t, x: x - INF),
    "x ** 0": (lambda x: x**0, lambda t, x: x**0),
    "x ** 1": (lambda x: x**1, lambda t, x: x**1),
    "x ** 2": (lambda x: x**2, lambda t, x: x**2),
    "x ** -1": (lambda x: x**-1, lambda t, x: x**-1),
    "x ** 0.3": (lambda x: x**0.3, lambda t, x: x**0.3),
    "0 ** x": (lambda x: 0.0**x, lambda t, x: 0.0**x),
    "2 ** x": (lambda x: 2.0**x, lambda t, x: 2.0**x),
    "x ** x": (lambda x: x**x, lambda t, x: x**x),
    "sum": (lambda x: x.sum(), lambda t, x: x.sum()),
    "mean": (lambda x: x.mean(), lambda t, x: x.mean()),
    "cumsum": (lambda x: x.cumsum(0), lambda t, x: x.cumsum(0)),
    "softmax": (lambda x: x.softmax(), lambda t, x: x.softmax(-1)),
}
POINTS = [-INF, -1e30, -2.0, -1.0, -0.0, 0.0, 1e-40, 1e-20, 0.5, 1.0, 2.0, 1e30, INF, NAN]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EDGES)
def test_edges_are_pytorchs(name, dtype):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch")
    ours, theirs = EDGES[name]
    for points in [POINTS, [1.0, NAN, 3.0], [2.0, 3.0]]:
        x = np.array(points, dtype)
        for cotangent in (1.0, -0.5):
            leaf = torch.tensor(x, requires_grad=True)
            expected = theirs(torch, leaf)
            expected.backward(torch.full_like(expected, cotangent))
            with no_grad():
                value = ours(Tensor(x)).numpy()
            np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-5)
            found = gradient(ours, x, cotangent, dtype)
            np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-5, err_msg=str(points))


PAIRS = {
    "a / b": lambda a, b: a / b,
    "a ** b": lambda a, b: a**b,
    "maximum": F.maximum,
    "minimum": F.minimum,
    "hypot": lambda a, b: a.hypot(b),
    "arctan2": lambda a, b: a.arctan2(b),
    "logaddexp": lambda a, b: a.logaddexp(b),
    "a % b": lambda a, b: a % b,
    "a // b": lambda a, b: a // b,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*EDGES, *PAIRS])
def test_edges_are_the_host_s_on_a_device(device, name, dtype):
    """On the host itself: results do not depend on what was computed before."""
    if name in EDGES:
        arrays, function = [np.array(POINTS, dtype)], EDGES[name][0]
    else:
        arrays = [np.array(each.ravel(), dtype) for each in np.meshgrid(POINTS, POINTS)]
        function = PAIRS[name]
    for count in (len(arrays[0]), 3):
        found = []
        for where in (device, "cpu"):
            leaves = [Tensor(each[:count], device=where, requires_grad=True) for each in arrays]
            result = function(*leaves)
            result.backward(Tensor(np.full(result.shape, -0.5, dtype), device=where))
            found.append(
                [each.cpu().numpy() for each in (result.detach(), *[x.grad for x in leaves])]
            )
        for mine, host in zip(*found, strict=True):
            assert mine.dtype == host.dtype
            np.testing.assert_allclose(mine, host, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["a / b", "a ** b", "maximum", "minimum"])
def test_edges_of_two_operands_are_pytorchs(name, dtype):
    torch = pytest.importorskip("torch", reason="parity needs PyTorch: pip install torch")
    ours = PAIRS[name]
    theirs = {"maximum": torch.maximum, "minimum": torch.minimum}.get(name, ours)
    pairs = [np.array(each.ravel(), dtype) for each in np.meshgrid(POINTS, POINTS)]
    leaves = [torch.tensor(each, requires_grad=True) for each in pairs]
    expected = theirs(*leaves)
    expected.backward(torch.ones_like(expected))
    mine = [Tensor(each, requires_grad=True) for each in pairs]
    result = ours(*mine)
    result.backward(np.ones(result.shape))
    np.testing.assert_allclose(result.detach().numpy(), expected.detach().numpy(), rtol=1e-5)
    for each, other in zip(mine, leaves, strict=True):
        np.testing.assert_allclose(each.grad.numpy(), other.grad.numpy(), rtol=1e-5)


def test_the_values_named(device):
    """Gradients at NaN, of 0 ** x at -1 and of 0 / 1e-40."""
    zero = Tensor([0.0], device=device)
    for function in (lambda x: x.relu(), lambda x: F.maximum(x, 0), lambda x: F.minimum(1, x)):
        assert gradient(function, [NAN], 1.0, device=device) == [1]
    for function in (abs, lambda x: x.clip(0, 1), lambda x: x.clip(0), lambda x: x.clip(high=0)):
        assert gradient(function, [NAN], 1.0, device=device) == [0]
    assert gradient(lambda x: 0.0**x, [-1.0], 1.0, device=device) == [-INF]
    assert gradient(lambda x: 0 / x, [1e-40], 1.0, device=device) == [0]
    assert gradient(lambda x: zero / x, [1e-40], 1.0, device=device) == [0]
    assert gradient(lambda x: x**zero, [0.0], INF, device=device) == [0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", [1, np.array(1, np.int32)])
def test_cross_entropy_of_one_row_without_reduction(target, dtype, device):
    logits = Tensor(np.array([1.0, 2.0, 3.0], dtype), device=device, requires_grad=True)
    loss = F.cross_entropy(logits, target, reduction="none")
    assert loss.shape == ()
    loss.backward()
    weights = np.exp(logits.detach().cpu().numpy().astype("f8"))
    expected = 2 * (weights / weights.sum() - [0, 1, 0])
    np.testing.assert_allclose(2 * logits.grad.cpu().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["f2", *DTYPES])
@pytest.mark.parametrize("value", [INF, NAN])
def test_a_target_that_does_not_count_gets_nothing(value, dtype, device):
    targets = Tensor(np.array([1, -100, 2]), device=device)
    found = gradient(
        lambda x: F.cross_entropy(x, targets, reduction="none"),
        np.zeros((3, 4)),
        np.array([1, value, 1]),
        dtype,
        device,
    )
    np.testing.assert_array_equal(found[1], 0)
    np.testing.assert_array_equal(found[0], [0.25, -0.75, 0.25, 0.25])
    logits = np.zeros((3, 4))
    logits[1, 2] = value
    found = gradient(lambda x: F.cross_entropy(x, targets), logits, 1.0, dtype, device)
    np.testing.assert_array_equal(found[1], 0)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop])
@pytest.mark.parametrize(
    ("dtype", "value"), [("f4", 1e30), ("f8", 1e200), ("f4", INF), ("f2", 6e4)]
)
def test_updates_beyond_the_range_do_not_warn(make, dtype, value, device):
    layer = nn.Linear(3, 1, bias=False).astype(dtype).to(device)
    optimizer = make(layer.parameters(), lr=0.1)
    for _ in range(2):
        (layer.weight * 1).backward(Tensor(np.full((1, 3), value, dtype), device=device))
        optimizer.step()


@pytest.mark.parametrize(
    "case",
    [each for each in CASES if each.name != "cpu"],  # which goes on with a tensor that stayed
    ids=lambda case: case.name,
)
def test_no_operation_warns_whatever_the_numbers(case, device):
    rng = np.random.default_rng(1)
    for dtype in ("f2", "f4", "f8"):
        with np.errstate(over="ignore"):
            special = np.array(
                [INF, -INF, NAN, 0, -0.0, 1e38, -1e38, 1e-40, 1e-30, 1, -2], np.float64
            ).astype(dtype)
        inputs = [rng.choice(special, each.shape) for each in case.inputs()]
        for arrays in (inputs, [np.zeros_like(each) for each in inputs]):
            leaves = [Tensor(each, device=device, requires_grad=True) for each in arrays]
            try:
                results = outputs(case.ours(*leaves))
            except ValueError as error:  # of losses, for what is no probability
                assert "probabilit" in str(error)  # noqa: PT017
                continue
            for each in results:
                cotangent = rng.choice(special, each.shape).astype(each.dtype)
                each.backward(Tensor(cotangent, device=each.device), retain_graph=True)


def test_values_beyond_the_range_do_not_warn(device):
    big = Tensor(np.array([1e38, -1e38], "f4"), device=device, requires_grad=True)
    assert (big * 10).tolist() == [INF, -INF]
    assert (big * 1e300).tolist() == [INF, -INF]
    assert (big + 3e38).tolist() == [INF, pytest.approx(2e38)]
    assert (big * 10).sum().item() != (big * 10).sum().item()
    assert Tensor([1e300], "f8", device=device).astype("f4").tolist() == [INF]
    assert Tensor(1e300, device=device).item() == INF
    assert Tensor([1.0, 1e300], device=device).tolist() == [1, INF]
    assert (big > 1e300).tolist() == [False, False]
    assert (big @ big).item() == INF
    assert cat([big, big]).exp().tolist() == [INF, 0, INF, 0]
    assert stack([big, big]).var().item() == INF
    x = Tensor([1e-30], device=device, requires_grad=True)
    (big[0] / x / x).backward()
    assert x.grad.tolist() == [-INF]
    assert grad((big * big).sum(), big, 1e30)[0].tolist() == [INF, -INF]
