"""The fused kernels for the CPU, in the place of the references that they equal.

Each has its reference's signature and saved values. They serve contiguous float32 arrays; for
anything else they hand over to the reference. `TABLE` holds what this installation has: nothing
where the extension was not built (no C compiler), or with TINYGRAD_CHAR_KERNELS=reference.
"""

import math
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinygrad_char.kernels import (
    adamw,
    add,
    attention,
    bias_activation,
    blas,
    cross_entropy,
    dropout,
    embedding,
    gelu,
    global_norm,
    layernorm,
    linear,
    log_softmax,
    residual,
    running_mean,
    sampling,
    softmax,
)
from tinygrad_char.kernels.array import Array, signed
from tinygrad_char.kernels.bias_activation import ACTIVATIONS, APPROXIMATE, Kept
from tinygrad_char.kernels.cores import threads_for
from tinygrad_char.kernels.dropout import DropoutKey, MaskSource
from tinygrad_char.kernels.extension import VARIABLE, compiled, wanted
from tinygrad_char.kernels.recording import empty

GELU_KINDS = {
    approximate: ACTIVATIONS.index(activation) for activation, approximate in APPROXIMATE.items()
}
FLOAT32 = np.dtype(np.float32)
MOST_LANES = 1 << 40  # of vector registers: as wide as there are
FEW_ROWS = 4
"""Rows of a linear layer for which a weight is read from memory sooner than a product does it."""


def _fits(*arrays: Array | None) -> bool:
    for each in arrays:
        if each is None:
            continue
        dtype = each.dtype
        if (dtype is not FLOAT32 and dtype != FLOAT32) or not each.flags.c_contiguous:
            return False
    return True


def _matrix(array: Array) -> tuple[int, int]:
    """Return the rows and columns of an array whose leading axes are all rows."""
    return math.prod(array.shape[:-1]), array.shape[-1]


def add_forward(a: Any, b: Any) -> Array:
    """See add.forward; fused where b has the shape of a, or of its last axes."""
    if not _adds_rows(a, b):
        return add.forward(a, b)
    y = empty(a.shape)
    compiled.add_rows(a, b, y, a.size // b.size, b.size, threads_for(a.size))
    return y


def add_into(a: Array, b: Array, out: Array) -> None:
    """See add.into."""
    if not a.shape == b.shape == out.shape or not _fits(a, b, out):
        add.into(a, b, out)
    else:
        compiled.add_rows(a, b, out, 1, a.size, threads_for(a.size))


def add_backward(
    grad: Array, a_shape: tuple[int, ...], b_shape: tuple[int, ...], needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    """See add.backward."""
    size = math.prod(b_shape)
    if a_shape == b_shape or a_shape[len(a_shape) - len(b_shape) :] != b_shape:
        return add.backward(grad, a_shape, b_shape, needs)
    if not needs[1] or not size or not _fits(grad):
        return add.backward(grad, a_shape, b_shape, needs)
    grad_b = empty(b_shape)
    compiled.column_sums(grad, grad_b, 1, grad.size // size, size)
    return grad if needs[0] else None, grad_b


def _adds_rows(a: Any, b: Any) -> bool:
    return (
        type(a) is np.ndarray
        and type(b) is np.ndarray
        and a.ndim >= b.ndim
        and a.shape[a.ndim - b.ndim :] == b.shape
        and b.size > 0
        and _fits(a, b)
    )


def layernorm_forward(
    x: Array, weight: Array | None, bias: Array | None, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """See layernorm.forward."""
    if not _fits(x, weight, bias):
        return layernorm.forward(x, weight, bias, eps)
    y = empty(x.shape)
    mean, rstd = empty((*x.shape[:-1], 1)), empty((*x.shape[:-1], 1))
    compiled.layernorm_forward(x, weight, bias, y, mean, rstd, mean.size, x.shape[-1], eps)
    return y, mean, rstd


def layernorm_backward(
    grad: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    rstd: Array,
    needs: tuple[bool, bool, bool],
    addend: Array | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """See layernorm.backward."""
    if not _fits(grad, x, weight, addend):
        return layernorm.backward(grad, x, weight, mean, rstd, needs, addend)
    channels = x.shape[-1]
    grad_x = empty(x.shape) if needs[0] else None
    grad_weight = empty((channels,)) if needs[1] else None
    grad_bias = empty((channels,)) if needs[2] else None
    compiled.layernorm_backward(
        *(grad, x, weight, mean, rstd, addend),
        *(grad_x, grad_weight, grad_bias, mean.size, channels),
    )
    return grad_x, grad_weight, grad_bias


def attention_forward(
    q: Array,
    k: Array,
    v: Array,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    key: MaskSource | None = None,
) -> tuple[Array, Array]:
    """See attention.forward."""
    if not _fits_attention(q, k, v, dropout, key):
        return attention.forward(q, k, v, causal, scale, dropout, key)
    batch, heads, queries, _ = q.shape
    out = empty((batch, queries, heads, v.shape[-1])).transpose(0, 2, 1, 3)
    statistics = empty((batch, heads, queries, 2))
    arguments = (q, k, v, out, statistics, causal, scale, *_dropout_arguments(dropout, key))
    compiled.attention_forward(*arguments, threads_for(4 * q.size * k.shape[2]))
    return out, statistics


def attention_backward(
    grad: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    statistics: Array,
    grads: tuple[Array, Array, Array],
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    key: MaskSource | None = None,
) -> None:
    """See attention.backward; what forward here has served: scores have to be the same bits."""
    if not _fits_attention(q, k, v, dropout, key):
        attention.backward(grad, q, k, v, out, statistics, grads, causal, scale, dropout, key)
        return
    grad, out = (
        each if _rows_fit(each) else np.ascontiguousarray(each, FLOAT32) for each in (grad, out)
    )
    results = [each if _rows_fit(each) else empty(each.shape) for each in grads]
    arguments = (q, k, v, out, statistics, causal, scale, *_dropout_arguments(dropout, key))
    compiled.attention_backward(*arguments, threads_for(10 * q.size * k.shape[2]), grad, *results)
    for target, result in zip(grads, results, strict=True):
        if target is not result:
            target[...] = result


def _fits_attention(q: Array, k: Array, v: Array, dropout: float, key: MaskSource | None) -> bool:
    return (dropout == 0 or isinstance(key, DropoutKey)) and _rows_fit(q, k, v)


def _rows_fit(*arrays: Array) -> bool:
    return all(
        each.dtype == np.float32 and (each.strides[-1] == 4 or each.shape[-1] == 1)
        for each in arrays
    )


def _dropout_arguments(p: float, key: Any) -> tuple[bool, int, int, int, float]:
    if p == 0:
        return False, 0, 0, 0, 0.0
    return True, key.seed, key.call, dropout.threshold(p), dropout.keep_scale(p)


def bias_activation_forward(z: Array, bias: Array | None, activation: str) -> tuple[Array, Kept]:
    """See bias_activation.forward."""
    if not _fits(z, bias):
        return bias_activation.forward(z, bias, activation)
    kind = ACTIVATIONS.index(activation)
    y = z if activation == "relu" else empty(z.shape)
    compiled.bias_activation_forward(z, bias, y, *_matrix(z), kind)
    return y, (y, None) if activation == "relu" else (z, bias)


def bias_activation_backward(
    grad: Array, kept: Kept, activation: str, need_bias: bool
) -> tuple[Array, Array | None]:
    """See bias_activation.backward."""
    if not _fits(grad, *kept):
        return bias_activation.backward(grad, kept, activation, need_bias)
    kind = ACTIVATIONS.index(activation)
    grad_z = empty(grad.shape)
    grad_bias = empty(grad.shape[-1:]) if need_bias else None
    compiled.bias_activation_backward(grad, *kept, grad_z, grad_bias, *_matrix(grad), kind)
    return grad_z, grad_bias


def gelu_forward(x: Array, approximate: str = "none") -> Array:
    """See gelu.forward."""
    if not _fits(x):
        return gelu.forward(x, approximate)
    y = empty(x.shape)
    compiled.bias_activation_forward(x, None, y, 1, x.size, GELU_KINDS[approximate])
    return y


def gelu_backward(grad: Array, x: Array, approximate: str = "none") -> Array:
    """See gelu.backward."""
    if not _fits(grad, x):
        return gelu.backward(grad, x, approximate)
    dx = empty(x.shape)
    compiled.bias_activation_backward(grad, x, None, dx, None, 1, x.size, GELU_KINDS[approximate])
    return dx


def dropout_masked(x: Array, p: float, key: MaskSource) -> Array:
    """See dropout.forward and dropout.backward; masks of other sources are the reference's."""
    mask = _mask(p, key)
    if mask is None or not _fits(x):
        return dropout.forward(x, p, key)
    y = empty(x.shape)
    compiled.dropout_masked(x, y, x.size, *mask)
    return y


def residual_forward(
    z: Array, bias: Array | None, x: Array | None, p: float = 0.0, key: MaskSource | None = None
) -> Array:
    """See residual.forward; masks that are not counter-based are the reference's."""
    mask = _mask(p, key)
    if mask is None or not _fits(z, bias, x):
        return residual.forward(z, bias, x, p, key)
    compiled.residual_forward(z, bias, x, *_matrix(z), *mask)
    return z


def residual_backward(
    grad: Array, p: float, key: MaskSource | None, need_bias: bool
) -> tuple[Array, Array | None]:
    """See residual.backward; masks that are not counter-based are the reference's."""
    mask = _mask(p, key)
    if mask is None or not _fits(grad):
        return residual.backward(grad, p, key, need_bias)
    if p == 0:
        return grad, _column_sums(grad) if need_bias else None
    grad_z = empty(grad.shape)
    grad_bias = empty(grad.shape[-1:]) if need_bias else None
    compiled.residual_backward(grad, grad_z, grad_bias, *_matrix(grad), *mask)
    return grad_z, grad_bias


def linear_forward(x: Array, weight: Array, bias: Array | None) -> Array:
    """See linear.forward; few rows have a kernel of their own."""
    count = x.size // max(x.shape[-1], 1)
    if count == 0 or weight.size == 0 or not _fits(x, weight, bias):
        return linear.forward(x, weight, bias)
    outputs, inputs = weight.shape
    if count <= FEW_ROWS:
        y = empty((*x.shape[:-1], outputs))
        threads = threads_for(2 * count * weight.size)
        compiled.linear_few_rows(x, weight, bias, y, count, inputs, outputs, threads)
        return y
    if not _has_products():
        return linear.forward(x, weight, bias)
    y = empty((*x.shape[:-1], outputs))
    _product(x, weight, y, count, outputs, inputs, False, True)
    if bias is not None:
        compiled.add_rows(y, bias, y, count, outputs, threads_for(y.size))
    return y


def linear_backward(
    grad: Array, x: Array, weight: Array, needs: tuple[bool, bool, bool]
) -> tuple[Array | None, Array | None, Array | None]:
    """See linear.backward."""
    if not grad.size or not _fits(grad, x, weight) or not _has_products():
        return linear.backward(grad, x, weight, needs)
    need_x, need_weight, need_bias = needs
    count, outputs = _matrix(grad)
    grad_x = grad_weight = None
    if need_x:
        inputs = weight.shape[1]
        grad_x = empty((*grad.shape[:-1], inputs))
        _product(grad, weight, grad_x, count, inputs, outputs, False, False)
    if need_weight:
        inputs = x.shape[-1]
        grad_weight = empty((outputs, inputs))
        _product(grad, x, grad_weight, outputs, inputs, count, True, False)
    return grad_x, grad_weight, _column_sums(grad) if need_bias else None


def _product(
    a: Array, b: Array, c: Array, rows: int, columns: int, depth: int, turn_a: bool, turn_b: bool
) -> None:
    """Write c (rows, columns) = a b, of operands that are turned where they lie transposed."""
    # a tenth, since a product does ten times as many operations in a time as other kernels
    threads = threads_for(2 * rows * columns * depth / 10)
    compiled.product(a, b, c, rows, columns, depth, turn_a, turn_b, False, threads)


@cache
def _has_products() -> bool:
    """Return whether products in C are worth it, once they have what BLAS there is.

    Without AVX2 registers and a BLAS that can be called from C, NumPy knows a better one.
    """
    return blas.bind(compiled) or compiled.product_choose_lanes(MOST_LANES) > 4


def _mask(p: float, key: MaskSource | None) -> tuple[int, int, int, float] | None:
    """Return what philox.h makes a mask of (p = 0 keeps all), None if it cannot make this one."""
    if p == 0:
        return 0, 0, 0, 1.0
    if not isinstance(key, DropoutKey):
        return None
    return key.seed, key.call, dropout.threshold(p), dropout.keep_scale(p)


def _column_sums(array: Array) -> Array:
    sums = empty(array.shape[-1:])
    compiled.column_sums(array, sums, 1, *_matrix(array))
    return sums


def cross_entropy_forward(
    logits: Array, targets: Array, reduction: str = "mean", ignore_index: int = -100
) -> tuple[Array, Array]:
    """See cross_entropy.forward."""
    indices, counted = _count_targets(logits, targets, ignore_index)
    if counted < 0:
        return cross_entropy.forward(logits, targets, reduction, ignore_index)
    losses, statistics = empty(targets.shape), empty((len(targets), 2))
    loss = None if reduction == "none" else empty(())
    compiled.cross_entropy_forward(
        *(logits, indices, losses, statistics, loss),
        *(*logits.shape, ignore_index, counted if reduction == "mean" else 1),
    )
    return losses if loss is None else loss, statistics


def cross_entropy_backward(
    grad: Array,
    logits: Array,
    targets: Array,
    statistics: Array,
    reduction: str = "mean",
    ignore_index: int = -100,
) -> Array:
    """See cross_entropy.backward; without a reduction the reference serves."""
    indices, counted = _count_targets(logits, targets, ignore_index)
    if counted < 0 or reduction == "none" or not _fits(grad):
        return cross_entropy.backward(grad, logits, targets, statistics, reduction, ignore_index)
    divisor = max(counted, 1) if reduction == "mean" else 1
    dlogits = empty(logits.shape)
    compiled.cross_entropy_backward(
        grad, logits, indices, statistics, dlogits, *logits.shape, ignore_index, divisor
    )
    return dlogits


def _count_targets(logits: Array, targets: Array, ignore_index: int) -> tuple[Array, int]:
    """Return the targets as int64, and how many count: -1 where the reference has to serve."""
    if not _fits(logits):
        return targets, -1
    indices = _int64(targets)
    return indices, compiled.count_targets(indices, *logits.shape, ignore_index)


def _int64(indices: Array) -> Array:
    return np.ascontiguousarray(signed(indices), np.int64)


def embedding_forward(
    idx: Array, weight: Array, addend: Array | None = None, dtype: np.dtype | None = None
) -> Array:
    """See embedding.forward, which also serves to name an index that is out of range."""
    if _fits(weight, addend) and dtype in (None, FLOAT32):
        y = empty((*idx.shape, weight.shape[1]))
        period = 1 if addend is None else math.prod(addend.shape[:-1])
        sizes = (idx.size, max(1, period), *weight.shape)
        if compiled.embedding_forward(_int64(idx), weight, addend, y, *sizes):
            return y
    return embedding.forward(idx, weight, addend, dtype)


def embedding_backward(grad: Array, idx: Array, rows: int, dtype: np.dtype | None = None) -> Array:
    """See embedding.backward."""
    if grad.dtype == FLOAT32 and dtype in (None, FLOAT32):
        grad = np.ascontiguousarray(grad)
        result = empty((rows, grad.shape[-1]))
        done = compiled.embedding_backward(grad, _int64(idx), result, idx.size, *result.shape)
        if done < 0:
            raise MemoryError("embedding: no memory to add up the gradients of the rows")
        if done:
            return result
    return embedding.backward(grad, idx, rows, dtype)


def embedding_backward_addend(
    grad: Array, shape: tuple[int, ...], dtype: np.dtype | None = None
) -> Array:
    """See embedding.backward_addend."""
    if grad.shape == shape or not grad.size or not _fits(grad) or dtype not in (None, FLOAT32):
        return embedding.backward_addend(grad, shape, dtype)
    sums = empty(shape)
    compiled.column_sums(grad, sums, 1, grad.size // sums.size, sums.size)
    return sums


def adamw_update(
    parameter: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    grad_scale: float = 1.0,
) -> None:
    """See adamw.update."""
    if not _fits(parameter, grad, exp_avg, exp_avg_sq):
        adamw.update(
            parameter,
            grad,
            exp_avg,
            exp_avg_sq,
            step=step,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled=decoupled,
            grad_scale=grad_scale,
        )
        return
    beta1, beta2 = betas
    compiled.adamw_update(
        parameter,
        grad,
        exp_avg,
        exp_avg_sq,
        parameter.size,
        grad_scale,
        1 - lr * weight_decay if decoupled else 1.0,
        0.0 if decoupled else weight_decay,
        1 - beta1,
        beta2,
        1 - beta2,
        math.sqrt(1 - beta2**step),
        eps,
        lr / (1 - beta1**step),
        threads_for(8 * parameter.size),
    )


def global_norm_forward(grad: Array) -> Array:
    """See global_norm.forward."""
    if not _fits(grad):
        return global_norm.forward(grad)
    chunk = global_norm.CHUNK
    sums = np.empty(-(-grad.size // chunk))
    compiled.sums_of_squares(grad, sums, grad.size, chunk, threads_for(2 * grad.size))
    return np.asarray(math.sqrt(sums.sum()))


def running_mean_forward(x: Array) -> Array:
    """See running_mean.forward."""
    return _each_sequence(compiled.running_mean_forward, x) if _fits(x) else running_mean.forward(x)


def running_mean_backward(grad: Array) -> Array:
    """See running_mean.backward."""
    if not _fits(grad):
        return running_mean.backward(grad)
    return _each_sequence(compiled.running_mean_backward, grad)


def _each_sequence(kernel: Any, array: Array) -> Array:
    """Return what a kernel that reads and writes (B, T, C) once makes of an array."""
    result = empty(array.shape)
    sequences, length, channels = array.shape
    threads = threads_for(4 * array.size)  # read, add, divide and write
    kernel(array, result, sequences, length, channels, threads)
    return result


def softmax_forward(
    x: Array, mask: Array | None = None, axis: int = -1, causal: bool = False, scale: float = 1.0
) -> Array:
    """See softmax.forward; along another axis than the last the reference serves."""
    if not _fits_rows(axis, x):
        return softmax.forward(x, mask, axis, causal, scale)
    if mask is not None:
        x, scale = softmax.split_scale(x, scale)
        x = y = np.ascontiguousarray(np.where(mask, x, FLOAT32.type(-np.inf)))
    else:
        x, y = _with_room(x)
    arguments = (x, y, *_matrices(x), causal, mask is not None, scale)
    compiled.softmax_forward(*arguments, threads_for(20 * x.size))
    return y


def softmax_backward(
    grad: Array, y: Array, axis: int = -1, causal: bool = False, scale: float = 1.0
) -> Array:
    """See softmax.backward; along another axis than the last the reference serves."""
    if not _fits_rows(axis, y, grad):
        return softmax.backward(grad, y, axis, causal, scale)
    grad, grad_x = _with_room(grad)
    y = np.ascontiguousarray(y)
    threads = threads_for(6 * y.size)
    compiled.softmax_backward(grad, y, grad_x, *_matrices(y), causal, scale, threads)
    return grad_x


def log_softmax_forward(x: Array, axis: int = -1) -> Array:
    """See log_softmax.forward; along another axis than the last the reference serves."""
    if not _fits_rows(axis, x):
        return log_softmax.forward(x, axis)
    x, y = _with_room(x)
    compiled.log_softmax_forward(x, y, *_matrix(x), threads_for(20 * x.size))
    return y


def log_softmax_backward(grad: Array, y: Array, axis: int = -1) -> Array:
    """See log_softmax.backward; along another axis than the last the reference serves."""
    if not _fits_rows(axis, y, grad):
        return log_softmax.backward(grad, y, axis)
    grad, grad_x = _with_room(grad)
    y = np.ascontiguousarray(y)
    compiled.log_softmax_backward(grad, y, grad_x, *_matrix(y), threads_for(20 * y.size))
    return grad_x


def _fits_rows(axis: int, *arrays: Array) -> bool:
    """Return whether these are float32 arrays of one shape, and `axis` the last of them."""
    first = arrays[0]
    return axis in (-1, first.ndim - 1) and all(
        each.dtype == FLOAT32 and each.shape == first.shape for each in arrays
    )


def _with_room(array: Array) -> tuple[Array, Array]:
    """Return the array, contiguous, and where to write as many numbers: a copy's own memory."""
    if array.flags.c_contiguous:
        return array, empty(array.shape)
    copy = np.ascontiguousarray(array)
    return copy, copy


def _matrices(array: Array) -> tuple[int, int, int]:
    """Return how many rows an array has, and the rows and columns of each of its matrices."""
    count, columns = _matrix(array)
    return count, array.shape[-2] if array.ndim > 1 else 1, columns


def sampling_forward(
    logits: Array,
    uniform: Array,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Array:
    """See sampling.forward."""
    if logits.dtype != FLOAT32 or logits.shape[1] == 0:
        return sampling.forward(logits, uniform, temperature, top_k, top_p)
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


def _table() -> dict[str, Any]:
    if wanted is None:
        return {}
    return {
        "adamw": SimpleNamespace(update=adamw_update),
        "add": SimpleNamespace(forward=add_forward, backward=add_backward, into=add_into),
        "attention": SimpleNamespace(forward=attention_forward, backward=attention_backward),
        "bias_activation": SimpleNamespace(
            forward=bias_activation_forward, backward=bias_activation_backward
        ),
        "cross_entropy": SimpleNamespace(
            forward=cross_entropy_forward, backward=cross_entropy_backward
        ),
        "dropout": SimpleNamespace(forward=dropout_masked, backward=dropout_masked),
        "embedding": SimpleNamespace(
            forward=embedding_forward,
            backward=embedding_backward,
            backward_addend=embedding_backward_addend,
        ),
        "gelu": SimpleNamespace(forward=gelu_forward, backward=gelu_backward),
        "global_norm": SimpleNamespace(forward=global_norm_forward),
        "layernorm": SimpleNamespace(forward=layernorm_forward, backward=layernorm_backward),
        "linear": SimpleNamespace(forward=linear_forward, backward=linear_backward),
        "log_softmax": SimpleNamespace(forward=log_softmax_forward, backward=log_softmax_backward),
        "residual": SimpleNamespace(forward=residual_forward, backward=residual_backward),
        "running_mean": SimpleNamespace(
            forward=running_mean_forward, backward=running_mean_backward
        ),
        "sampling": SimpleNamespace(forward=sampling_forward),
        "softmax": SimpleNamespace(
            forward=softmax_forward, backward=softmax_backward, causal_mask=softmax.causal_mask
        ),
    }


TABLE = _table()
"""The fused kernels of this installation, by operation."""


def status() -> str:
    """Say in words which kernels serve the CPU, and why."""
    if TABLE:
        return "fused in C: " + ", ".join(sorted(TABLE))
    if compiled is not None:
        return f"references in NumPy, as {VARIABLE}=reference asks"
    return "references in NumPy: the C extension is not built (no compiler at installation?)"
