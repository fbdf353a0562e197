"""AdamW in C, for contiguous float32 arrays of the host: see reference.py."""

from types import NotImplementedType
from typing import Unpack

from tinygrad_char.kernels.adamw.reference import Options, fused_arguments
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import fits
from tinygrad_char.kernels.cpu.cores import threads_for
from tinygrad_char.kernels.cpu.extension import compiled


def update(
    parameter: Array, grad: Array, exp_avg: Array, exp_avg_sq: Array, **options: Unpack[Options]
) -> NotImplementedType | None:
    arrays, size = (parameter, grad, exp_avg, exp_avg_sq), parameter.size
    if not fits(*arrays):
        return NotImplemented
    compiled.adamw_update(*arrays, size, *fused_arguments(options), threads_for(8 * size))
    return None
