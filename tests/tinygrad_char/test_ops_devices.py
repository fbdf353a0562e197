"""Every operation gives on the device what it gives on the host, whose gradients are checked."""

import numpy as np
import pytest
from op_cases import CASES, cotangents, outputs

from tinygrad_char import Tensor
from tinygrad_char.kernels.backend import DeviceError
from tinygrad_char.kernels.devices import get_backend

DEVICE = "cuda-on-cpu"


@pytest.fixture(autouse=True, scope="module")
def _there_is_one():
    try:
        get_backend(DEVICE)
    except DeviceError as error:
        pytest.skip(str(error))


def run(case, arrays, device):
    """Return results and gradients, as arrays of the host, after the check that they lie there."""
    tensors = [Tensor(each, device=device, requires_grad=True) for each in arrays]
    results = outputs(case.ours(*tensors))
    for each, cotangent in zip(results, cotangents(results), strict=True):
        each.backward(Tensor(cotangent.astype(each.dtype), device=each.device), retain_graph=True)
    moves = case.covers in ("to", "cpu")
    assert {each.device for each in results} == {"cpu" if moves else device}
    assert {each.grad.device for each in tensors} == {device}
    found = [each.detach() for each in results] + [each.grad for each in tensors]
    return [each.cpu().numpy() for each in found]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "case",
    [each for each in CASES if each.name != "cpu"],  # which goes on with a tensor that stayed
    ids=lambda each: each.name,
)
def test_results_and_gradients_are_the_host_s(case, dtype):
    """Within sixteen units of rounding of the largest element: sums have another order."""
    arrays = [each.astype(dtype) for each in case.inputs()]
    for mine, exact in zip(run(case, arrays, DEVICE), run(case, arrays, "cpu"), strict=True):
        assert (mine.shape, mine.dtype) == (exact.shape, exact.dtype)
        mine, exact = mine.astype(np.float64), exact.astype(np.float64)
        largest = np.abs(exact).max(initial=0)
        np.testing.assert_allclose(mine, exact, atol=16 * np.finfo(dtype).eps * largest, rtol=0)


def test_of_a_tensor_that_was_brought_to_the_host():
    x = Tensor([1.0, 2.0], device=DEVICE, requires_grad=True)
    y = x.cpu() * 3
    y.sum().backward()
    assert (y.device, x.grad.device, x.grad.tolist()) == ("cpu", DEVICE, [3, 3])
