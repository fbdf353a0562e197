"""Global norm in C, for contiguous float32 arrays of the host: see reference.py."""

import math

import numpy as np

from tinygrad_char.kernels import global_norm
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import fits
from tinygrad_char.kernels.cpu.cores import threads_for
from tinygrad_char.kernels.cpu.extension import compiled


def forward(grad: Array) -> Array:
    if not fits(grad):
        return NotImplemented
    chunk = global_norm.CHUNK
    sums = np.empty(-(-grad.size // chunk))
    compiled.sums_of_squares(grad, sums, grad.size, chunk, threads_for(2 * grad.size))
    return np.asarray(math.sqrt(sums.sum()))
