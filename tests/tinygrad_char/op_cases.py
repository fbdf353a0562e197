"""One case or more for every operation, shared by the gradient checks and by PyTorch parity.

The name of a case starts with the name of the method or function that it covers; what follows a
slash tells the cases of one name apart. `ours` takes Tensors, `theirs` PyTorch and its tensors.
"""

import contextlib
import inspect
import math
import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from case import Case, binary, one, reduced, unary
from tensor_cases import TENSORS

from tinygrad_char import Tensor, gradcheck, losses
from tinygrad_char import functional as F
from tinygrad_char.autograd import Function
from tinygrad_char.kernels.backend import CPU
from tinygrad_char.kernels.dropout import DropoutKey, keep_mask, keep_scale
from tinygrad_char.methods.base import TensorMethods
from tinygrad_char.ops.activation import Elementwise
from tinygrad_char.ops.elementwise import Binary, OfArrayModule, OfInput, OfResult
from tinygrad_char.ops.loss import PairLoss
from tinygrad_char.ops.reduction import Reduction
from tinygrad_char.ops.shape import Transfer


def averages(make, dtype):
    """Return a running mean and variance of three channels."""
    return make(np.array([0.5, -1, 2]), dtype), make(np.array([0.25, 1, 3]), dtype)


IDX = np.array([[0, 2, 1], [2, 2, 0]])
MASK = np.array([[True, False, True, True], [False] * 4, [True, True, False, False]])
TARGETS = np.array([3, 0, -100, 1, 3])
KEY = DropoutKey(1234, 5)
SEEN = np.array([[True, False, True, True, False], [False] * 5, [True, True, False, True, True]])
QKV = ((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 3))


def torch_attention(torch, q, k, v, causal=False, scale=None, dropout=0.0, mask=None, bias=None):
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if bias is None else scores + bias
    rows, columns = scores.shape[-2:]
    seen = torch.ones(rows, columns, dtype=torch.bool)
    seen = seen.tril(columns - rows) if causal else seen
    weights = torch_softmax(torch, scores, seen if mask is None else seen & mask)
    if dropout:
        weights = torch_dropout(torch, weights, dropout)
    return weights @ v


def torch_convolution(torch, x, weight):
    taps, channels = weight.shape
    padded = torch.nn.functional.pad(x.transpose(1, 2), (taps - 1, 0))
    kernels = weight.flip(0).T.unsqueeze(1)
    return x + torch.nn.functional.conv1d(padded, kernels, groups=channels).transpose(1, 2)


def torch_heads(joined, heads, parts=3):
    """Return the parts (B, H, T, D), as queries, keys and values, of joined ones (B, T, 3 H D)."""
    return joined.unflatten(2, (parts, heads, -1)).permute(2, 0, 3, 1, 4)


def torch_self_attention(torch, qkv, heads, **options):
    return torch_attention(torch, *torch_heads(qkv, heads), **options).transpose(1, 2).flatten(2)


def torch_rotary(torch, qkv, heads, turned=True, normalized=False):
    """Self-attention whose queries and keys are turned, as complex numbers, and normalised."""
    parts = torch_heads(qkv, heads)
    length, size = parts.shape[-2:]
    speeds = 10000.0 ** (-2 / size * torch.arange(size // 2, dtype=torch.float64))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * speeds * turned

    def turn(x):
        if normalized:
            x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        if not turned:
            return x
        pairs = torch.complex(*x.double().chunk(2, -1)) * torch.polar(
            torch.ones_like(angles), angles
        )
        return torch.cat([pairs.real, pairs.imag], -1).to(x.dtype)

    out = torch_attention(torch, turn(parts[0]), turn(parts[1]), parts[2], causal=True)
    return out.transpose(1, 2).flatten(2)


def torch_softmax(torch, x, mask):
    """Softmax over the last axis where `mask` is True; zeros where a row has nothing."""
    full = mask.any(-1, keepdim=True).expand((*x.shape[:-1], 1))
    safe = torch.where(full, x.masked_fill(~mask, -math.inf), torch.zeros_like(x))
    return torch.where(full, safe.softmax(-1), torch.zeros_like(x))


def torch_dropout(torch, x, p):
    return x * torch.tensor(keep_mask(np, tuple(x.shape), p, KEY)) * keep_scale(p)


ARITHMETIC = [
    *binary("__add__", lambda a, b: a + b, lambda t, a, b: a + b),
    *binary("__sub__", lambda a, b: a - b, lambda t, a, b: a - b),
    *binary("__mul__", lambda a, b: a * b, lambda t, a, b: a * b),
    *binary("__truediv__", lambda a, b: a / b, lambda t, a, b: a / b),
    *binary("__pow__", lambda a, b: a**b, lambda t, a, b: a**b, positive=True),
    *binary("maximum", lambda a, b: a.maximum(b), lambda t, a, b: t.maximum(a, b)),
    *binary("minimum", lambda a, b: a.minimum(b), lambda t, a, b: t.minimum(a, b)),
    *binary("maximum/function", F.maximum, lambda t, a, b: t.maximum(a, b)),
    *binary("minimum/function", F.minimum, lambda t, a, b: t.minimum(a, b)),
    *binary("where", lambda a, b: F.where(a > b, a, b), lambda t, a, b: t.where(a > b, a, b)),
    *one("__add__/same twice", lambda a: a + a, lambda t, a: a + a, (3,)),
    *one("__mul__/same twice", lambda a: a * a, lambda t, a: a * a, (3,)),
    *one("__add__/number", lambda a: a + 2, lambda t, a: a + 2, (3,)),
    *one("__radd__", lambda a: 2 + a, lambda t, a: 2 + a, (3,)),
    *one("__sub__/number", lambda a: a - 0.5, lambda t, a: a - 0.5, (3,)),
    *one("__rsub__", lambda a: 2 - a, lambda t, a: 2 - a, (3,)),
    *one("__mul__/number", lambda a: a * 3, lambda t, a: a * 3, (3,)),
    *one("__rmul__", lambda a: 3 * a, lambda t, a: 3 * a, (3,)),
    *one("__truediv__/number", lambda a: a / 4, lambda t, a: a / 4, (3,)),
    *one("__rtruediv__", lambda a: 2 / a, lambda t, a: 2 / a, (3,)),
    *one("__pow__/0", lambda a: a**0, lambda t, a: a**0, (3,)),
    *one("__pow__/1", lambda a: a**1, lambda t, a: a**1, (3,)),
    *one("__pow__/3", lambda a: a**3, lambda t, a: a**3, (2, 3)),
    *one("__pow__/-2", lambda a: a**-2, lambda t, a: a**-2, (2, 3)),
    *one("__pow__/1.5", lambda a: a**1.5, lambda t, a: a**1.5, (2, 3), positive=True),
    *one("__rpow__", lambda a: 3**a, lambda t, a: 3**a, (3,)),
    *one("where/number", lambda a: F.where(a > 0, a, 2), lambda t, a: t.where(a > 0, a, 2.0), (9,)),
    *unary("__neg__", lambda a: -a, lambda t, a: -a),
    *one("__pos__", lambda a: +a * a, lambda t, a: +a * a, (3,)),
    *unary("__abs__", abs, lambda t, a: abs(a)),
    *unary("abs", lambda a: a.abs(), lambda t, a: a.abs()),
    *unary("exp", lambda a: a.exp(), lambda t, a: a.exp()),
    *unary("log", lambda a: a.log(), lambda t, a: a.log(), positive=True),
    *unary("sqrt", lambda a: a.sqrt(), lambda t, a: a.sqrt(), positive=True),
    *unary("tanh", lambda a: a.tanh(), lambda t, a: a.tanh()),
    *unary("sigmoid", lambda a: a.sigmoid(), lambda t, a: a.sigmoid()),
    *unary("relu", lambda a: a.relu(), lambda t, a: a.relu()),
    *unary("relu/function", F.relu, lambda t, a: a.relu()),
    *unary("gelu", lambda a: a.gelu(), lambda t, a: t.nn.functional.gelu(a)),
    *unary(
        "gelu/tanh",
        lambda a: F.gelu(a, "tanh"),
        lambda t, a: t.nn.functional.gelu(a, approximate="tanh"),
    ),
    *unary("clip", lambda a: a.clip(-0.8, 0.6), lambda t, a: a.clip(-0.8, 0.6)),
    *unary("clip/low", lambda a: a.clip(low=0.5), lambda t, a: a.clip(min=0.5)),
    *unary("clip/high", lambda a: a.clip(high=0.5), lambda t, a: a.clip(max=0.5)),
    *unary("clamp", lambda a: a.clamp(-0.8, 0.6), lambda t, a: a.clamp(-0.8, 0.6)),
    *one(
        "masked_fill",
        lambda a: a.masked_fill(MASK, 2),
        lambda t, a: a.masked_fill(t.tensor(MASK), 2),
        (3, 4),
    ),
    *one(
        "masked_fill/broadcast",
        lambda a: a.masked_fill(MASK[:, :1], -1),
        lambda t, a: a.masked_fill(t.tensor(MASK[:, :1]), -1),
        (2, 3, 4),
    ),
    *unary("clone", lambda a: a.clone(), lambda t, a: a.clone()),
    *one("contiguous", lambda a: a.T.contiguous(), lambda t, a: a.T.contiguous(), (2, 3)),
    # linear in its input, so a large step has no error but the rounding to float32
    *one("astype", lambda a: a.astype("f4"), lambda t, a: a.float(), (2, 3), check={"eps": 0.25}),
    *one("to", lambda a: Transfer.apply(a, target=CPU), lambda t, a: a.cpu(), (2, 3)),
    *one("cpu", lambda a: a.cpu() * a, lambda t, a: a.cpu() * a, (2, 3)),
]

REDUCTIONS = [
    *reduced("sum"),
    *reduced("mean"),
    *reduced(
        "var",
        lambda x, axis, keep: x.var(axis, keep),
        lambda t, x, axis, keep: x.var(axis, correction=0, keepdim=keep),
    ),
    *reduced(
        "var/correction",
        lambda x, axis, keep: x.var(axis, keep, correction=1),
        lambda t, x, axis, keep: x.var(axis, correction=1, keepdim=keep),
    ),
    *reduced(
        "var/unbiased",
        lambda x, axis, keep: x.var(axis, keep, unbiased=True),
        lambda t, x, axis, keep: t.var(x, axis, unbiased=True, keepdim=keep),
    ),
    *reduced(
        "std/biased",
        lambda x, axis, keep: x.std(axis, keep, unbiased=False),
        lambda t, x, axis, keep: t.std(x, axis, unbiased=False, keepdim=keep),
    ),
    *reduced(
        "std",
        lambda x, axis, keep: x.std(axis, keep, correction=1),
        lambda t, x, axis, keep: x.std(axis, correction=1, keepdim=keep),
    ),
    *reduced("max", theirs=lambda t, x, axis, keep: x.amax(axis, keep)),
    *reduced("min", theirs=lambda t, x, axis, keep: x.amin(axis, keep)),
    *one("sum/default", lambda x: x.sum(), lambda t, x: x.sum(), (2, 3)),
    *one("sum/0-d", lambda x: x.sum(), lambda t, x: x.sum(), ()),
    *one("sum/empty", lambda x: x.sum(0), lambda t, x: x.sum(0), (0, 3)),
    *one("mean/0-d", lambda x: x.mean(), lambda t, x: x.mean(), ()),
    *one("max/0-d", lambda x: x.max(), lambda t, x: x.max(), ()),
    *one("min/0-d", lambda x: x.min(), lambda t, x: x.min(), ()),
    *one("cumsum/0", lambda x: x.cumsum(0), lambda t, x: x.cumsum(0), (4, 3)),
    *one("cumsum/last", lambda x: x.cumsum(-1), lambda t, x: x.cumsum(-1), (2, 3, 4)),
    *one("cumsum/empty", lambda x: x.cumsum(-1), lambda t, x: x.cumsum(-1), (2, 0)),
]

SHAPES = [
    *one("reshape", lambda x: x.reshape(3, -1), lambda t, x: x.reshape(3, -1), (2, 3, 2)),
    *one("reshape/strided", lambda x: x.T.reshape(6), lambda t, x: x.T.reshape(6), (2, 3)),
    *one("view", lambda x: x.view(6), lambda t, x: x.view(6), (2, 3)),
    *one("flatten", lambda x: x.flatten(1), lambda t, x: x.flatten(1), (2, 3, 2)),
    *one("flatten/empty", lambda x: x.flatten(1), lambda t, x: x.flatten(1), (0, 3, 2)),
    *one("flatten/0-d", lambda x: x.flatten(), lambda t, x: x.flatten(), ()),
    *one("permute", lambda x: x.permute(2, 0, 1), lambda t, x: x.permute(2, 0, 1), (2, 3, 4)),
    *one("transpose/two", lambda x: x.transpose(0, 1), lambda t, x: x.transpose(0, 1), (2, 3)),
    *one(
        "transpose/of 3", lambda x: x.transpose(0, -1), lambda t, x: x.transpose(0, -1), (2, 3, 4)
    ),
    *one(
        "transpose/order",
        lambda x: x.transpose((1, 2, 0)),
        lambda t, x: x.permute(1, 2, 0),
        (2, 3, 4),
    ),
    *one("swapaxes", lambda x: x.swapaxes(0, 2), lambda t, x: x.swapaxes(0, 2), (2, 3, 4)),
    *one("T", lambda x: x.T, lambda t, x: x.permute(2, 1, 0), (2, 3, 4)),
    *one("mT", lambda x: x.mT, lambda t, x: x.mT, (2, 3, 4)),
    *one(
        "broadcast_to",
        lambda x: x.broadcast_to(4, 2, 3),
        lambda t, x: x.broadcast_to(4, 2, 3),
        (2, 1),
    ),
    *one("squeeze", lambda x: x.squeeze(), lambda t, x: x.squeeze(), (1, 3, 1)),
    *one("squeeze/axis", lambda x: x.squeeze(-1), lambda t, x: x.squeeze(-1), (1, 3, 1)),
    *one("unsqueeze", lambda x: x.unsqueeze(1), lambda t, x: x.unsqueeze(1), (2, 3)),
    *one("split", lambda x: x.split(2), lambda t, x: x.split(2), (5, 2)),
    *one("split/sizes", lambda x: x.split([1, 3], 1), lambda t, x: x.split([1, 3], 1), (2, 4)),
    *one("cat", lambda a, b: F.cat([a, b], -1), lambda t, a, b: t.cat([a, b], -1), (2, 3), (2, 1)),
    *one("cat/empty", lambda a, b: F.cat([a, b]), lambda t, a, b: t.cat([a, b]), (2, 3), (0, 3)),
    *one("concatenate", lambda a: F.concatenate([a, a]), lambda t, a: t.cat([a, a]), (2, 3)),
    *one(
        "stack", lambda a, b: F.stack([a, b], 1), lambda t, a, b: t.stack([a, b], 1), (2, 3), (2, 3)
    ),
    *one("stack/0-d", lambda a, b: F.stack([a, b]), lambda t, a, b: t.stack([a, b]), (), ()),
    *one("tril", lambda x: x.tril(), lambda t, x: x.tril(), (2, 3, 4)),
    *one("tril/diagonal", lambda x: x.tril(-1), lambda t, x: x.tril(-1), (4, 3)),
    *one("triu", lambda x: x.triu(1), lambda t, x: x.triu(1), (2, 3, 4)),
    *one(
        "__getitem__", lambda x: x[1, ..., None, ::2], lambda t, x: x[1, ..., None, ::2], (2, 3, 4)
    ),
    *one("__getitem__/element", lambda x: x[1, -1], lambda t, x: x[1, -1], (2, 3)),
    *one("__getitem__/repeated", lambda x: x[IDX], lambda t, x: x[t.tensor(IDX)], (3, 2)),
    *one(
        "__getitem__/array and slice",
        lambda x: x[:, IDX, 1:],
        lambda t, x: x[:, t.tensor(IDX), 1:],
        (2, 3, 3),
    ),
    *one("__getitem__/mask", lambda x: x[MASK], lambda t, x: x[t.tensor(MASK)], (3, 4)),
    *one("__iter__", lambda x: list(x), lambda t, x: list(x), (3, 2)),
]

NETWORKS = [
    *one("__matmul__", lambda a, b: a @ b, lambda t, a, b: a @ b, (2, 3), (3, 4)),
    *one("__matmul__/vectors", lambda a, b: a @ b, lambda t, a, b: a @ b, (3,), (3,)),
    *one("__matmul__/vector, matrix", lambda a, b: a @ b, lambda t, a, b: a @ b, (3,), (3, 2)),
    *one("__matmul__/matrix, vector", lambda a, b: a @ b, lambda t, a, b: a @ b, (2, 3), (3,)),
    *one("__matmul__/vector, batch", lambda a, b: a @ b, lambda t, a, b: a @ b, (3,), (2, 3, 4)),
    *one("__matmul__/batch, vector", lambda a, b: a @ b, lambda t, a, b: a @ b, (2, 4, 3), (3,)),
    *one("__matmul__/batches", lambda a, b: a @ b, lambda t, a, b: a @ b, (2, 1, 2, 3), (3, 3, 2)),
    *one("__matmul__/nothing to sum", lambda a, b: a @ b, lambda t, a, b: a @ b, (2, 0), (0, 3)),
    *one("__rmatmul__", lambda a: np.eye(2, 3, dtype=a.dtype) @ a, lambda t, a: a[:2], (3, 2)),
    *one("matmul", lambda a, b: a.matmul(b), lambda t, a, b: a @ b, (2, 3), (3, 4)),
    *one("linear", F.linear, lambda t, *a: t.nn.functional.linear(*a), (2, 3, 4), (5, 4), (5,)),
    *one("linear/no bias", F.linear, lambda t, *a: t.nn.functional.linear(*a), (3, 4), (5, 4)),
    *one("linear/vector", F.linear, lambda t, *a: t.nn.functional.linear(*a), (4,), (5, 4), (5,)),
    *one("linear/no rows", F.linear, lambda t, *a: t.nn.functional.linear(*a), (0, 4), (5, 4)),
    *one("linear/no inputs", F.linear, lambda t, x, w, b: x @ w.T + b, (3, 0), (2, 0), (2,)),
    *one(
        "linear/relu",
        lambda *a: F.linear(*a, activation="relu"),
        lambda t, *a: t.nn.functional.linear(*a).relu(),
        *((2, 3, 4), (5, 4), (5,)),
    ),
    *one(
        "linear/gelu, no bias",
        lambda *a: F.linear(*a, activation="gelu"),
        lambda t, *a: t.nn.functional.gelu(t.nn.functional.linear(*a)),
        *((3, 4), (5, 4)),
    ),
    *one(
        "linear/gelu_tanh, vector",
        lambda *a: F.linear(*a, activation="gelu_tanh"),
        lambda t, *a: t.nn.functional.gelu(t.nn.functional.linear(*a), approximate="tanh"),
        *((4,), (5, 4), (5,)),
    ),
    *one(
        "linear/gelu, no rows",
        lambda *a: F.linear(*a, activation="gelu"),
        lambda t, *a: t.nn.functional.gelu(t.nn.functional.linear(*a)),
        *((0, 4), (5, 4), (5,)),
    ),
    *one(
        "linear_residual",
        F.linear_residual,
        lambda t, x, w, b, r: r + t.nn.functional.linear(x, w, b),
        *((2, 3, 4), (5, 4), (5,), (2, 3, 5)),
    ),
    *one(
        "linear_residual/dropout",
        lambda *a: F.linear_residual(*a, dropout=0.4, key=KEY),
        lambda t, x, w, b, r: r + torch_dropout(t, t.nn.functional.linear(x, w, b), 0.4),
        *((2, 3, 4), (5, 4), (5,), (2, 3, 5)),
    ),
    *one(
        "linear_residual/dropout, no bias",
        lambda x, w, r: F.linear_residual(x, w, None, r, dropout=0.4, key=KEY),
        lambda t, x, w, r: r + torch_dropout(t, x @ w.T, 0.4),
        *((3, 4), (5, 4), (3, 5)),
    ),
    *one(
        "linear_residual/no residual",
        lambda *a: F.linear_residual(*a, dropout=0.4, key=KEY),
        lambda t, *a: torch_dropout(t, t.nn.functional.linear(*a), 0.4),
        *((3, 4), (5, 4), (5,)),
    ),
    *one(
        "linear_residual/onto its input",
        lambda x, w: F.linear_residual(x, w, residual=x),
        lambda t, x, w: x + x @ w.T,
        *((3, 4), (4, 4)),
    ),
    *one("softmax/method", lambda x: x.softmax(0), lambda t, x: x.softmax(0), (3, 4)),
    *one("softmax", lambda x: F.softmax(x), lambda t, x: x.softmax(-1), (2, 3, 4)),
    *one(
        "softmax/mask",
        lambda x: F.softmax(x, mask=MASK),
        lambda t, x: torch_softmax(t, x, t.tensor(MASK)),
        (2, 3, 4),
    ),
    *one(
        "softmax/causal",
        lambda x: F.softmax(x, mask="causal"),
        lambda t, x: torch_softmax(t, x, t.ones(3, 5, dtype=t.bool).tril(2)),
        (2, 3, 5),
    ),
    *one(
        "softmax/scaled",
        lambda x: F.softmax(x, scale=0.25),
        lambda t, x: (0.25 * x).softmax(-1),
        (2, 3, 4),
    ),
    *one(
        "softmax/causal scaled",
        lambda x: F.softmax(x, mask="causal", scale=3.0),
        lambda t, x: torch_softmax(t, 3 * x, t.ones(5, 3, dtype=t.bool).tril(-2)),
        (2, 5, 3),
    ),
    *one("log_softmax/method", lambda x: x.log_softmax(0), lambda t, x: x.log_softmax(0), (3, 4)),
    *one("log_softmax", lambda x: F.log_softmax(x), lambda t, x: x.log_softmax(-1), (2, 3, 4)),
    *one(
        "layer_norm",
        F.layer_norm,
        lambda t, x, w, b: t.nn.functional.layer_norm(x, w.shape, w, b),
        *((2, 3, 5), (5,), (5,)),
    ),
    *one(
        "layer_norm/plain",
        lambda x: F.layer_norm(x, eps=0.1),
        lambda t, x: t.nn.functional.layer_norm(x, x.shape[-1:], eps=0.1),
        (3, 5),
    ),
    *one(
        "layer_norm/bias alone",
        lambda x, b: F.layer_norm(x, bias=b),
        lambda t, x, b: t.nn.functional.layer_norm(x, b.shape) + b,
        *((5,), (5,)),
    ),
    *one(
        "layer_norm/several axes",
        F.layer_norm,
        lambda t, x, w, b: t.nn.functional.layer_norm(x, w.shape, w, b),
        *((2, 3, 4), (3, 4), (3, 4)),
    ),
    *one(
        "layer_norm/all axes, strided",
        lambda x: F.layer_norm(x.T, normalized_shape=(4, 3, 2)),
        lambda t, x: t.nn.functional.layer_norm(x.permute(2, 1, 0), (4, 3, 2)),
        (2, 3, 4),
    ),
    *(
        Case(
            f"batch_norm/{len(shape)} axes",
            lambda x, w, b: F.batch_norm(x, weight=w, bias=b, training=True),
            lambda t, x, w, b: t.nn.functional.batch_norm(x, None, None, w, b, True),
            (shape, (3,), (3,)),
        )
        for shape in ((6, 3), (4, 3, 5), (2, 3, 2, 2))
    ),
    *one(
        "batch_norm/weight alone",
        lambda x, w: F.batch_norm(x, weight=w, training=True, eps=0.1),
        lambda t, x, w: t.nn.functional.batch_norm(x, None, None, w, None, True, eps=0.1),
        *((5, 3), (3,)),
    ),
    *one(
        "batch_norm/given",
        lambda x, w, b: F.batch_norm(x, *averages(partial(Tensor, device=x.device), x.dtype), w, b),
        lambda t, x, w, b: t.nn.functional.batch_norm(
            x, *averages(lambda each, _: t.tensor(each).to(x.dtype), None), w, b
        ),
        *((4, 3, 5), (3,), (3,)),
    ),
    *one(
        "rms_norm",
        lambda x, w: F.rms_norm(x, w, 1e-5),
        lambda t, x, w: t.nn.functional.rms_norm(x, w.shape, w, 1e-5),
        *((2, 3, 5), (5,)),
    ),
    *one(
        "rms_norm/plain",
        lambda x: F.rms_norm(x, eps=0.1),
        lambda t, x: t.nn.functional.rms_norm(x, x.shape[-1:], eps=0.1),
        (3, 5),
    ),
    *one(
        "rms_norm/several axes",
        lambda x, w: F.rms_norm(x, w, 1e-3),
        lambda t, x, w: t.nn.functional.rms_norm(x, w.shape, w, 1e-3),
        *((2, 3, 4), (3, 4)),
    ),
    *one("rms_norm/no rows", F.rms_norm, lambda t, x, w: x * w, (0, 3), (3,)),
    *one("embedding", lambda w: F.embedding(IDX, w), lambda t, w: w[t.tensor(IDX)], (4, 3)),
    *one(
        "embedding/addend",
        lambda w, a: F.embedding(IDX, w, a),
        lambda t, w, a: w[t.tensor(IDX)] + a,
        *((4, 3), (np.shape(IDX)[-1], 3)),
    ),
    *one("embedding/0-d", lambda w: F.embedding(2, w), lambda t, w: w[2], (4, 3)),
    *(
        Case(
            f"cross_entropy/{reduction}",
            lambda x, how=reduction: F.cross_entropy(x, TARGETS, how),
            lambda t, x, how=reduction: t.nn.functional.cross_entropy(
                x, t.tensor(TARGETS), reduction=how
            ),
            ((5, 4),),
        )
        for reduction in F.REDUCTIONS
    ),
    *one(
        "cross_entropy/several axes",
        lambda x: F.cross_entropy(x, IDX, ignore_index=1),
        lambda t, x: t.nn.functional.cross_entropy(
            x.flatten(0, 1), t.tensor(IDX).flatten(), ignore_index=1
        ),
        (2, 3, 4),
    ),
    *one("causal_convolution", F.causal_convolution, torch_convolution, (2, 6, 3), (4, 3)),
    *one("causal_convolution/one tap", F.causal_convolution, torch_convolution, (2, 3, 2), (1, 2)),
    *one("causal_convolution/short", F.causal_convolution, torch_convolution, (2, 2, 3), (5, 3)),
    *one(
        "causal_convolution/views",
        lambda x, w: F.causal_convolution(x.transpose(0, 2), w.T),
        lambda t, x, w: torch_convolution(t, x.transpose(0, 2), w.T),
        *((3, 6, 2), (3, 4)),
    ),
    *one("attention", F.attention, torch_attention, *QKV),
    *one(
        "attention/causal",
        lambda *qkv: F.attention(*qkv, causal=True),
        lambda t, *qkv: torch_attention(t, *qkv, causal=True),
        *QKV,
    ),
    *one(
        "attention/more queries than keys",
        lambda *qkv: F.attention(*qkv, causal=True),
        lambda t, *qkv: torch_attention(t, *qkv, causal=True),
        *((1, 2, 5, 3), (1, 2, 2, 3), (1, 2, 2, 3)),
    ),
    *(
        case
        for shapes in (((2, 2, 5, 4),) * 3, QKV, ((1, 2, 5, 3), (1, 2, 2, 3), (1, 2, 2, 4)))
        for case in one(
            f"attention/is_causal, {shapes[0][2]} of {shapes[1][2]}",
            lambda *qkv: F.attention(*qkv, is_causal=True),
            lambda t, *qkv: t.nn.functional.scaled_dot_product_attention(*qkv, is_causal=True),
            *shapes,
        )
    ),
    *one(
        "attention/is_causal, added mask with a gradient",
        lambda q, k, v, m: F.attention(q, k, v, attn_mask=m, is_causal=True),
        lambda t, q, k, v, m: torch_attention(
            t, q, k, v, bias=m, mask=t.ones(3, 5, dtype=t.bool).tril()
        ),
        *(*QKV, (3, 5)),
    ),
    *one(
        "attention/is_causal, boolean mask",
        lambda *qkv: F.attention(*qkv, attn_mask=SEEN, is_causal=True),
        lambda t, *qkv: torch_attention(
            t, *qkv, mask=t.tensor(SEEN) & t.ones(3, 5, dtype=t.bool).tril()
        ),
        *QKV,
    ),
    *one(
        "attention/scale",
        lambda *qkv: F.attention(*qkv, scale=0.3),
        lambda t, *qkv: torch_attention(t, *qkv, scale=0.3),
        *QKV,
    ),
    *one(
        "attention/dropout",
        lambda *qkv: F.attention(*qkv, causal=True, dropout=0.4, key=KEY),
        lambda t, *qkv: torch_attention(t, *qkv, causal=True, dropout=0.4),
        *QKV,
    ),
    *one(
        "attention/two axes",
        F.attention,
        torch_attention,
        *((3, 4), (5, 4), (5, 2)),
    ),
    *one(
        "attention/batches broadcast",
        lambda *qkv: F.attention(*qkv, causal=True),
        lambda t, *qkv: torch_attention(t, *qkv, causal=True),
        *((2, 3, 3, 4), (3, 5, 4), (2, 1, 5, 3)),
    ),
    *one(
        "attention/five axes",
        F.attention,
        torch_attention,
        *((2, 1, 2, 3, 4), (3, 2, 5, 4), (3, 1, 5, 3)),
    ),
    *one(
        "attention/boolean mask",
        lambda *qkv: F.attention(*qkv, attn_mask=SEEN),
        lambda t, *qkv: torch_attention(t, *qkv, mask=t.tensor(SEEN)),
        *QKV,
    ),
    *one(
        "attention/boolean mask, causal, dropout",
        lambda *qkv: F.attention(*qkv, attn_mask=SEEN, causal=True, dropout=0.4, key=KEY),
        lambda t, *qkv: torch_attention(t, *qkv, mask=t.tensor(SEEN), causal=True, dropout=0.4),
        *QKV,
    ),
    *one(
        "attention/added mask with a gradient",
        lambda q, k, v, m: F.attention(q, k, v, attn_mask=m, scale=0.7),
        lambda t, q, k, v, m: torch_attention(t, q, k, v, bias=m, scale=0.7),
        *(*QKV, (2, 1, 1, 5)),
    ),
    *one(
        "attention/added mask, batches broadcast",
        lambda q, k, v, m: F.attention(q, k, v, attn_mask=m),
        lambda t, q, k, v, m: torch_attention(t, q, k, v, bias=m),
        *((3, 4), (2, 5, 4), (2, 5, 3), (3, 5)),
    ),
    *one(
        "attention/added mask that hides",
        lambda q, k, v, m: F.attention(q, k, v, attn_mask=F.where(SEEN, m, -math.inf)),
        lambda t, q, k, v, m: torch_attention(t, q, k, v, mask=t.tensor(SEEN), bias=m),
        *(*QKV, (3, 5)),
    ),
    *one(
        "self_attention",
        lambda x: F.self_attention(x, 2),
        lambda t, x: torch_self_attention(t, x, 2, causal=True),
        (2, 3, 12),
    ),
    *one(
        "self_attention/is_causal",
        lambda x: F.self_attention(x, 2, is_causal=True),
        lambda t, x: torch_self_attention(t, x, 2, causal=True),
        (2, 4, 12),
    ),
    *one(
        "self_attention/full, dropout",
        lambda x: F.self_attention(x, 2, causal=False, dropout=0.4, key=KEY),
        lambda t, x: torch_self_attention(t, x, 2, dropout=0.4),
        (2, 3, 12),
    ),
    *one(
        "self_attention/rotary",
        lambda x: F.self_attention(x, 2, rotary=True),
        lambda t, x: torch_rotary(t, x, 2),
        (2, 5, 24),
    ),
    *one(
        "self_attention/rotary, normalized",
        lambda x: F.self_attention(x, 3, rotary=True, normalize=True),
        lambda t, x: torch_rotary(t, x, 3, normalized=True),
        (2, 4, 18),
    ),
    *one(
        "self_attention/normalized",
        lambda x: F.self_attention(x, 1, normalize=True),
        lambda t, x: torch_rotary(t, x, 1, turned=False, normalized=True),
        (2, 4, 18),
    ),
    *unary("dropout", lambda x: F.dropout(x, 0.4, KEY), lambda t, x: torch_dropout(t, x, 0.4)),
    *one("dropout/0", lambda x: F.dropout(x, 0, KEY) * x, lambda t, x: x * x, (3,)),
    *one("dropout/1", lambda x: F.dropout(x, 1, KEY) + x, lambda t, x: x * 0 + x, (3,)),
]

ACTIVATIONS = [
    *unary("silu", F.silu, lambda t, x: t.nn.functional.silu(x)),
    *unary("leaky_relu", F.leaky_relu, lambda t, x: t.nn.functional.leaky_relu(x)),
    *one(
        "leaky_relu/slope",
        lambda x: F.leaky_relu(x, -0.5),
        lambda t, x: t.nn.functional.leaky_relu(x, -0.5),
        (3, 5),
    ),
    *unary("elu", F.elu, lambda t, x: t.nn.functional.elu(x)),
    *one("elu/alpha", lambda x: F.elu(x, 0.5), lambda t, x: t.nn.functional.elu(x, 0.5), (3, 5)),
    *unary("softplus", F.softplus, lambda t, x: t.nn.functional.softplus(x)),
    *one(
        "softplus/beta, threshold",
        lambda x: F.softplus(x, 3.0, 2.0),
        lambda t, x: t.nn.functional.softplus(x, 3.0, 2.0),
        (3, 5),
    ),
]

CLASS_WEIGHTS = np.array([0.5, 2.0, 0.0, 1.5])
IMAGE = ((2, 4, 3),)  # (N, C, d), classes along the second axis
IMAGE_TARGETS = np.array([[3, 0, -100], [1, 2, 3]])


def with_targets(name: str, how: Callable, theirs: Callable, **options: Any) -> list[Case]:
    """Cases of a loss of rows and integer targets, for each reduction, options given to both."""
    ignored = options.get("ignore_index", -100)
    flat, image = (np.where(each == -100, ignored, each) for each in (TARGETS, IMAGE_TARGETS))

    def torch_options(torch: Any, x: Any) -> dict[str, Any]:
        weight = options.get("weight")
        return options | ({} if weight is None else {"weight": torch.tensor(weight, dtype=x.dtype)})

    return [
        case
        for reduction in F.REDUCTIONS
        for case in [
            *one(
                f"{name}/{reduction} {', '.join(options)}",
                lambda x, r=reduction: how(x, flat, r, **options),
                lambda t, x, r=reduction: theirs(t)(
                    x, t.tensor(flat), reduction=r, **torch_options(t, x)
                ),
                (5, 4),
            ),
            *one(
                f"{name}/{reduction} axis {', '.join(options)}",
                lambda x, r=reduction: how(x, image, r, axis=1, **options),
                lambda t, x, r=reduction: theirs(t)(
                    x, t.tensor(image), reduction=r, **torch_options(t, x)
                ),
                *IMAGE,
            ),
        ]
    ]


def of_pairs(
    name: str, ours: Callable, theirs: Callable, prepare: Callable, **options: Any
) -> list[Case]:
    """Cases of a loss of pairs, for each reduction; `prepare` makes what both take."""
    return [
        Case(
            f"{name}/{reduction} {len(shape)}-d",
            lambda *pair, r=reduction: ours(*map(prepare, pair), r),
            lambda t, *pair, r=reduction: theirs(t)(*map(prepare, pair), reduction=r),
            (shape, shape),
            **options,
        )
        for reduction in F.REDUCTIONS
        for shape in ((), (4,), (3, 4))
    ]


def torch_weighted(torch: Any, name: str, x: Any, y: Any, **weights: np.ndarray) -> Any:
    loss = getattr(torch.nn.functional, name)
    given = {key: torch.tensor(value, dtype=x.dtype) for key, value in weights.items()}
    return loss(x, y, **given)


LOSSES = [
    *with_targets("cross_entropy", F.cross_entropy, lambda t: t.nn.functional.cross_entropy),
    *with_targets(
        "cross_entropy",
        F.cross_entropy,
        lambda t: t.nn.functional.cross_entropy,
        weight=CLASS_WEIGHTS,
    ),
    *with_targets(
        "cross_entropy",
        F.cross_entropy,
        lambda t: t.nn.functional.cross_entropy,
        label_smoothing=0.2,
    ),
    *with_targets(
        "cross_entropy",
        F.cross_entropy,
        lambda t: t.nn.functional.cross_entropy,
        label_smoothing=0.2,
        weight=CLASS_WEIGHTS,
        ignore_index=3,
    ),
    *with_targets("nll_loss", F.nll_loss, lambda t: t.nn.functional.nll_loss),
    *with_targets(
        "nll_loss",
        F.nll_loss,
        lambda t: t.nn.functional.nll_loss,
        weight=CLASS_WEIGHTS,
        ignore_index=0,
    ),
    *one(
        "cross_entropy/0-d target",
        lambda x: F.cross_entropy(x, 2, "none", label_smoothing=0.1),
        lambda t, x: t.nn.functional.cross_entropy(
            x, t.tensor(2), reduction="none", label_smoothing=0.1
        ),
        (4,),
    ),
    *(
        Case(
            f"cross_entropy/probabilities {reduction}",
            lambda x, q, r=reduction: F.cross_entropy(x, q.softmax(), r, label_smoothing=0.1),
            lambda t, x, q, r=reduction: t.nn.functional.cross_entropy(
                x, q.softmax(-1), reduction=r, label_smoothing=0.1
            ),
            ((5, 4), (5, 4)),
        )
        for reduction in F.REDUCTIONS
    ),
    *one(
        "cross_entropy/probabilities, weights, axis",
        lambda x, q: F.cross_entropy(x, q, axis=1, weight=CLASS_WEIGHTS),
        lambda t, x, q: t.nn.functional.cross_entropy(
            x, q, weight=t.tensor(CLASS_WEIGHTS, dtype=x.dtype)
        ),
        *IMAGE,
        *IMAGE,
    ),
    *of_pairs("mse_loss", F.mse_loss, lambda t: t.nn.functional.mse_loss, lambda x: x * 2),
    *of_pairs("l1_loss", F.l1_loss, lambda t: t.nn.functional.l1_loss, lambda x: x * 2),
    *of_pairs(
        "smooth_l1_loss",
        lambda x, y, r: F.smooth_l1_loss(x, y, r, beta=0.7),
        lambda t: partial(t.nn.functional.smooth_l1_loss, beta=0.7),
        lambda x: x * 2,
    ),
    *of_pairs(
        "huber_loss",
        lambda x, y, r: F.huber_loss(x, y, r, delta=0.7),
        lambda t: partial(t.nn.functional.huber_loss, delta=0.7),
        lambda x: x * 2,
    ),
    *of_pairs(
        "binary_cross_entropy",
        F.binary_cross_entropy,
        lambda t: t.nn.functional.binary_cross_entropy,
        lambda x: x / 2,
        positive=True,
    ),
    *of_pairs(
        "binary_cross_entropy_with_logits",
        F.binary_cross_entropy_with_logits,
        lambda t: t.nn.functional.binary_cross_entropy_with_logits,
        lambda x: x * 3,
    ),
    *one(
        "binary_cross_entropy/weight",
        lambda x: F.binary_cross_entropy(x.sigmoid(), MASK, weight=CLASS_WEIGHTS),
        lambda t, x: torch_weighted(
            t,
            "binary_cross_entropy",
            x.sigmoid(),
            t.tensor(MASK).to(x.dtype),
            weight=CLASS_WEIGHTS,
        ),
        (3, 4),
    ),
    *one(
        "binary_cross_entropy_with_logits/weights",
        lambda x, y: F.binary_cross_entropy_with_logits(
            x, y, weight=CLASS_WEIGHTS, pos_weight=CLASS_WEIGHTS[::-1] + 1
        ),
        lambda t, x, y: torch_weighted(
            t,
            "binary_cross_entropy_with_logits",
            *(x, y),
            weight=CLASS_WEIGHTS,
            pos_weight=CLASS_WEIGHTS[::-1] + 1,
        ),
        *((3, 4), (3, 4)),
    ),
]


def changed(change: Callable) -> Callable:
    """Return a function that changes a result in place, with its operands, and returns it."""

    def function(*given: Any) -> Any:
        y = given[-2] * 2
        change(y, given[-1])
        return y

    return function


def in_place(name: str, change: Callable, *shapes: Any) -> list[Case]:
    return one(name, changed(change), changed(change), *shapes, positive="pow" in name)


IN_PLACE = [
    *in_place("__iadd__", operator.iadd, (2, 3), (3,)),
    *in_place("__isub__", operator.isub, (2, 3), (2, 1)),
    *in_place("__imul__", operator.imul, (2, 3), (2, 3)),
    *in_place("__itruediv__", operator.itruediv, (2, 3), ()),
    *in_place("__ipow__", operator.ipow, (2, 3), (3,)),
    *in_place("__iadd__/view", lambda y, w: operator.iadd(y[1:, 0], w), (3, 2), (2,)),
    *in_place("__setitem__", lambda y, w: operator.setitem(y, 0, w), (2, 3), (3,)),
    *in_place("__setitem__/list", lambda y, w: operator.setitem(y, [2, 0], w), (3, 2), (2, 2)),
    *in_place("copy_", lambda y, w: y[0].copy_(w), (2, 3), (3,)),
    *in_place("fill_", lambda y, w: operator.imul(y[1:].fill_(1.5), w), (3,), (2,)),
]

CASES = [
    *ARITHMETIC,
    *REDUCTIONS,
    *SHAPES,
    *TENSORS,
    *NETWORKS,
    *ACTIVATIONS,
    *LOSSES,
    *IN_PLACE,
]


def operations() -> set[type[Function]]:
    """Return every operation of the engine: the Function classes that are not only bases."""
    bases = {Binary, Elementwise, OfArrayModule, OfInput, OfResult, PairLoss, Reduction}
    found: set[type[Function]] = set()
    pending = [Function]
    while pending:
        children = pending.pop().__subclasses__()
        pending += children
        found.update(
            each
            for each in children
            if each.__module__.startswith("tinygrad_char.")
            and not each.__name__.startswith("_")
            and each not in bases
        )
    return found


NOT_DIFFERENTIABLE = set(
    """
    shape ndim size numel dtype device is_leaf numpy item tolist requires_grad_ backward zero_grad
    register_hook retain_grad detach data copy_ fill_ zero_ cuda argmax argmin all any
    __init__ __len__ __repr__ __format__ __array__ __array_ufunc__ __dlpack__ __dlpack_device__
    __bool__ __int__ __float__ __index__ __setitem__ __deepcopy__ __copy__ __reduce__
    __hash__ __slots__ __module__
    __doc__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __and__ __or__ __xor__ __rand__ __ror__
    __rxor__ __invert__ __firstlineno__ __static_attributes__ check_probability check_activation
    one_hot integers argsort nonzero argwhere isnan isinf isfinite int long half bool
    __array_function__ __annotations__ __annotate_func__ __annotations_cache__ grad
    eq ne lt le gt ge
    """.split()  # noqa: SIM905 (a list of them would be sixty lines)
)


def differentiable() -> set[str]:
    """Return the public names through which a user differentiates."""
    functions = inspect.getmembers(F, inspect.isfunction)
    modules = (F.__name__, losses.__name__)
    methods = (vars(each) for each in Tensor.__mro__ if issubclass(each, TensorMethods))
    names = {name for name, each in functions if each.__module__ in modules}.union(*methods)
    return {
        name
        for name in names - NOT_DIFFERENTIABLE
        if not name.startswith("_") or name.startswith("__")
    }


@contextlib.contextmanager
def recorded() -> Iterator[set[type[Function]]]:
    """Collect the operations that are put on the tape, so that backward goes through them."""
    seen: set[type[Function]] = set()
    original = Function._link

    def link(node: Function, *arguments: Any) -> None:
        original(node, *arguments)
        seen.add(type(node))

    Function._link = link  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Function._link = original  # type: ignore[method-assign]


def check_gradients(case: Case) -> None:
    """Compare the case's gradients with central differences."""
    gradcheck(case.ours, [Tensor(each, requires_grad=True) for each in case.inputs()], **case.check)


def outputs(result: Any) -> list[Any]:
    return list(result) if isinstance(result, list | tuple) else [result]


def run_ours(case: Case, arrays: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the results and the gradients of the inputs, with the case's cotangents."""
    tensors = [Tensor(each, requires_grad=True) for each in arrays]
    results = outputs(case.ours(*tensors))
    for each, cotangent in zip(results, cotangents(results), strict=True):
        each.backward(cotangent, retain_graph=True)
    return (
        [each.detach().numpy() for each in results],
        [each.grad.numpy() for each in tensors],
    )


def run_theirs(
    torch: Any, case: Case, arrays: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return PyTorch's results and gradients, with the same cotangents."""
    tensors = [torch.tensor(each, requires_grad=True) for each in arrays]
    results = outputs(case.theirs(torch, *tensors))
    grads = [
        torch.tensor(each).to(r.dtype) for r, each in zip(results, cotangents(results), strict=True)
    ]
    torch.autograd.backward(results, grads)
    return (
        [each.detach().numpy() for each in results],
        [each.grad.numpy() for each in tensors],
    )


def cotangents(results: list[Any]) -> list[np.ndarray]:
    rng = np.random.default_rng(len(results))
    return [np.array(rng.standard_normal(tuple(each.shape))) for each in results]


def check_parity(torch: Any, case: Case, dtype: Any) -> None:
    """Compare results and gradients with PyTorch's in float64.

    What is allowed is four times the error that PyTorch itself makes in `dtype`, and eight units
    of rounding of the largest value.
    """
    exact = case.inputs()
    rounded = [each.astype(dtype) for each in exact]
    widened = [each.astype(np.float64) for each in rounded]
    ours, theirs = run_ours(case, rounded), run_theirs(torch, case, rounded)
    truth = run_theirs(torch, case, widened)
    for part in (0, 1):
        for mine, other, true in zip(ours[part], theirs[part], truth[part], strict=True):
            assert mine.shape == true.shape
            assert mine.dtype == other.dtype
            if true.size:
                own = np.abs(other.astype(np.float64) - true).max()
                allowed = 4 * own + 8 * np.finfo(mine.dtype).eps * np.abs(true).max()
                worst = np.abs(mine.astype(np.float64) - true).max()
                assert worst <= allowed, f"error {worst:.3g}, allowed {allowed:.3g}"
