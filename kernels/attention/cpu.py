"""Attention in C, for contiguous float32 arrays of the host: see reference.py."""

import math
from types import NotImplementedType

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.attention.reference import Attend, Cache, Gradients, Options, Saved
from tinygrad_char.kernels.backend import asked_first
from tinygrad_char.kernels.cpu.arguments import FLOAT32
from tinygrad_char.kernels.cpu.cores import WORTH_SPREADING, threads_for
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty
from tinygrad_char.kernels.dropout import DropoutKey, keep_scale, threshold


def forward(
    q: Array, k: Array, v: Array, options: Options, bf16: bool = False
) -> tuple[Array, Array]:
    if not _serves(options) or not _rows_fit(q, k, v):
        return NotImplemented
    batch, heads, queries, _ = q.shape
    out = empty((batch, queries, heads, v.shape[-1])).transpose(0, 2, 1, 3)
    statistics = empty((batch, heads, queries, 2))
    arguments = (q, k, v, out, statistics, *_arguments(options))
    compiled.attention_forward(*arguments, bf16, threads_for(4 * q.size * k.shape[2]))
    return out, statistics


def cached(q: Array, k: Array, v: Array, cache: Cache, options: Options, attend: Attend) -> Array:
    keys, values, length = cache
    # where `attend` is the function above: else another version was asked for
    if not _rows_fit(q, k, v, keys, values) or asked_first(attend) is not forward:
        return NotImplemented
    if not 0 <= length[0] <= min(keys.shape[2], values.shape[2]) - k.shape[2]:
        return NotImplemented  # the reference says what does not fit
    batch, heads, queries, _ = q.shape
    out = empty((batch, queries, heads, v.shape[-1])).transpose(0, 2, 1, 3)
    statistics = empty((batch, heads, queries, 2))
    operations = 4 * q.size
    causal, scale, *_ = options
    arguments = (q, k, v, keys, values, length, out, statistics, causal, scale)
    fewest = math.ceil(WORTH_SPREADING / max(1, operations))
    compiled.attention_cached(*arguments, threads_for(operations * keys.shape[2]), fewest)
    return out


def backward(
    grad: Array, saved: Saved, grads: Gradients, options: Options, bf16: bool = False
) -> NotImplementedType | None:
    q, k, v, out, statistics = saved
    # what forward here has served: scores have to be the same bits
    if not _serves(options) or not _rows_fit(q, k, v):
        return NotImplemented
    grad, out = (
        each if _rows_fit(each) else np.ascontiguousarray(each, FLOAT32) for each in (grad, out)
    )
    results = [each if _rows_fit(each) else empty(each.shape) for each in grads]
    arguments = (q, k, v, out, statistics, *_arguments(options))
    threads = threads_for(10 * q.size * k.shape[2])
    compiled.attention_backward(*arguments, bf16, threads, grad, *results)
    for target, result in zip(grads, results, strict=True):
        if target is not result:
            target[...] = result
    return None


def _serves(options: Options) -> bool:
    return options.dropout == 0 or isinstance(options.key, DropoutKey)


def _rows_fit(*arrays: Array) -> bool:
    for each in arrays:
        if each.dtype != FLOAT32 or (each.strides[-1] != 4 and each.shape[-1] != 1):
            return False
    return True


def _arguments(options: Options) -> tuple[bool, float, bool, int, int, int, float]:
    causal, scale, p, key = options
    if p == 0 or not isinstance(key, DropoutKey):
        return causal, scale, False, 0, 0, 0, 0.0
    return causal, scale, True, key.seed, key.call, threshold(p), keep_scale(p)
