"""Long sums along the first axis, and deviations from a mean far from zero, on both devices."""

import numpy as np
import pytest

from tinygrad_char import Tensor, einsum, nn
from tinygrad_char import functional as F

ROWS = 10_000


def rows(device, value=100.1, count=ROWS, columns=100, dtype=np.float32):
    return Tensor(np.full((count, columns), value, dtype), device=device)


def assert_near(tensor, value, units=12):
    """Within so many units of rounding: what blocks of rows leave."""
    array = tensor.detach().to("cpu").numpy()
    exact = float(array.dtype.type(value))
    limit = units * float(np.finfo(array.dtype).eps) * abs(exact)
    assert np.abs(array.astype(np.float64) - exact).max() <= limit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_of_many_equal_rows(device, dtype):
    x = rows(device, dtype=dtype)
    assert_near(x.mean(0), 100.1)
    assert_near(x.sum(0) / ROWS, 100.1)
    assert_near(x.mean((0,), keepdims=True), 100.1)
    assert_near(x.T.mean(1), 100.1)
    assert_near(x.reshape(100, 100, 100).mean((0, 1)), 100.1)
    for y in (x.std(0), x.var(0), x.std(), x.T.std(1), x.std(0, correction=1)):
        assert not y.detach().to("cpu").numpy().any()


def test_a_million_rows(device):
    signs = np.tile(np.float32([[100], [-100]]), (500_000, 1))
    x = Tensor(signs, device=device)
    assert x.std(0).item() == pytest.approx(100, rel=1e-6)
    assert x.std().item() == pytest.approx(100, rel=1e-6)
    assert (x + 1000).std(0).item() == pytest.approx(100, rel=1e-6)
    assert x.mean(0).item() == 0


@pytest.mark.parametrize("offset", [0, 1000, -1e5])
@pytest.mark.parametrize("axis", [0, 1, (0, 2), None, (), -1])
def test_variances_and_their_gradients_have_their_digits(device, axis, offset):
    rng = np.random.default_rng(0)
    array = (rng.standard_normal((37, 5, 6)) + offset).astype(np.float32)
    exact = Tensor(array.astype(np.float64), requires_grad=True)
    x = Tensor(array, device=device, requires_grad=True)
    for method in ("var", "std") if axis != () else ("var",):
        for each in (x, exact):
            each.grad = None
        y, expected = (getattr(each, method)(axis) for each in (x, exact))
        np.testing.assert_allclose(
            y.detach().to("cpu").numpy(), expected.detach().numpy(), rtol=3e-7
        )
        cotangent = rng.standard_normal(y.shape)
        expected.backward(cotangent)
        y.backward(Tensor(cotangent.astype(np.float32), device=device))
        limit = 1e-6 + 1e-7 * abs(offset)  # of the mean, which is rounded
        largest = np.abs(exact.grad.numpy()).max() + 1e-30
        np.testing.assert_allclose(
            x.grad.to("cpu").numpy(), exact.grad.numpy(), rtol=1e-6, atol=limit * largest
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
def test_infinite_gradients_stay_in_their_row_of_a_table(device, dtype, wrong):
    table = Tensor(np.ones((5, 4), dtype), device=device, requires_grad=True)
    grad = np.ones((10, 4), dtype)
    grad[3, 2] = wrong
    y = F.embedding(Tensor(np.arange(10) % 5, device=device), table)
    y.backward(grad if device == "cpu" else Tensor(grad, device=device))
    expected = np.full((5, 4), 2, dtype)
    expected[3, 2] = wrong
    np.testing.assert_array_equal(table.grad.to("cpu").numpy(), expected)


def test_many_gradients_of_one_row_of_a_table(device):
    table = Tensor(np.ones((3, 4), np.float32), device=device, requires_grad=True)
    y = F.embedding(Tensor(np.zeros(ROWS, np.int64), device=device), table)
    (y * 100.1).backward(Tensor(np.ones(y.shape, np.float32), device=device))
    assert_near(table.grad[0] / ROWS, 100.1, units=32)  # the kernel adds up stretches of 256


@pytest.mark.parametrize("value", [1449.6, 100.1, -1e10, 1e30, 3e38, -3e38])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layer_norm_of_equal_numbers_is_0(device, dtype, value):
    for count in (2, 3, 7, 10, 16, 100, 257, 1500, 9000):
        y = F.layer_norm(Tensor(np.full((3, count), value, dtype), device=device))
        assert not y.to("cpu").numpy().any()


def test_gradients_of_what_was_broadcast(device):
    grad = np.full((ROWS, 3), 100.1, np.float32)
    makers = {
        "add": lambda b, x: x + b,
        "subtract": lambda b, x: x - b,
        "multiply": lambda b, x: x * b,
        "divide": lambda b, x: b / x,
        "maximum": lambda b, x: (b + 5).maximum(x),
        "where": lambda b, x: F.where(np.ones((ROWS, 1), bool), b, x),
        "broadcast_to": lambda b, x: b.broadcast_to(ROWS, 3),
        "linear": lambda b, x: F.linear(x, Tensor(np.eye(3, dtype=np.float32), device=device), b),
        "matmul": lambda b, x: x @ Tensor(np.eye(3, dtype=np.float32), device=device) + b,
    }
    for make in makers.values():
        b = Tensor(np.ones(3, np.float32), device=device, requires_grad=True)
        y = make(b, Tensor(np.ones((ROWS, 3), np.float32), device=device))
        y.backward(grad if device == "cpu" else Tensor(grad, device=device))
        assert_near(abs(b.grad) / ROWS, 100.1)


def test_elements_that_are_taken_or_added_to_many_times(device):
    zeros = Tensor(np.zeros(ROWS, np.int64), device=device)
    rows = Tensor(np.zeros((ROWS, 3), np.int64), device=device)
    cases = (
        (lambda x: x[zeros], [ROWS, ROWS, ROWS]),
        (lambda x: x[zeros, 0], [ROWS, 0, 0]),
        (lambda x: x[:, zeros], [ROWS, 0, 0]),
        (lambda x: x[0, zeros], [ROWS, 0, 0]),
        (lambda x: x.gather(0, rows), [ROWS, ROWS, ROWS]),
        (lambda x: x.repeat_interleave(ROWS, 0), [ROWS, ROWS, ROWS]),
        (lambda x: F.pad(x, (ROWS, 0), mode="replicate"), [ROWS + 1, 1, 1]),
    )
    for take, counts in cases:
        x = Tensor(np.ones((1, 3), np.float32), device=device, requires_grad=True)
        y = take(x)
        y.backward(Tensor(np.full(y.shape, 100.1, np.float32), device=device))
        exact = [np.array(counts) * float(np.float32(100.1))]
        np.testing.assert_allclose(x.grad.to("cpu").numpy(), exact, rtol=1e-6)
    source = Tensor(np.full((ROWS, 3), 100.1, np.float32), device=device)
    added = Tensor(np.ones((1, 3), np.float32), device=device).scatter_add(0, rows, source)
    assert_near((added - 1) / ROWS, 100.1)


def test_running_sums(device):
    x = Tensor(np.full((2, ROWS, 3), 100.1, np.float32), device=device, requires_grad=True)
    y = x.cumsum(1)
    exact = np.broadcast_to(np.arange(1, ROWS + 1)[:, None] * float(np.float32(100.1)), y.shape)
    np.testing.assert_allclose(y.detach().to("cpu").numpy(), exact, rtol=5e-7)
    y.backward(Tensor(np.full(y.shape, 100.1, np.float32), device=device))
    np.testing.assert_allclose(x.grad.to("cpu").numpy(), exact[:, ::-1], rtol=5e-7)


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("ij->j", [(ROWS, 3)]),
        ("ij,ij->j", [(ROWS, 3), (ROWS, 3)]),
        ("ij,i->j", [(ROWS, 3), (ROWS,)]),
        ("ij,ik->jk", [(ROWS, 3), (ROWS, 2)]),
        ("i,i->", [(ROWS,), (ROWS,)]),
        ("ij,jk,ik->j", [(ROWS, 2), (2, 3), (ROWS, 3)]),
        ("bij,bjk->bik", [(2, 3, ROWS), (2, ROWS, 2)]),
    ],
)
def test_long_sums_of_products(device, subscripts, shapes):
    given = [np.full(shape, 100.1 if i == 0 else 1, np.float32) for i, shape in enumerate(shapes)]
    exact = np.einsum(subscripts, *(each.astype(np.float64) for each in given))
    found = einsum(subscripts, *(Tensor(each, device=device) for each in given))
    np.testing.assert_allclose(found.cpu().numpy(), exact, rtol=4e-6)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 2), (1, 64), (64, 1), (7, 9)])
def test_gradients_of_products_of_many_rows(device, inputs, outputs):
    x = Tensor(np.ones((3 * ROWS, inputs), np.float32), device=device)
    grad = Tensor(np.full((3 * ROWS, outputs), 100.1, np.float32), device=device)
    for multiply, shape in ((F.linear, (outputs, inputs)), (lambda x, w: x @ w, (inputs, outputs))):
        w = Tensor(np.ones(shape, np.float32), device=device, requires_grad=True)
        multiply(x, w).backward(grad)
        assert_near(w.grad / (3 * ROWS), 100.1, units=64)


@pytest.mark.parametrize("axis", [0, 1])
def test_sums_of_exponentials_of_long_rows(device, axis):
    rng = np.random.default_rng(0)
    x = rng.random((2, 100_003)).astype(np.float32)
    x[1] = np.log(np.float32(0.1))
    x[:, 0] = 1
    weights = np.exp(x.astype(np.float64) - 1)
    total = weights.sum(axis=1, keepdims=True)
    grad = (rng.random(x.shape) + 1).astype(np.float32)
    given = Tensor(np.moveaxis(x, 1, axis).copy(), device=device, requires_grad=True)

    def assert_close(found, exact, size=None):
        """Within so many units of rounding, of the terms that a difference was taken of."""
        found = np.moveaxis(found.detach().to("cpu").numpy(), axis, 1)
        size = np.abs(exact) if size is None else size
        assert (np.abs(found - exact) / size).max() <= 5e-6

    backward = Tensor(np.moveaxis(grad, 1, axis).copy(), device=device)
    p = weights / total
    y = F.softmax(given, axis=axis)
    assert_close(y, p)
    y.backward(backward)
    mean = (p * grad).sum(axis=1, keepdims=True)
    assert_close(given.grad, p * (grad - mean), p * grad)
    given.grad = None
    y = F.log_softmax(given, axis=axis)
    assert_close(y, x - 1.0 - np.log(total))
    y.backward(backward)
    share = p * grad.sum(axis=1, keepdims=True)
    assert_close(given.grad, grad - share, grad + share)
    if axis == 1:
        losses = F.cross_entropy(given, Tensor(np.zeros(2, np.int64), device=device), "none")
        assert_close(losses.reshape(2, 1), np.log(total))


class TestBatchNorm:
    def test_equal_numbers_are_0(self, device):
        for value in (1449.6, 100.1, 1e30):
            for shape in ((2, 3), (7, 3), (10, 3, 4), (ROWS, 3)):
                norm = nn.BatchNorm1d(3).to(device)
                y = norm(Tensor(np.full(shape, value, np.float32), device=device))
                assert not y.detach().to("cpu").numpy().any()

    def test_gradients_of_many_rows(self, device):
        norm = nn.BatchNorm1d(3).to(device)
        x = np.random.default_rng(0).standard_normal((ROWS, 3)).astype(np.float32)
        y = norm(Tensor(x, device=device))
        y.backward(Tensor(np.full(y.shape, 100.1, np.float32), device=device))
        assert_near(norm.bias.grad / ROWS, 100.1)

    @pytest.mark.parametrize("training", [True, False])
    def test_float16_is_computed_in_float32(self, device, training):
        rng = np.random.default_rng(1)
        x = (rng.standard_normal((50, 3)) * 300).astype(np.float16)
        grad = rng.standard_normal((50, 3)).astype(np.float16)
        norm, wide = nn.BatchNorm1d(3).astype(np.float16).to(device), nn.BatchNorm1d(3).to(device)
        results = []
        for module, dtype in ((norm.train(training), np.float16), (wide.train(training), None)):
            given = Tensor(x.astype(dtype or np.float32), device=device, requires_grad=True)
            y = module(given)
            y.backward(Tensor(grad.astype(y.dtype), device=device))
            parts = (y.detach(), given.grad, module.weight.grad, module.running_mean)
            results.append([each.cpu().numpy() for each in parts])
        for mine, exact in zip(*results, strict=True):
            assert mine.dtype == np.float16
            np.testing.assert_array_equal(mine, exact.astype(np.float16))

    def test_a_weight_without_a_bias(self, device):
        x = Tensor(np.random.default_rng(2).standard_normal((5, 3)), device=device)
        weight = Tensor(np.array([1.0, 2, 3]), device=device)
        plain = F.batch_norm(x, training=True)
        found = F.batch_norm(x, weight=weight, training=True)
        np.testing.assert_allclose(found.tolist(), (plain * weight).tolist())

    @pytest.mark.parametrize(
        ("shape", "options", "message"),
        [
            ((3,), {"training": True}, r"x \(3,\); expected \(N, C\)"),
            ((1, 3), {"training": True}, "less than two values for a channel"),
            ((0, 3), {"training": True}, "less than two values for a channel"),
            ((4, 3), {}, "running_mean and running_var are needed"),
            ((4, 3), {"training": True, "weight": Tensor(np.ones(4))}, r"weight \(4,\) for x"),
        ],
    )
    def test_what_does_not_fit_is_named(self, shape, options, message):
        with pytest.raises(ValueError, match=message):
            F.batch_norm(Tensor(np.ones(shape)), **options)
