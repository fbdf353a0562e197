"""A backend: an array module and the table of which implementation serves each operation."""

from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from kernels import (
    adamw,
    attention,
    bias_activation,
    cross_entropy,
    dropout,
    embedding,
    fused,
    gelu,
    layernorm,
    linear,
    log_softmax,
    matmul,
    relu,
    residual,
    running_mean,
    sgd,
    softmax,
)
from kernels.array import Array


class DeviceError(RuntimeError):
    """A device that was asked for cannot be used."""


@dataclass(frozen=True, eq=False)
class Backend:
    """Where arrays live and what computes on them.

    Each operation is a module (or any object) with the functions of the reference of that name:
    `forward` and `backward`, or `update` for an optimizer.
    """

    name: str
    xp: ModuleType
    array_type: type
    adamw: Any = adamw
    attention: Any = attention
    bias_activation: Any = bias_activation
    cross_entropy: Any = cross_entropy
    dropout: Any = dropout
    embedding: Any = embedding
    gelu: Any = gelu
    layernorm: Any = layernorm
    linear: Any = linear
    log_softmax: Any = log_softmax
    matmul: Any = matmul
    relu: Any = relu
    residual: Any = residual
    running_mean: Any = running_mean
    sgd: Any = sgd
    softmax: Any = softmax

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__

    def from_numpy(self, array: np.ndarray) -> Array:
        """Return `array` as an array of this backend (the same one on the CPU)."""
        return self.xp.asarray(array)

    def to_numpy(self, array: Array) -> np.ndarray:
        """Return an array of this backend as a numpy.ndarray (the same one on the CPU)."""
        return array if isinstance(array, np.ndarray) else array.get()


CPU = Backend("cpu", np, np.ndarray, **fused.TABLE)
DEVICES = ("cpu", "cuda")


@cache
def get_backend(device: str) -> Backend:
    """Return the backend of a device: "cpu" or "cuda".

    Raises
    ------
    DeviceError
        The device is unknown, or is "cuda" and this machine has no CuPy, driver or GPU.
    """
    if device == "cpu":
        return CPU
    if device == "cuda":
        from kernels import cuda

        return cuda.load()
    raise DeviceError(f"unknown device {device!r}: expected one of {', '.join(DEVICES)}")


def backend_of(array: Array) -> Backend:
    """Return the backend that an array belongs to."""
    return CPU if isinstance(array, np.ndarray | np.generic) else get_backend("cuda")
