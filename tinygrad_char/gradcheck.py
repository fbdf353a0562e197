"""Gradients checked against central differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_char.autograd import grad
from tinygrad_char.kernels.array import Array
from tinygrad_char.modes import no_grad
from tinygrad_char.tensor import Tensor


class GradcheckError(AssertionError):
    """A gradient that disagrees with the differences of the function."""


@dataclass(frozen=True)
class GradcheckReport:
    """The element with the largest disagreement, relative to what was allowed."""

    input: int
    index: tuple[int, ...]
    backward: float
    numerical: float
    ratio: float

    def __str__(self) -> str:
        return (
            f"input {self.input}, element {self.index}: backward gives {self.backward:.12g}, "
            f"central differences {self.numerical:.12g} (difference "
            f"{abs(self.backward - self.numerical):.3g}, {self.ratio:.3g} times what is allowed)"
        )


def gradcheck(
    fn: Callable[..., Any],
    inputs: Tensor | Sequence[Tensor],
    *,
    eps: float = 1e-6,
    atol: float = 1e-7,
    rtol: float = 1e-5,
    seed: int = 0,
) -> GradcheckReport:
    """Check the gradients of `fn(*inputs)` by every element of the inputs that require grad.

    With a random cotangent w and f = <w, fn>, compares backward's df/dx with
    (f(x + eps) - f(x - eps)) / (2 eps), element by element.

    Parameters
    ----------
    fn
        Returns a tensor or a sequence of tensors, and the same ones each time it is called.
    inputs
        float64 tensors; those with requires_grad are checked. They are left as they were.
    eps, atol, rtol
        The step, and the disagreement allowed: atol + rtol * |numerical|.
    seed
        Of the cotangent.

    Returns
    -------
    GradcheckReport
        The worst element, whose ratio is at most 1.

    Raises
    ------
    GradcheckError
        A gradient disagrees, or is missing; the worst element is named.
    TypeError
        An input that requires grad is not float64, or none requires grad.
    """
    tensors = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = [i for i, each in enumerate(tensors) if each.requires_grad]
    if not checked:
        raise TypeError("gradcheck: no input requires grad")
    for i in checked:
        if tensors[i].dtype != np.float64:
            raise TypeError(f"gradcheck: input {i} is {tensors[i].dtype}; differences need float64")
    rng = np.random.default_rng(seed)
    outputs = _outputs(fn, tensors)
    cotangents = [rng.standard_normal(each.shape) for each in outputs]
    linked = [pair for pair in zip(outputs, cotangents, strict=True) if pair[0].requires_grad]
    if not linked:
        raise GradcheckError("gradcheck: no output is linked to the inputs, so backward gives none")
    gradients = grad(
        [output for output, _ in linked],
        [tensors[i] for i in checked],
        [cotangent for _, cotangent in linked],
        allow_unused=True,
    )

    def value() -> float:
        with no_grad():
            results = _outputs(fn, tensors)
        return sum(
            float((w * r.detach().cpu().numpy()).sum())
            for w, r in zip(cotangents, results, strict=True)
        )

    first = value()
    if not math.isfinite(first):
        raise GradcheckError(f"gradcheck: the function's result is not finite ({first})")
    if first != value():
        raise GradcheckError("gradcheck: the function gives another result each time it is called")
    worst = GradcheckReport(checked[0], (), 0.0, 0.0, 0.0)
    for i, gradient in zip(checked, gradients, strict=True):
        for index, numerical in _differences(value, tensors[i].array, eps):
            ours = 0.0 if gradient is None else float(gradient.array[index])
            ratio = abs(ours - numerical) / (atol + rtol * abs(numerical))
            if math.isnan(ratio):
                ratio = math.inf
            if ratio > worst.ratio:
                worst = GradcheckReport(i, index, ours, numerical, ratio)
    if worst.ratio > 1:
        raise GradcheckError(f"gradcheck: {worst}")
    return worst


def _differences(
    value: Callable[[], float], array: Array, eps: float
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yield each element's index and the central difference of the value, the array as it was."""
    for index in np.ndindex(array.shape):
        before = float(array[index])  # a device gives a view
        array[index] = before + eps
        above = value()
        array[index] = before - eps
        below = value()
        array[index] = before
        yield index, (above - below) / (2 * eps)


def _outputs(fn: Callable[..., Any], tensors: list[Tensor]) -> list[Tensor]:
    result = fn(*tensors)
    return [result] if isinstance(result, Tensor) else list(result)
