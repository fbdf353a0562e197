"""The logarithms of the probabilities that logits give, measured."""

from functools import partial
from typing import Any

from tinygrad_char.kernels.cpu.bench import Dimensions, Task, Work, tasks, torch_tasks


def cases(op: Any, at: Dimensions) -> dict[str, Task]:
    x, grad = at.operands(*[(at.rows, at.classes)] * 2)
    y = op.forward(x)
    return tasks("log_softmax", lambda: op.forward(x), lambda: op.backward(grad, y))


def work(at: Dimensions) -> Work:
    return at.moved("log_softmax", 2 * at.logits, 3 * at.logits)


def torch_cases(torch: Any, at: Dimensions) -> dict[str, Task]:
    x, grad = at.tensors(torch, *[(at.rows, at.classes)] * 2)
    function = partial(torch.nn.functional.log_softmax, dim=-1)
    return torch_tasks(torch, "log_softmax", function, [x], grad)
