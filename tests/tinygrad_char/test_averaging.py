"""The mean of weights: what it is, and that training never loses its own."""

import numpy as np
import pytest

from tinygrad_char import Tensor, optim
from tinygrad_char.averaging import CHUNK


def trained(size, dtype=np.float32):
    parameter = Tensor(np.ones(size, dtype), requires_grad=True)
    return parameter, optim.SGD([parameter], lr=0.5)


@pytest.mark.parametrize("size", [1, 7, CHUNK, CHUNK + 3, 2 * CHUNK])
def test_the_mean_is_that_of_its_formula(size):
    parameter, optimizer = trained(size, np.float64)
    average = optim.WeightAverage(optimizer, 0.9)
    expected = np.ones(size)
    rng = np.random.default_rng(0)
    for step in range(1, 12):
        parameter.grad = Tensor(rng.standard_normal(size))
        optimizer.step()
        average.update(step)
        kept = min(0.9, (1 + step) / (10 + step))
        expected += (1 - kept) * (parameter.detach().numpy() - expected)
    np.testing.assert_allclose(average.flat, expected, rtol=1e-12)
    weights = parameter.detach().numpy().copy()
    with average.in_place():
        np.testing.assert_array_equal(parameter.detach().numpy(), average.flat)
    np.testing.assert_array_equal(parameter.detach().numpy(), weights)


@pytest.mark.parametrize("where", ["before", "inside"])
def test_whatever_is_raised_the_weights_come_back(where, monkeypatch):
    parameter, optimizer = trained(5)
    average = optim.WeightAverage(optimizer, 0.9)
    average.flat[...] = 7
    write, calls = average._write, []

    def interrupted(values):
        write(values)
        calls.append(1)
        if where == "before" and len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(average, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt), average.in_place():
        raise KeyboardInterrupt
    np.testing.assert_array_equal(parameter.detach().numpy(), np.ones(5))


def test_an_optimizer_that_took_in_others_is_not_averaged():
    frozen, other = Tensor(np.ones(5, np.float32)), Tensor(np.ones(CHUNK, np.float32))
    other.requires_grad_()
    optimizer = optim.SGD([frozen, other], lr=0.5)
    average = optim.WeightAverage(optimizer, 0.9)
    frozen.requires_grad_()
    for each in (frozen, other):
        each.grad = Tensor(np.ones(each.shape, np.float32))
    optimizer.step()
    with pytest.raises(RuntimeError, match="other parameters in its buffer by now; make a"):
        average.update(1)
    with pytest.raises(RuntimeError, match="new average of them"), average.in_place():
        pytest.fail("the mean of other parameters was put in their place")
