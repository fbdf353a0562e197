"""The devices, by name: which backend serves each, loaded when it is first asked for."""

from functools import cache

import numpy as np

from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.backend import CPU, Backend, DeviceError

DEVICES = ("cpu", "cuda", "cuda-on-cpu")


@cache
def get_backend(device: str) -> Backend:
    """Return the backend of a device: "cpu", "cuda", or "cuda-on-cpu" (CUDA kernels on the CPU).

    Raises
    ------
    DeviceError
        The device is unknown, or this machine lacks what it needs.
    """
    if device == "cpu":
        return CPU
    if device == "cuda":
        from tinygrad_char.kernels.cuda import backend as cuda

        return cuda.load()
    if device == "cuda-on-cpu":
        from tinygrad_char.kernels.cuda_on_cpu import backend as cuda_on_cpu

        return cuda_on_cpu.load()
    raise DeviceError(f"unknown device {device!r}: expected one of {', '.join(DEVICES)}")


def backend_of(array: Array) -> Backend:
    """Return the backend of an array: by its type, and what its arithmetic is done with."""
    if isinstance(array, np.ndarray | np.generic):
        return CPU if namespace(array) is np else get_backend("cuda-on-cpu")
    return get_backend("cuda")
