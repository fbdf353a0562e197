"""Sampling in C, for contiguous float32 arrays of the host: see reference.py."""

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import FLOAT32
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.sampling.reference import PLAIN, Options


def forward(logits: Array, uniform: Array, options: Options = PLAIN) -> Array:
    temperature, top_k, top_p = options
    if logits.dtype != FLOAT32 or logits.shape[1] == 0:
        return NotImplemented
    rows, classes = logits.shape
    tokens = np.empty(rows, np.int64)
    compiled.sampling(
        np.ascontiguousarray(logits),
        np.ascontiguousarray(uniform, np.float64),
        tokens,
        rows,
        classes,
        temperature,
        classes if top_k is None else top_k,
        1.0 if top_p is None else top_p,
    )
    return tokens
