"""A backend: an array module and the table of which implementation serves each operation."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from tinygrad_char.kernels import (
    adamw,
    add,
    attention,
    bias_activation,
    cross_entropy,
    dropout,
    embedding,
    fused,
    gelu,
    global_norm,
    layernorm,
    linear,
    log_softmax,
    matmul,
    recording,
    relu,
    residual,
    running_mean,
    sampling,
    sgd,
    softmax,
)
from tinygrad_char.kernels.array import Array


class DeviceError(RuntimeError):
    """A device that was asked for cannot be used."""


@dataclass(frozen=True, eq=False)
class Backend:
    """Where arrays live and what computes on them.

    Each operation is a module (or any object) with the functions of the reference of that name:
    `forward` and `backward`, or `update` for an optimizer. A device's may have more, which is used
    where it is there: cross_entropy's `one_pass` and `rescale`.
    """

    name: str
    xp: ModuleType
    array_type: type
    adamw: Any = adamw
    add: Any = add
    attention: Any = attention
    bias_activation: Any = bias_activation
    cross_entropy: Any = cross_entropy
    dropout: Any = dropout
    embedding: Any = embedding
    gelu: Any = gelu
    global_norm: Any = global_norm
    layernorm: Any = layernorm
    linear: Any = linear
    log_softmax: Any = log_softmax
    matmul: Any = matmul
    relu: Any = relu
    residual: Any = residual
    running_mean: Any = running_mean
    sampling: Any = sampling
    sgd: Any = sgd
    softmax: Any = softmax
    recorder: Any = None
    """Records what is done on the device and replays it, see cuda_graph.Recorder."""

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """Return an array of any content, for a kernel to write to."""
        if self.on_host:
            return recording.empty(shape, dtype)
        return self.xp.empty(shape, dtype)

    def from_numpy(self, array: np.ndarray) -> Array:
        """Return `array` as an array of this backend (the same one on the CPU)."""
        return self.xp.asarray(array)

    def to_numpy(self, array: Array) -> np.ndarray:
        """Return an array of this backend as a numpy.ndarray (the same one on the CPU)."""
        return array.get() if hasattr(array, "get") else array

    @property
    def on_host(self) -> bool:
        """Whether arrays are the host's own, and its cores compute."""
        return self.xp is np

    def use_tf32(self, use: bool) -> None:
        """Let float32 products round their operands to ten bits after the point, or not.

        Raises
        ------
        DeviceError
            They are to, and this backend has no such products.
        """
        if self.on_host:
            if use:
                raise DeviceError(f"device {self.name!r} has no TF32 products; use device 'cuda'")
            return
        for operation in (self.attention, self.linear, self.matmul):
            operation.tf32 = use

    def use_atomics(self, use: bool) -> None:
        """Let gradients be added up in whatever order is fastest, or in one that never changes.

        Without, which is how it begins, the same computation gives the same bits each time. It is
        a permission: the host has one order only, and keeps to it.
        """
        if not self.on_host:
            for operation in (self.attention, self.embedding):
                operation.atomics = use

    @contextmanager
    def using(self, parameters: Any) -> Iterator[None]:
        """Let operations of a device know where parameters lie: cuda_parameters.FlatParameters."""
        operations = (self.layernorm, self.linear)
        for each in operations:
            each.flat = parameters
        try:
            yield
        finally:
            for each in operations:
                each.flat = None

    @contextmanager
    def unchecked(self) -> Iterator[None]:
        """Let indices and targets be what they are: checking them would wait for the device."""
        operations = (self.cross_entropy, self.embedding)
        before = [each.check for each in operations]
        for each in operations:
            each.check = False
        try:
            yield
        finally:
            for each, check in zip(operations, before, strict=True):
                each.check = check


CPU = Backend("cpu", np, np.ndarray, **fused.TABLE)


@cache
def bfloat16() -> np.dtype:
    """Return the dtype with float32's range and eight bits of precision.

    Raises
    ------
    DeviceError
        The package ml_dtypes, which brings it to NumPy and CuPy, is not installed.
    """
    try:
        import ml_dtypes
    except ImportError as error:
        raise DeviceError(
            "bfloat16 needs the package ml_dtypes, which is not installed: pip install ml_dtypes, "
            "or use precision tf32 or float32"
        ) from error
    return np.dtype(ml_dtypes.bfloat16)
