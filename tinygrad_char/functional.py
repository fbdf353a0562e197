"""Operations as functions: those of several tensors, and those of neural networks."""

import contextlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tinygrad_char.along import along
from tinygrad_char.autograd import TensorBase
from tinygrad_char.coerce import (
    DEFAULT_DTYPE,
    boolean_mask,
    first_tensor,
    floating,
    lengths,
    operands,
    promoted,
    tensor_like,
)
from tinygrad_char.functions import gelu as gelu
from tinygrad_char.functions import log_softmax as log_softmax
from tinygrad_char.functions import maximum as maximum
from tinygrad_char.functions import minimum as minimum
from tinygrad_char.functions import pad as pad
from tinygrad_char.functions import relu as relu
from tinygrad_char.functions import sigmoid as sigmoid
from tinygrad_char.functions import tanh as tanh
from tinygrad_char.kernels import rotary as rotary_positions
from tinygrad_char.kernels.array import Array, is_floating, rounded, widened
from tinygrad_char.kernels.attention import Options
from tinygrad_char.kernels.backend import Backend
from tinygrad_char.kernels.bias_activation import ACTIVATIONS
from tinygrad_char.kernels.dropout import DropoutKey, MaskSource
from tinygrad_char.kernels.embedding import check_indices
from tinygrad_char.kernels.softmax import causal_mask
from tinygrad_char.kernels.words import shorten
from tinygrad_char.losses import REDUCTIONS as REDUCTIONS
from tinygrad_char.losses import binary_cross_entropy as binary_cross_entropy
from tinygrad_char.losses import (
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
)
from tinygrad_char.losses import cross_entropy as cross_entropy
from tinygrad_char.losses import huber_loss as huber_loss
from tinygrad_char.losses import integers
from tinygrad_char.losses import l1_loss as l1_loss
from tinygrad_char.losses import mse_loss as mse_loss
from tinygrad_char.losses import nll_loss as nll_loss
from tinygrad_char.losses import smooth_l1_loss as smooth_l1_loss
from tinygrad_char.modes import is_grad_enabled
from tinygrad_char.ops import activation as activations
from tinygrad_char.ops import elementwise, neural, shape
from tinygrad_char.ops.batch_norm import BatchNorm
from tinygrad_char.ops.reduction import Axis, normalize_axes
from tinygrad_char.spelling import spelled
from tinygrad_char.tensor import Tensor


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """Return `a` where the boolean condition holds, else `b`, with broadcasting."""
    like = first_tensor("where", a, b, condition)
    condition = tensor_like("where", condition, like)
    if condition.dtype != bool:
        raise TypeError(f"where: condition is {condition.dtype}, expected booleans")
    if not isinstance(a, TensorBase) and not isinstance(b, TensorBase):
        a = tensor_like("where", a, like)
    return elementwise.Where.apply(condition, *operands("where", a, b))


@spelled
def cat(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Return the tensors one after the other along an existing axis; dtypes as of operators."""
    return shape.Concatenate.apply(*promoted("cat", tensors), axis=axis)


concatenate = cat


@spelled
def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Return the tensors, of one shape, along a new axis; dtypes as of operators."""
    return shape.Stack.apply(*promoted("stack", tensors), axis=axis)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Return the tensors one after the other along axis 0; vectors become rows."""
    return cat([x.reshape(1, -1) if x.ndim < 2 else x for x in promoted("vstack", tensors)], 0)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Return the tensors one after the other along axis 1, vectors along their only axis."""
    given = [x.reshape(1) if x.ndim == 0 else x for x in promoted("hstack", tensors)]
    return cat(given, 0 if given[0].ndim == 1 else 1)


def silu(x: Tensor) -> Tensor:
    """Return x sigmoid(x) of each element (arXiv:1702.03118), 0 at -infinity."""
    return activations.Silu.apply(floating(x))


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Return x where it is above 0, else negative_slope x."""
    return activations.LeakyRelu.apply(floating(x), negative_slope=float(negative_slope))


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Return x where it is above 0, else alpha (exp(x) - 1) (arXiv:1511.07289)."""
    return activations.Elu.apply(floating(x), alpha=float(alpha))


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Return log(1 + exp(beta x)) / beta, and x itself where beta x is above the threshold.

    Raises
    ------
    ValueError
        beta is 0.
    """
    if beta == 0:
        raise ValueError("softplus: beta=0, expected another number")
    return activations.Softplus.apply(floating(x), beta=float(beta), threshold=float(threshold))


def one_hot(idx: Any, num_classes: int | None = None) -> Tensor:
    """Return int64 zeros (..., num_classes) with a 1 where the integers idx (...,) say.

    Without `num_classes` (or with -1) there are as many as the largest index asks for.

    Raises
    ------
    TypeError
        idx holds something else than integers.
    IndexError
        An index is negative, or not below num_classes.
    ValueError
        num_classes is to be found from no index at all, or is below 1.
    """
    idx = idx if isinstance(idx, TensorBase) else Tensor(idx)
    idx = integers("one_hot", "indices", idx, idx)
    if num_classes is None or num_classes == -1:
        if idx.size == 0:
            raise ValueError(f"one_hot: indices of shape {idx.shape} and no num_classes; give it")
        num_classes = int(idx.array.max()) + 1
    elif num_classes < 1:
        raise ValueError(f"one_hot: num_classes={shorten(num_classes)}, expected at least 1")
    check_indices(idx.array, max(num_classes, 1), "one_hot: index")
    classes = idx.backend.xp.arange(num_classes)
    return idx._result((idx.array[..., None] == classes).astype(np.int64))


@spelled
def softmax(
    x: Tensor, axis: Axis = -1, mask: Any = None, scale: float = 1.0, dtype: Any = None
) -> Tensor:
    """Return exp(scale x) / sum(exp(scale x)) over `axis`: of the elements where `mask` is True.

    The axis is one, several, or None for all of them. `mask` is boolean and broadcasts to x, or is
    "causal": of the last two axes, element (i, j) takes part if j <= i + columns - rows. Where no
    element takes part the result is zeros. With a `dtype` x is converted to it first.

    Raises
    ------
    ValueError
        The mask is another word, or does not broadcast to x; "causal" for less than two axes.
    TypeError
        The mask is not of booleans.
    """
    x = floating(x if dtype is None else x.astype(dtype))
    axes = normalize_axes("softmax", axis, x.ndim)
    causal = isinstance(mask, str)
    if causal:
        if mask != "causal" or x.ndim < 2:
            raise ValueError(
                f"softmax: mask={mask!r} for shape {x.shape}; expected booleans, or 'causal' "
                "for at least two axes"
            )
        mask = None
        if len(axes) != 1:
            causal, mask = False, x._result(causal_mask(x.backend.xp, *x.shape[-2:]))
    elif mask is not None:
        mask = boolean_mask("softmax", mask, x)
    if mask is not None and len(axes) != 1:
        mask = mask.broadcast_to(x.shape)

    def apply(x: Tensor, mask: Tensor | None, axis: int) -> Tensor:
        return neural.Softmax.apply(x, mask, axis=axis, causal=causal, scale=scale)

    return along(x, axes, apply, mask)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """Return activation(x W^T + b): x (..., in), weight (out, in), bias (out,) or None.

    `activation` is None, "relu", "gelu" (exact) or "gelu_tanh"; it costs no pass of its own.
    x in bfloat16 goes with parameters in float32, too.
    """
    _same_dtype("linear", [x, weight] if bias is None else [x, weight, bias], mixed=True)
    check_activation("linear", activation)
    if activation is None:
        return neural.Linear.apply(x, weight, bias)
    return neural.LinearActivation.apply(x, weight, bias, activation=activation)


def linear_residual(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    dropout: float = 0.0,
    key: MaskSource | None = None,
) -> Tensor:
    """Return residual + dropout(x W^T + b): what a branch writes to a residual stream.

    As `linear`, and residual (..., out) or None. Dropout above 0 needs a key, from
    `random.Stream.dropout_key`.
    """
    given = [each for each in (x, weight, bias, residual) if each is not None]
    _same_dtype("linear_residual", given, mixed=True)
    _check_dropout("linear_residual", dropout, key)
    return neural.LinearResidual.apply(x, weight, bias, residual, p=dropout, key=key)


def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    normalized_shape: int | Sequence[int] | None = None,
) -> Tensor:
    """Return (x - mean) / sqrt(var + eps) * weight + bias over the last axes.

    These are the axes of weight or bias, or of `normalized_shape`; the last one if none is given.
    x in bfloat16 goes with parameters in float32, too.

    Raises
    ------
    ValueError
        weight, bias or normalized_shape are not of the shape of the last axes of x.
    """
    x = floating(x)
    given = [each for each in (x, weight, bias) if each is not None]
    _same_dtype("layer_norm", given, mixed=True)
    vectors = (weight is None or weight.array.ndim == 1) and (bias is None or bias.array.ndim == 1)
    if normalized_shape is None and vectors:
        return neural.LayerNorm.apply(x, weight, bias, eps=eps)
    shape = _last_axes("layer_norm", x, normalized_shape, {"weight": weight, "bias": bias})
    if len(shape) < 2:
        return neural.LayerNorm.apply(x, weight, bias, eps=eps)
    rows = [each if each is None else each.reshape(-1) for each in (weight, bias)]
    return neural.LayerNorm.apply(_joined(x, shape), *rows, eps=eps).reshape(x.shape)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return (x - mean) / sqrt(var + eps) * weight + bias: x (N, C, ...), the others (C,).

    In training, mean and (biased) variance are those of x over all axes but the second, and
    running averages, where given, are changed in place: new = (1 - momentum) * old + momentum *
    batch, with the unbiased variance. Else the running averages are used.

    Raises
    ------
    ValueError
        x has less than two axes, another argument not the shape (C,), a channel in training less
        than two values; or not in training, running averages are missing.
    """
    x = floating(x)
    others = {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }
    _same_dtype("batch_norm", [x, *(each for each in others.values() if each is not None)])
    if x.ndim < 2:
        raise ValueError(f"batch_norm: x {x.shape}; expected (N, C) or (N, C, ...)")
    for name, each in others.items():
        if each is not None and each.shape != x.shape[1:2]:
            raise ValueError(f"batch_norm: {name} {each.shape} for x {x.shape}, not {x.shape[1:2]}")
    if training and x.size <= x.shape[1]:
        raise ValueError(f"batch_norm: x {x.shape} holds less than two values for a channel")
    if not training and (running_mean is None or running_var is None):
        raise ValueError("batch_norm: running_mean and running_var are needed unless in training")

    def note(mean: Array, var: Array, count: int) -> None:
        for running, batch in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
            if running is not None:
                total = widened(running.array) * (1 - momentum) + batch * momentum
                running.copy_(running._result(rounded(total, running.dtype)))

    averages = (None, None) if training else (running_mean, running_var)
    given = [each if each is None else each.detach() for each in averages]
    return BatchNorm.apply(x, weight, bias, *given, eps=eps, note=note)


def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    normalized_shape: int | Sequence[int] | None = None,
) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight over the last axes (arXiv:1910.07467).

    These are the axes of weight, or of `normalized_shape`; the last one if none is given. eps, if
    None, is the distance of 1 to the next number of x's dtype.

    Raises
    ------
    ValueError
        weight or normalized_shape are not of the shape of the last axes of x.
    """
    x = floating(x)
    _same_dtype("rms_norm", [x] if weight is None else [x, weight], mixed=True)
    shape = _last_axes("rms_norm", x, normalized_shape, {"weight": weight})
    if eps is None:
        eps = 2.0**-7 if x.dtype.name == "bfloat16" else float(np.finfo(x.dtype).eps)
    if len(shape) < 2:
        return neural.RMSNorm.apply(x, weight, None, eps=eps)
    row = None if weight is None else weight.reshape(-1)
    return neural.RMSNorm.apply(_joined(x, shape), row, None, eps=eps).reshape(x.shape)


def _last_axes(
    name: str,
    x: Tensor,
    normalized_shape: int | Sequence[int] | None,
    parameters: dict[str, Tensor | None],
) -> tuple[int, ...]:
    """Return the lengths of the axes to normalise over."""
    given = {key: each.shape for key, each in parameters.items() if each is not None}
    if normalized_shape is not None:
        given["normalized_shape"] = lengths([normalized_shape])
    shape = next(reversed(given.values()), x.shape[-1:])
    for key, each in given.items():
        expected = x.shape[max(0, x.ndim - len(shape)) :]
        if each != expected or not each:
            raise ValueError(
                f"{name}: {key} {each} for x {x.shape}; expected {expected or x.shape[-1:]}"
            )
    return shape


def _joined(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return x with its last axes, of this shape, as one."""
    return x.reshape(*x.shape[: x.ndim - len(shape)], math.prod(shape))


def embedding(idx: Any, weight: Tensor, addend: Tensor | None = None, dtype: Any = None) -> Tensor:
    """Return the rows of weight (V, C) named by the integers idx (...,), plus addend: (..., C).

    The addend has the shape of the result's last axes; `dtype` is what the sum is rounded to, the
    table's if None.
    """
    idx = integers("embedding", "indices", idx, weight)
    if addend is not None:
        _same_dtype("embedding", [weight, addend])
    dtype = weight.dtype if dtype is None else np.dtype(dtype)
    if not is_floating(dtype):
        raise TypeError(f"embedding: dtype {dtype}, expected one of floats")
    return neural.Embedding.apply(idx, weight, addend, dtype=dtype)


def causal_convolution(x: Tensor, weight: Tensor, *, cache: Any = None) -> Tensor:
    """Return x[b, t] + sum_k weight[k] * x[b, t - k]: x (B, T, C), weight (K, C).

    With a cache, an nn.ConvolutionCache of K taps, x continues the positions that it holds, and
    nothing may need a gradient.

    Raises
    ------
    ValueError
        Shapes that do not fit.
    RuntimeError
        With a cache, a gradient would be needed.
    """
    x, weight = floating(x), floating(weight)
    _same_dtype("causal_convolution", [x, weight], mixed=True)
    if x.ndim != 3 or weight.ndim != 2 or not len(weight) or weight.shape[1] != x.shape[2]:
        raise ValueError(
            f"causal_convolution: x {x.shape}, weight {weight.shape}; expected (B, T, C) and "
            "(K, C) with at least one tap"
        )
    if cache is not None:
        if is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            raise RuntimeError(
                "causal_convolution: a cache keeps no history for backward; use no_grad()"
            )
        if cache.taps != len(weight):
            raise ValueError(
                f"causal_convolution: a cache for {cache.taps} taps, weight {weight.shape}"
            )
    return neural.CausalConvolution.apply(x, weight, cache=cache)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    key: DropoutKey | None = None,
    attn_mask: Any = None,
    is_causal: bool = False,
) -> Tensor:
    """Return dropout(softmax(scale q k^T)) v: q (B, H, T, D), k (B, H, S, D), v (B, H, S, E).

    There may be any number of axes before the last two; they broadcast. With `causal`, query i
    sees keys j <= i + S - T: the queries are the last T positions. With `is_causal` it sees keys
    j <= i, as in PyTorch: they are the first ones, which is the same where T is S. The default
    scale is 1 / sqrt(D). Dropout above 0 needs a key, from `random.Stream.dropout_key`.

    `attn_mask` broadcasts to (..., T, S): booleans, True where a query sees a key, or floats,
    which are added to the scores and may need a gradient; -infinity hides a key. A query that
    sees no key gets zeros. With it the (T, S) weights are kept for backward.

    Raises
    ------
    ValueError
        Shapes that do not fit, or dropout without a key.
    TypeError
        Two dtypes; a mask of integers; or both `causal` and `is_causal`.
    """
    if causal and is_causal:
        raise TypeError(
            "attention: causal and is_causal count the queries from different ends; give one"
        )
    q, k, v = _same_dtype("attention", [floating(each) for each in (q, k, v)])
    size = q.shape[-1] if q.ndim else 0
    options = _attention_options(size, causal, scale, dropout, key)
    batch = _attention_batch(q, k, v)
    if is_causal:
        if q.shape[-2] == k.shape[-2]:
            options = options._replace(causal=True)
        else:
            attn_mask = _from_the_first(q, k, attn_mask)
    if attn_mask is not None:
        return _masked_attention(q, k, v, attn_mask, batch, options)
    if len(batch) == 2 and batch == q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        return neural.Attention.apply(q, k, v, options=options)
    heads = (1, *batch)[-1]
    pairs = (math.prod((1, *batch)[:-1]), heads)
    q, k, v = (
        each.broadcast_to(*batch, *each.shape[-2:]).reshape(*pairs, *each.shape[-2:])
        for each in (q, k, v)
    )
    out = neural.Attention.apply(q, k, v, options=options)
    return out.reshape(*batch, *out.shape[-2:])


def _from_the_first(q: Tensor, k: Tensor, attn_mask: Any) -> Tensor:
    """Return the mask that lets query i see keys j <= i, and of them what another one does."""
    visible = q._result(q.backend.xp.tri(q.shape[-2], k.shape[-2], dtype=bool))
    if attn_mask is None:
        return visible
    mask = tensor_like("attention", attn_mask, q)
    return visible & mask if mask.dtype == bool else where(visible, mask, -math.inf)


def _attention_batch(q: Tensor, k: Tensor, v: Tensor) -> tuple[int, ...]:
    """Return the axes before the last two, broadcast."""
    matrices = min(q.ndim, k.ndim, v.ndim) >= 2
    if matrices and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]:
        with contextlib.suppress(ValueError):
            return np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    raise ValueError(
        f"attention: q {q.shape}, k {k.shape}, v {v.shape}; expected (B, H, T, D), (B, H, S, D), "
        "(B, H, S, E), axes before the last two broadcasting"
    )


def _masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Any,
    batch: tuple[int, ...],
    options: Options,
) -> Tensor:
    causal, scale, dropout, key = options
    mask = tensor_like("attention", attn_mask, q)
    shape = (*batch, q.shape[-2], k.shape[-2])
    try:
        fits = np.broadcast_shapes(mask.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"attention: attn_mask {mask.shape} does not broadcast to {shape}")
    scores = (q @ k.swapaxes(-1, -2)).broadcast_to(shape)
    if mask.dtype != bool:
        if mask.dtype != q.dtype:
            raise TypeError(f"attention: attn_mask is {mask.dtype}, expected booleans or {q.dtype}")
        visible = mask._result(mask.array != -math.inf)
        scores, scale = scores * scale + where(visible, mask, 0.0), 1.0
        mask = visible
    weights = neural.Softmax.apply(scores, mask, axis=len(shape) - 1, causal=causal, scale=scale)
    if dropout > 0 and key is not None:
        weights = neural.Dropout.apply(weights, p=dropout, key=key)
    return weights @ v


@spelled(causal="is_causal")
def self_attention(
    qkv: Tensor,
    heads: int,
    *,
    causal: bool = True,
    scale: float | None = None,
    dropout: float = 0.0,
    key: DropoutKey | None = None,
    cache: Any = None,
    rotary: bool = False,
    normalize: bool = False,
) -> Tensor:
    """Return the attention (B, T, C) of a sequence to itself, from qkv (B, T, 3C).

    The last axis of qkv holds the queries of all heads, then the keys, then the values. With a
    `nn.KeyValueCache` the sequence begins with the positions that it holds; RuntimeError where a
    gradient is asked for.

    With `rotary`, position t turns the pairs (i, i + D/2) of each query and key by
    t * 10000^(-2i/D) (Su et al. 2021, arXiv:2104.09864), so that scores know distances; D, the
    channels of a head, must be even. With `normalize`, each is first divided by its root mean
    square (Henry et al. 2020, arXiv:2010.04245), so that scores stay below sqrt(D); D again even.
    """
    if cache is not None and qkv.requires_grad and is_grad_enabled():
        raise RuntimeError("self_attention: a cache keeps no history for backward; use no_grad()")
    if heads < 1:
        raise ValueError(f"self_attention: heads={heads}, expected at least 1")
    size = qkv.shape[-1] // (3 * heads) if qkv.ndim else 0
    options = _attention_options(size, causal, scale, dropout, key)
    qkv = floating(qkv)
    angles = None
    if rotary or normalize:
        if size % 2 and qkv.shape[-1] == 3 * heads * size:
            raise ValueError(
                f"self_attention: heads of {size} channels cannot be turned or normalized in "
                "pairs; expected an even number"
            )
        positions = cache.capacity if cache is not None else qkv.shape[1] if qkv.ndim > 1 else 0
        angles = _angles(qkv, positions, size, rotary)
    return neural.SelfAttention.apply(
        qkv, angles, heads=heads, options=options, cache=cache, normalize=normalize
    )


def _angles(qkv: Tensor, positions: int, size: int, rotary: bool) -> Tensor:
    """Return the angles of at least so many positions, of 0 without `rotary`, made once."""
    dtype = np.dtype(np.float64 if qkv.dtype == np.float64 else np.float32)
    rows = 1 << max(0, positions - 1).bit_length()
    if rows * size > rotary_positions.MOST_ANGLES:
        rows = positions
    return _made_angles(qkv.backend, rows, size, dtype, rotary)


@lru_cache(maxsize=16)
def _made_angles(
    backend: Backend, positions: int, size: int, dtype: np.dtype, rotary: bool
) -> Tensor:
    angles = rotary_positions.angles(positions, size)
    if not rotary:
        angles[:, : size // 2], angles[:, size // 2 :] = 1, 0
    made = Tensor.__new__(Tensor)
    made._fill(backend.from_numpy(angles.astype(dtype)), backend)
    return made


def dropout(x: Tensor, p: float, key: DropoutKey) -> Tensor:
    """Return x with each element set to 0 with probability p, and the rest times 1 / (1 - p)."""
    check_probability("dropout", p)
    return x if p == 0 else neural.Dropout.apply(floating(x), p=p, key=key)


def check_activation(name: str, activation: str | None) -> None:
    """Raise ValueError unless `activation` is None or known."""
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"{name}: activation={activation!r}, expected one of {ACTIVATIONS}")


def check_probability(name: str, p: float) -> None:
    """Raise ValueError unless 0 <= p <= 1."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: probability {shorten(p)}, expected a number from 0 to 1")


def _check_dropout(name: str, dropout: float, key: MaskSource | None) -> None:
    check_probability(f"{name} dropout", dropout)
    if dropout > 0 and key is None:
        raise ValueError(f"{name}: dropout={dropout} needs a key for its random bits")


def _attention_options(
    size: int, causal: bool, scale: float | None, dropout: float, key: DropoutKey | None
) -> Options:
    _check_dropout("attention", dropout, key)
    if scale is None:
        scale = max(size, 1) ** -0.5
    return Options(causal, float(scale), dropout, key)


def _same_dtype(name: str, tensors: Sequence[Any], mixed: bool = False) -> Sequence[Any]:
    """Return the tensors if all have one dtype, or if `mixed` those after a bfloat16 float32."""
    first: Any = None
    others = False
    for each in tensors:
        if not isinstance(each, TensorBase):
            raise TypeError(f"{name}: expected tensors, got {type(each).__name__}")
        dtype = each.array.dtype
        if first is None:
            first = dtype
        elif dtype is not first and dtype != first:
            others |= not (mixed and first.name == "bfloat16" and dtype == DEFAULT_DTYPE)
    if others:
        dtypes = sorted({str(each.array.dtype) for each in tensors})
        raise TypeError(f"{name}: dtypes {', '.join(dtypes)}; expected one")
    return tensors
