"""Running mean in C, for contiguous float32 arrays of the host: see reference.py."""

from typing import Any

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import fits
from tinygrad_char.kernels.cpu.cores import threads_for
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty


def forward(x: Array) -> Array:
    if not fits(x):
        return NotImplemented
    return _each_sequence(compiled.running_mean_forward, x)


def backward(grad: Array) -> Array:
    if not fits(grad):
        return NotImplemented
    return _each_sequence(compiled.running_mean_backward, grad)


def _each_sequence(kernel: Any, array: Array) -> Array:
    """Return what a kernel that reads and writes (B, T, C) once makes of an array."""
    result = empty(array.shape)
    sequences, length, channels = array.shape
    threads = threads_for(4 * array.size)  # read, add, divide and write
    kernel(array, result, sequences, length, channels, threads)
    return result
