"""Long sums along the first axis, and deviations from a mean far from zero, on both devices."""

import numpy as np
import pytest

from kernels.backend import DeviceError
from kernels.devices import get_backend
from tinygrad_char import Tensor
from tinygrad_char import functional as F

ROWS = 10_000


@pytest.fixture(params=["cpu", "cuda-on-cpu"])
def device(request):
    try:
        get_backend(request.param)
    except DeviceError as error:
        pytest.skip(str(error))
    return request.param


def rows(device, value=100.1, count=ROWS, columns=100, dtype=np.float32):
    return Tensor(np.full((count, columns), value, dtype), device=device)


def assert_near(tensor, value, units=12):
    """Within so many units of rounding: what blocks of 64 rows leave."""
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


@pytest.mark.parametrize("value", [1449.6, 100.1, -1e10, 1e30])
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
