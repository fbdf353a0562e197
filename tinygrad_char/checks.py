"""What an operation returns, checked: arrays, shapes, and under `detect_nonfinite` each element."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_char.kernels.array import Array, is_floating


class NonFiniteError(FloatingPointError):
    """The first operation, under `detect_nonfinite`, that produced a NaN or an infinity."""


def check_result(name: str, array: Any) -> None:
    """Raise TypeError unless forward returned an array, or a number of NumPy's."""
    if isinstance(array, np.generic | np.ndarray) or hasattr(array, "__cuda_array_interface__"):
        return
    if hasattr(array, "requires_grad"):
        hint = "forward works on raw arrays, and `apply` makes the tensor"
    elif array is None:
        hint = "is a return missing?"
    else:
        hint = "return one array, made for instance with np.asarray"
    raise TypeError(
        f"forward of {name} returned {'None' if array is None else type(array).__name__}, "
        f"expected an array; {hint}"
    )


def check_gradient(name: str, expected: Any, grad: Any, array_type: type[Array]) -> None:
    """Raise RuntimeError unless a gradient has the shape and dtype of what it is of."""
    is_array = isinstance(grad, (array_type, np.generic))
    if not is_array or grad.shape != expected.shape or grad.dtype != expected.dtype:
        got = f"{grad.dtype} of shape {grad.shape}" if is_array else type(grad).__name__
        raise RuntimeError(
            f"backward of {name} returned {got} for an input that is {expected.dtype} of shape "
            f"{expected.shape}"
        )


def check_finite(name: str, stage: str, results: Sequence[Any], inputs: Sequence[Any]) -> None:
    """Raise NonFiniteError unless all results are, of a stage ("forward") of an operation."""
    for result in results:
        if not is_floating(result.dtype) or bool((abs(result) < float("inf")).all()):
            continue
        # The -inf of a mask goes through sums and softmax; no operation has produced it.
        if (
            stage == "forward"
            and bool((result < float("inf")).all())
            and any(_holds_minus_infinity(each) for each in inputs)
        ):
            continue
        ranges = ", ".join(
            _describe_range(each) for each in inputs if hasattr(each, "dtype") and each.size
        )
        raise NonFiniteError(
            f"{stage} of {name.lower()} produced a value that is not finite; its inputs: {ranges}"
        )


def _holds_minus_infinity(value: Any) -> bool:
    if isinstance(value, float):
        return value == float("-inf")
    return hasattr(value, "dtype") and is_floating(value.dtype) and bool((value == -np.inf).any())


def _describe_range(array: Array) -> str:
    text = f"{array.dtype} {tuple(array.shape)}"
    if is_floating(array.dtype):
        bad = int((~(abs(array) < float("inf"))).sum())
        text += f" from {float(array.min()):.4g} to {float(array.max()):.4g}"
        if bad:
            text += f" with {bad} not finite"
    return text
