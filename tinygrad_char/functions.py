"""Methods of Tensor as functions, and products of several tensors: `tinygrad_char.NAME`."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from tinygrad_char.autograd import TensorBase
from tinygrad_char.coerce import first_tensor, operands, promoted, tensor_like
from tinygrad_char.methods.operators import added, divided
from tinygrad_char.ops import contraction, elementwise, exponentials, powers, rounding, trigonometry
from tinygrad_char.ops.reduction import normalize_axes
from tinygrad_char.spelling import spelled
from tinygrad_char.tensor import Tensor

Result = TypeVar("Result")


def _of(method: Callable[..., Result]) -> Callable[..., Result]:
    """Return a method as a function of a tensor, which comes first."""
    name = method.__name__

    @wraps(method)
    def function(x: Any, *arguments: Any, **options: Any) -> Result:
        if not isinstance(x, TensorBase):
            raise TypeError(
                f"{name}: expected a tensor, got {type(x).__name__}; make one with "
                "tinygrad_char.tensor"
            )
        return method(x, *arguments, **options)

    function.__module__ = __name__
    function.__qualname__ = name
    return function


def _binary(operation: Any, method: Callable[..., Result], **options: Any) -> Callable[..., Result]:
    """Return an operation of two operands, at least one of them a tensor."""
    name = method.__name__

    @wraps(method)
    def function(a: Any, b: Any) -> Any:
        first_tensor(name, a, b)
        return operation.apply(*operands(name, a, b, **options))

    function.__module__ = __name__
    function.__qualname__ = name
    return function


abs = _of(Tensor.abs)
all = _of(Tensor.all)
any = _of(Tensor.any)
arccos = _of(Tensor.arccos)
arccosh = _of(Tensor.arccosh)
arcsin = _of(Tensor.arcsin)
arcsinh = _of(Tensor.arcsinh)
arctan = _of(Tensor.arctan)
arctan2 = _binary(trigonometry.Arctan2, Tensor.arctan2, quotient=True)
arctanh = _of(Tensor.arctanh)
argmax = _of(Tensor.argmax)
argmin = _of(Tensor.argmin)
argsort = _of(Tensor.argsort)
argwhere = _of(Tensor.argwhere)
broadcast_to = _of(Tensor.broadcast_to)
ceil = _of(Tensor.ceil)
chunk = _of(Tensor.chunk)
clip = _of(Tensor.clip)
clone = _of(Tensor.clone)
cos = _of(Tensor.cos)
cosh = _of(Tensor.cosh)
cumprod = _of(Tensor.cumprod)
cumsum = _of(Tensor.cumsum)
diag = _of(Tensor.diag)
diag_embed = _of(Tensor.diag_embed)
diagonal = _of(Tensor.diagonal)
erf = _of(Tensor.erf)
exp = _of(Tensor.exp)
exp2 = _of(Tensor.exp2)
expm1 = _of(Tensor.expm1)
flatten = _of(Tensor.flatten)
flip = _of(Tensor.flip)
fliplr = _of(Tensor.fliplr)
flipud = _of(Tensor.flipud)
floor = _of(Tensor.floor)
floor_divide = _binary(rounding.FloorDivide, Tensor.floor_divide)
fmod = _binary(rounding.Fmod, Tensor.fmod)
gather = _of(Tensor.gather)
gelu = _of(Tensor.gelu)
hypot = _binary(powers.Hypot, Tensor.hypot, quotient=True)
index_select = _of(Tensor.index_select)
isfinite = _of(Tensor.isfinite)
isinf = _of(Tensor.isinf)
isnan = _of(Tensor.isnan)
log = _of(Tensor.log)
log10 = _of(Tensor.log10)
log1p = _of(Tensor.log1p)
log2 = _of(Tensor.log2)
log_softmax = _of(Tensor.log_softmax)
logaddexp = _binary(exponentials.Logaddexp, Tensor.logaddexp, quotient=True)
logsumexp = _of(Tensor.logsumexp)
masked_fill = _of(Tensor.masked_fill)
masked_select = _of(Tensor.masked_select)
max = _of(Tensor.max)
maximum = _binary(elementwise.Maximum, Tensor.maximum)
mean = _of(Tensor.mean)
min = _of(Tensor.min)
minimum = _binary(elementwise.Minimum, Tensor.minimum)
moveaxis = _of(Tensor.moveaxis)
narrow = _of(Tensor.narrow)
nonzero = _of(Tensor.nonzero)
norm = _of(Tensor.norm)
pad = _of(Tensor.pad)
permute = _of(Tensor.permute)
prod = _of(Tensor.prod)
ravel = _of(Tensor.ravel)
reciprocal = _of(Tensor.reciprocal)
relu = _of(Tensor.relu)
remainder = _binary(rounding.Remainder, Tensor.remainder)
repeat = _of(Tensor.repeat)
repeat_interleave = _of(Tensor.repeat_interleave)
reshape = _of(Tensor.reshape)
roll = _of(Tensor.roll)
round = _of(Tensor.round)
rsqrt = _of(Tensor.rsqrt)
scatter_add = _of(Tensor.scatter_add)
sigmoid = _of(Tensor.sigmoid)
sign = _of(Tensor.sign)
sin = _of(Tensor.sin)
sinh = _of(Tensor.sinh)
sort = _of(Tensor.sort)
split = _of(Tensor.split)
sqrt = _of(Tensor.sqrt)
square = _of(Tensor.square)
squeeze = _of(Tensor.squeeze)
std = _of(Tensor.std)
sum = _of(Tensor.sum)
swapaxes = _of(Tensor.swapaxes)
take = _of(Tensor.take)
take_along_axis = _of(Tensor.take_along_axis)
tan = _of(Tensor.tan)
tanh = _of(Tensor.tanh)
tile = _of(Tensor.tile)
topk = _of(Tensor.topk)
trace = _of(Tensor.trace)
transpose = _of(Tensor.transpose)
tril = _of(Tensor.tril)
triu = _of(Tensor.triu)
trunc = _of(Tensor.trunc)
unbind = _of(Tensor.unbind)
unsqueeze = _of(Tensor.unsqueeze)
var = _of(Tensor.var)

multiply = mul = _binary(elementwise.Multiply, Tensor.mul)
power = pow = _binary(elementwise.Power, Tensor.pow)
negative = neg = _of(Tensor.neg)
equal = eq = _of(Tensor.eq)
not_equal = ne = _of(Tensor.ne)
less = lt = _of(Tensor.lt)
less_equal = le = _of(Tensor.le)
greater = gt = _of(Tensor.gt)
greater_equal = ge = _of(Tensor.ge)

acos, acosh, asin, asinh, atan, atan2, atanh = (
    *(arccos, arccosh, arcsin, arcsinh, arctan, arctan2, arctanh),
)
absolute, clamp, expand_dims, mod, movedim = abs, clip, unsqueeze, remainder, moveaxis


def add(a: Any, b: Any, *, alpha: float = 1) -> Tensor:
    """Return a + alpha b; one of them may be a number."""
    first_tensor("add", a, b)
    return added("add", a, b, alpha)


def sub(a: Any, b: Any, *, alpha: float = 1) -> Tensor:
    """Return a - alpha b; one of them may be a number."""
    first_tensor("sub", a, b)
    return added("sub", a, b, alpha)


def div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Tensor:
    """Return a / b, rounded as `Tensor.div` says; one of them may be a number."""
    first_tensor("div", a, b)
    return divided(a, b, rounding_mode)


subtract = sub
divide = true_divide = div


def _tensors(name: str, a: Any, b: Any) -> tuple[Any, Any]:
    """Return two operands as tensors, at least one of which is one."""
    like = first_tensor(name, a, b)
    return tensor_like(name, a, like), tensor_like(name, b, like)


def matmul(a: Any, b: Any) -> Tensor:
    """Return a @ b: a (..., M, K), b (..., K, N), other axes broadcasting; vectors lack M or N."""
    a, b = _tensors("matmul", a, b)
    return a @ b


def einsum(subscripts: str, *tensors: Any) -> Tensor:
    """Return the product of the tensors, summed over the letters that the result does not have.

    One letter for each axis, operands apart by commas: "bij,bjk->bik". Letters that stand twice in
    one operand take its diagonal; "..." stands for axes that broadcast, and are summed where the
    result has no "...". Without "->" the result has the axes of the ellipsis, and the letters that
    are there once, in alphabetical order.

    Raises
    ------
    ValueError
        The subscripts do not fit the shapes; both are named.
    TypeError
        The tensors have different floating dtypes.
    """
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], tuple | list) else tensors
    first_tensor("einsum", *given)
    given = promoted("einsum", given)
    return contraction.Einsum.apply(*given, subscripts=subscripts)


@spelled
def tensordot(a: Any, b: Any, axes: Any = 2) -> Tensor:
    """Return the product of two tensors, summed over pairs of axes.

    `axes` is the number of the last of a and the first of b, or the axes of a and those of b.
    """
    a, b = operands("tensordot", *_tensors("tensordot", a, b))
    if isinstance(axes, tuple | list):
        if len(axes) != 2:
            raise ValueError(f"tensordot: axes {axes!r}, expected the axes of a and those of b")
        of_a = normalize_axes("tensordot", _tuple(axes[0]), a.ndim)
        of_b = normalize_axes("tensordot", _tuple(axes[1]), b.ndim)
    else:
        if not 0 <= axes <= (a.ndim if a.ndim < b.ndim else b.ndim):
            raise ValueError(f"tensordot: {axes} axes of shapes {a.shape} and {b.shape}")
        of_a, of_b = tuple(range(a.ndim - axes, a.ndim)), tuple(range(axes))
    lengths = tuple(a.shape[i] for i in of_a)
    if lengths != tuple(b.shape[i] for i in of_b):
        raise ValueError(
            f"tensordot: axes {of_a} of shape {a.shape} and {of_b} of shape {b.shape} differ in "
            "length"
        )
    rest_a = [i for i in range(a.ndim) if i not in of_a]
    rest_b = [i for i in range(b.ndim) if i not in of_b]
    shape_a, shape_b = [a.shape[i] for i in rest_a], [b.shape[i] for i in rest_b]
    inner, rows, columns = math.prod(lengths), math.prod(shape_a), math.prod(shape_b)
    left = a.permute(*rest_a, *of_a).reshape(rows, inner)
    right = b.permute(*of_b, *rest_b).reshape(inner, columns)
    return (left @ right).reshape(*shape_a, *shape_b)


def outer(a: Any, b: Any) -> Tensor:
    """Return a_i b_j for all elements of a and b, flattened: (M, N)."""
    a, b = _tensors("outer", a, b)
    return a.reshape(-1, 1) * b.reshape(1, -1)


def dot(a: Any, b: Any) -> Tensor:
    """Return the sum of products over the last axis of a and the last but one of b (or its only).

    The product where one of them has no axes.
    """
    a, b = _tensors("dot", a, b)
    if a.ndim == 0 or b.ndim == 0:
        return a * b
    if a.ndim <= 2 and b.ndim <= 2:
        return a @ b
    return tensordot(a, b, axes=(-1, -2 if b.ndim > 1 else 0))


def _tuple(axes: Any) -> tuple[Any, ...]:
    return tuple(axes) if isinstance(axes, tuple | list) else (axes,)
