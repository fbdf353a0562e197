"""A user's operation that returns one of its inputs, or a part of it: memory of one version."""

import numpy as np
import pytest

from tinygrad_char import Tensor
from tinygrad_char.autograd import Function
from tinygrad_char.modes import no_grad

PARTS = {"whole": lambda x: x, "part": lambda x: x[1:], "reversed": lambda x: x[::-1]}


def returning(position, part):
    class Chosen(Function):
        def forward(self, *arrays):
            return PARTS[part](arrays[position])

        def backward(self, grad):
            return tuple(np.zeros(3) for _ in self.needs)

    return Chosen


def tensors(device, count=3):
    return [Tensor(np.arange(3.0) + 1, device=device) for _ in range(count)]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_result_shares_the_version_of_what_it_is(position, part, device):
    inputs = tensors(device)
    result = returning(position, part).apply(*inputs)
    assert [each.version is result.version for each in inputs] == [
        each == position for each in range(3)
    ]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("position", [0, 1])
def test_a_change_of_it_is_seen_by_a_pending_backward(position, part, device):
    inputs = [each.requires_grad_() * 1 for each in tensors(device, 2)]
    saved = inputs[position] ** 2
    with no_grad():
        result = returning(position, part).apply(*inputs)
        result += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        saved.sum().backward()


def test_parts_of_one_buffer_are_told_apart():
    buffer = np.arange(6.0)
    first, second = Tensor([0.0]), Tensor([0.0])
    first.array, second.array = buffer[:3], buffer[3:]
    result = returning(1, "part").apply(first, second)
    assert result.version is second.version is not first.version


def test_a_result_of_its_own_shares_nothing():
    class Sum(Function):
        def forward(self, a, b):
            return a + b

    a, b = tensors("cpu", 2)
    result = Sum.apply(a, b)
    assert result.version is not a.version
    assert result.version is not b.version
