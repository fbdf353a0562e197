"""Cases of the operations on tensors: mathematics, reductions, indexing, shapes, contractions."""

import math

import numpy as np
from case import binary, one, reduced, unary

import tinygrad_char as tg

ROWS = np.array([[0, -1, 1, 1], [2, 0, -3, 2]])  # along axis 0 of (3, 4), with repeats
COLUMNS = np.array([[3, 0], [-1, -1], [0, 2]])  # along axis 1 of (3, 4)


def from_zero(index, length):
    """Return indices as PyTorch takes them: from 0 on."""
    return index % length


MATHEMATICS = [
    *(
        case
        for name in (
            *("sin", "cos", "tan", "arctan", "sinh", "cosh", "arcsinh", "exp2", "expm1", "erf"),
            *("floor", "ceil", "trunc", "round", "square", "reciprocal", "sign", "atan", "asinh"),
        )
        for case in unary(
            name,
            lambda a, name=name: getattr(a, name)(),
            lambda t, a, name=name: getattr(a, name)(),
        )
    ),
    *(
        case
        for name in ("log1p", "log2", "log10", "rsqrt")
        for case in unary(
            name,
            lambda a, name=name: getattr(a, name)(),
            lambda t, a, name=name: getattr(a, name)(),
            positive=True,
        )
    ),
    *(
        case
        for name in ("arcsin", "arccos", "arctanh", "asin", "acos", "atanh")
        for case in unary(
            name,
            lambda a, name=name: getattr(a * 0.5, name)(),
            lambda t, a, name=name: getattr(a * 0.5, name)(),
        )
    ),
    *(
        case
        for name in ("arccosh", "acosh")
        for case in unary(
            name,
            lambda a, name=name: getattr(a + 1, name)(),
            lambda t, a, name=name: getattr(a + 1, name)(),
            positive=True,
        )
    ),
    *(
        case
        for name in ("arctan2", "atan2", "hypot", "logaddexp", "fmod", "remainder", "floor_divide")
        for case in binary(
            name,
            lambda a, b, name=name: getattr(a, name)(b),
            lambda t, a, b, name=name: (
                t.div(a, b, rounding_mode="floor")
                if name == "floor_divide"
                else getattr(t, name)(a, b)
            ),
        )
    ),
    *(
        case
        for name in ("add", "sub", "mul", "div", "pow")
        for case in (
            *one(
                name,
                lambda a, b, name=name: getattr(a, name)(b),
                lambda t, a, b, name=name: getattr(a, name)(b),
                *((2, 3), (3,)),
                positive=True,
            ),
            *one(
                f"{name}/function",
                lambda a, name=name: getattr(tg, name)(a, 2),
                lambda t, a, name=name: getattr(t, name)(a, 2),
                (3,),
            ),
        )
    ),
    *(
        case
        for name in ("add", "sub")
        for case in binary(
            f"{name}/alpha",
            lambda a, b, name=name: getattr(a, name)(b, alpha=-0.7),
            lambda t, a, b, name=name: getattr(t, name)(a, b, alpha=-0.7),
        )
    ),
    *(
        case
        for mode in ("floor", "trunc")
        for case in binary(
            f"div/{mode}",
            lambda a, b, mode=mode: tg.div(a, b, rounding_mode=mode),
            lambda t, a, b, mode=mode: t.div(a, b, rounding_mode=mode),
        )
    ),
    *one("neg", lambda a: a.neg(), lambda t, a: a.neg(), (2, 3)),
    *one("round/decimals", lambda a: a.round(1), lambda t, a: a.round(decimals=1), (3, 4)),
    *one("__round__", lambda a: round(a, 1), lambda t, a: a.round(decimals=1), (3,)),
    *one("__floor__", math.floor, lambda t, a: a.floor(), (3,)),
    *one("__ceil__", math.ceil, lambda t, a: a.ceil(), (3,)),
    *one("__trunc__", math.trunc, lambda t, a: a.trunc(), (3,)),
    *one(
        "__floordiv__",
        lambda a, b: a // b,
        lambda t, a, b: t.div(a, b, rounding_mode="floor"),
        *((2, 3), (3,)),
    ),
    *one(
        "__rfloordiv__",
        lambda a: 2 // a,
        lambda t, a: t.div(t.tensor(2.0, dtype=a.dtype), a, rounding_mode="floor"),
        (3,),
    ),
    *one("__mod__", lambda a, b: a % b, lambda t, a, b: a % b, (2, 3), (3,)),
    *one("__mod__/number", lambda a: a % -0.7, lambda t, a: a % -0.7, (2, 3)),
    *one("__rmod__", lambda a: 2 % a, lambda t, a: t.tensor(2.0, dtype=a.dtype) % a, (3,)),
    *one(
        "__divmod__",
        lambda a, b: divmod(a, b),
        lambda t, a, b: (t.div(a, b, rounding_mode="floor"), a % b),
        *((2, 3), (3,)),
    ),
    *one(
        "__rdivmod__",
        lambda a: divmod(2, a),
        lambda t, a: (
            t.div(t.tensor(2.0, dtype=a.dtype), a, rounding_mode="floor"),
            t.tensor(2.0, dtype=a.dtype) % a,
        ),
        (3,),
    ),
    *one(
        "clip/tensors",
        lambda a, low, high: a.clip(low, high),
        lambda t, a, low, high: t.clamp(a, low, high),
        *((2, 3), (3,), (2, 1)),
    ),
    *one(
        "clip/low tensor",
        lambda a, low: a.clip(low, 0.9),
        lambda t, a, low: t.clamp(a, low, t.tensor(0.9, dtype=a.dtype)),
        *((2, 3), (2, 3)),
    ),
    *one(
        "clip/high tensor", lambda a, b: a.clip(max=b), lambda t, a, b: a.clamp(max=b), (3,), (3,)
    ),
    *one("float", lambda a: a.float(), lambda t, a: a.float(), (2, 3), check={"eps": 0.25}),
    *one("double", lambda a: a.double().to(a.dtype), lambda t, a: a.double().to(a.dtype), (2, 3)),
    *one("copy", lambda a: a.copy(), lambda t, a: a.clone(), (2, 3)),
]

REDUCED = [
    *reduced("logsumexp"),
    *reduced("prod", theirs=lambda t, x, axis, keep: torch_prod(x, axis, keep)),
    *(
        case
        for order in (0, 0.5, 1, 1.5, 2, 3, math.inf, -math.inf, -1)
        for case in reduced(
            f"norm/{order}",
            lambda x, axis, keep, order=order: x.norm(order, axis, keep),
            lambda t, x, axis, keep, order=order: torch_norm(t, x, order, axis, keep),
        )
    ),
    *one("norm", lambda x: x.norm(), lambda t, x: x.norm(), (2, 3)),
    *one("prod/0-d", lambda x: x.prod(), lambda t, x: x.prod(), ()),
    *one("prod/empty", lambda x: x.prod(0), lambda t, x: x.prod(0), (0, 3)),
    *one("cumprod/0", lambda x: x.cumprod(0), lambda t, x: x.cumprod(0), (5, 3)),
    *one("cumprod/last", lambda x: x.cumprod(-1), lambda t, x: x.cumprod(-1), (2, 3, 4)),
    *one("cumprod/empty", lambda x: x.cumprod(-1), lambda t, x: x.cumprod(-1), (2, 0)),
    *one(
        "sum/dtype",
        lambda x: x.sum(0, dtype="f4"),
        lambda t, x: x.sum(0, dtype=t.float32),
        *((2, 3),),
        check={"eps": 0.25},
    ),
]


def torch_norm(torch, x, order, axes, keep):
    if order == 0:  # which PyTorch gives no gradient at all
        x = torch.where(x != 0, x.detach() / x.detach(), x) + 0 * x
        return x.sum(axes, keepdim=keep)
    return torch.linalg.vector_norm(x, order, axes, keep)


def torch_prod(x, axes, keep):
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


INDEXED = [
    *one(
        "gather",
        lambda x: x.gather(0, ROWS),
        lambda t, x: x.gather(0, t.tensor(from_zero(ROWS, 3))),
        (3, 4),
    ),
    *one(
        "gather/part",
        lambda x: x.gather(1, COLUMNS[:2]),
        lambda t, x: x.gather(1, t.tensor(from_zero(COLUMNS[:2], 4))),
        (3, 4),
    ),
    *one(
        "take_along_axis",
        lambda x: x.take_along_axis(COLUMNS[:1], 1),
        lambda t, x: t.take_along_dim(x, t.tensor(from_zero(COLUMNS[:1], 4)), 1),
        (3, 4),
    ),
    *one(
        "take_along_axis/flat",
        lambda x: x.take_along_axis(np.array([3, 0, 0]), None),
        lambda t, x: t.take_along_dim(x, t.tensor([3, 0, 0])),
        (2, 3),
    ),
    *one(
        "scatter_add",
        lambda x, y: x.scatter_add(0, ROWS, y),
        lambda t, x, y: x.scatter_add(0, t.tensor(from_zero(ROWS, 3)), y),
        *((3, 4), (2, 4)),
    ),
    *one(
        "take",
        lambda x: x.take([[4, 0], [-1, 4]]),
        lambda t, x: x.take(t.tensor([[4, 0], [5, 4]])),
        (2, 3),
    ),
    *one(
        "take/axis",
        lambda x: x.take([1, 1, -1], 1),
        lambda t, x: x.index_select(1, t.tensor([1, 1, 2])),
        (2, 3),
    ),
    *one(
        "index_select",
        lambda x: x.index_select(0, [1, 0, 1]),
        lambda t, x: x.index_select(0, t.tensor([1, 0, 1])),
        (2, 3),
    ),
    *one(
        "masked_select",
        lambda x: x.masked_select([[True], [False], [True]]),
        lambda t, x: x.masked_select(t.tensor([[True], [False], [True]])),
        (2, 1, 4),
    ),
    *one("sort", lambda x: x.sort(0).values, lambda t, x: x.sort(0).values, (5, 3)),
    *one(
        "sort/descending",
        lambda x: x.sort(descending=True).values,
        lambda t, x: x.sort(descending=True).values,
        (3, 5),
    ),
    *one("topk", lambda x: x.topk(3).values, lambda t, x: x.topk(3).values, (2, 5)),
    *one(
        "topk/smallest",
        lambda x: x.topk(2, 0, largest=False).values,
        lambda t, x: x.topk(2, 0, largest=False).values,
        (5, 2),
    ),
    *one(
        "__getitem__/mask and integer",
        lambda x: x[np.array([True, False, True]), 1],
        lambda t, x: x[t.tensor([True, False, True]), 1],
        (3, 4),
    ),
    *one(
        "__getitem__/slice and mask",
        lambda x: x[:, np.array([True, False, True, True])],
        lambda t, x: x[:, t.tensor([True, False, True, True])],
        (3, 4, 2),
    ),
]

MOVED = [
    *one("ravel", lambda x: x.ravel(), lambda t, x: x.ravel(), (2, 3)),
    *one("expand", lambda x: x.expand(4, 2, -1, 3), lambda t, x: x.expand(4, 2, -1, 3), (2, 1, 3)),
    *one(
        "expand_as",
        lambda x, y: x.expand_as(y) * y,
        lambda t, x, y: x.expand_as(y) * y,
        *((1, 3), (2, 3)),
    ),
    *(
        case
        for name in ("view_as", "reshape_as")
        for case in one(
            name,
            lambda x, y, name=name: getattr(x, name)(y) + y,
            lambda t, x, y: x.reshape(y.shape) + y,
            *((6,), (2, 3)),
        )
    ),
    *one("moveaxis", lambda x: x.moveaxis(0, -1), lambda t, x: x.moveaxis(0, -1), (2, 3, 4)),
    *one(
        "movedim",
        lambda x: x.movedim((0, 1), (2, 0)),
        lambda t, x: x.movedim((0, 1), (2, 0)),
        (2, 3, 4),
    ),
    *one("flip", lambda x: x.flip(0, 2), lambda t, x: x.flip(0, 2), (2, 3, 4)),
    *one("flip/all", lambda x: x.flip(), lambda t, x: x.flip(0, 1), (2, 3)),
    *one("fliplr", lambda x: x.fliplr(), lambda t, x: x.fliplr(), (2, 3)),
    *one("flipud", lambda x: x.flipud(), lambda t, x: x.flipud(), (2, 3)),
    *one("roll", lambda x: x.roll(5), lambda t, x: x.roll(5), (2, 3)),
    *one(
        "roll/axes",
        lambda x: x.roll((1, -2), (0, 2)),
        lambda t, x: x.roll((1, -2), (0, 2)),
        (2, 3, 4),
    ),
    *one("tile", lambda x: x.tile(2), lambda t, x: x.tile(2), (2, 3)),
    *one("tile/more axes", lambda x: x.tile(2, 1, 3), lambda t, x: x.tile(2, 1, 3), (2, 3)),
    *one("repeat", lambda x: x.repeat(3, 1, 2), lambda t, x: x.repeat(3, 1, 2), (2, 3)),
    *one(
        "repeat/axis", lambda x: x.repeat(2, axis=1), lambda t, x: x.repeat_interleave(2, 1), (2, 3)
    ),
    *one(
        "repeat_interleave",
        lambda x: x.repeat_interleave(2),
        lambda t, x: x.repeat_interleave(2),
        (2, 3),
    ),
    *one(
        "repeat_interleave/each",
        lambda x: x.repeat_interleave([2, 0, 1], 1),
        lambda t, x: x.repeat_interleave(t.tensor([2, 0, 1]), 1),
        (2, 3),
    ),
    *one("pad", lambda x: x.pad((1, 2)), lambda t, x: t.nn.functional.pad(x, (1, 2)), (2, 3)),
    *one(
        "pad/cut",
        lambda x: x.pad((-1, 2, 1, -2), value=3),
        lambda t, x: t.nn.functional.pad(x, (-1, 2, 1, -2), value=3),
        (4, 3),
    ),
    *(
        case
        for mode in ("reflect", "replicate", "circular")
        for case in one(
            f"pad/{mode}",
            lambda x, mode=mode: x.pad((2, 1), mode),
            lambda t, x, mode=mode: t.nn.functional.pad(x, (2, 1), mode),
            (2, 3, 4),
        )
    ),
    *one("diagonal", lambda x: x.diagonal(), lambda t, x: x.diagonal(), (3, 4)),
    *one(
        "diagonal/axes",
        lambda x: x.diagonal(-1, 2, 0),
        lambda t, x: x.diagonal(-1, 2, 0),
        (2, 3, 4),
    ),
    *one("trace", lambda x: x.trace(), lambda t, x: x.trace(), (3, 4)),
    *one("diag", lambda x: x.diag(1), lambda t, x: x.diag(1), (3, 4)),
    *one("diag/vector", lambda x: x.diag(-1), lambda t, x: x.diag(-1), (3,)),
    *one(
        "diag_embed/axes",
        lambda x: x.diag_embed(1, 0, 2),
        lambda t, x: x.diag_embed(1, 0, 2),
        (2, 3),
    ),
    *one("diag_embed", lambda x: x.diag_embed(), lambda t, x: x.diag_embed(), (2, 3)),
    *one("chunk", lambda x: x.chunk(3, 1), lambda t, x: x.chunk(3, 1), (2, 7)),
    *one("unbind", lambda x: x.unbind(1), lambda t, x: x.unbind(1), (2, 3)),
    *one("narrow", lambda x: x.narrow(1, 1, 2), lambda t, x: x.narrow(1, 1, 2), (2, 4)),
    *one(
        "unflatten",
        lambda x: x.unflatten(1, (2, -1)),
        lambda t, x: x.unflatten(1, (2, -1)),
        (2, 6),
    ),
    *one(
        "vstack", lambda a, b: tg.vstack([a, b]), lambda t, a, b: t.vstack([a, b]), *((3,), (2, 3))
    ),
    *one(
        "hstack",
        lambda a, b: tg.hstack([a, b]),
        lambda t, a, b: t.hstack([a, b]),
        *((2, 1), (2, 3)),
    ),
]

CONTRACTED = [
    *(
        case
        for subscripts, *shapes in (
            ("ij,jk->ik", (2, 3), (3, 4)),
            ("bij,bkj->bik", (2, 3, 4), (2, 5, 4)),
            ("i,j", (2,), (3,)),
            ("ij->", (2, 3)),
            ("ij->ji", (2, 3)),
            ("ii->i", (3, 3)),
            ("ii", (3, 3)),
            ("iij,jk->ik", (2, 2, 3), (3, 4)),
            ("...ij,...jk->...ik", (2, 1, 2, 3), (4, 3, 2)),
            ("i...,i...->...", (3, 1, 2), (3, 4, 1)),
            ("...ik,...j->ij", (1, 2, 3), (3,)),
            ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)),
            ("ij,kl->il", (2, 3), (4, 2)),
            ("ij,->j", (2, 3), ()),
            ("ij,jk", (2, 0), (0, 3)),
        )
        for case in one(
            f"einsum/{subscripts}",
            lambda *x, subscripts=subscripts: tg.einsum(subscripts, *x),
            lambda t, *x, subscripts=subscripts: t.einsum(subscripts, *x),
            *shapes,
        )
    ),
    *one(
        "tensordot",
        lambda a, b: tg.tensordot(a, b),
        lambda t, a, b: t.tensordot(a, b, 2),
        *((2, 3, 4), (3, 4, 2)),
    ),
    *one(
        "tensordot/axes",
        lambda a, b: tg.tensordot(a, b, ([0, -1], [1, 0])),
        lambda t, a, b: t.tensordot(a, b, ([0, 2], [1, 0])),
        *((2, 3, 4), (4, 2, 2)),
    ),
    *one("outer", lambda a, b: tg.outer(a, b), lambda t, a, b: t.outer(a, b), (2,), (3,)),
    *one("dot", lambda a, b: tg.dot(a, b), lambda t, a, b: t.dot(a, b), (3,), (3,)),
    *one("dot/matrices", lambda a, b: tg.dot(a, b), lambda t, a, b: a @ b, (2, 3), (3, 2)),
    *one("matmul/function", lambda a, b: tg.matmul(a, b), lambda t, a, b: a @ b, (2, 3), (3, 2)),
]

TENSORS = [*MATHEMATICS, *REDUCED, *INDEXED, *MOVED, *CONTRACTED]
