"""Operations along one axis, for several axes at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinygrad_char.tensor import Tensor


def along(
    x: Tensor, axes: tuple[int, ...], apply: Callable[..., Tensor], *others: Tensor | None
) -> Tensor:
    """Return apply(x, *others, axis=axis), which keeps the shape, along all of the axes at once.

    Where they are not exactly one, they become one, the last, and are put back after it. `others`
    are tensors of x's shape, to which the same is done, or None.
    """
    if len(axes) == 1:
        return apply(x, *others, axis=axes[0])
    rest = tuple(i for i in range(x.ndim) if i not in axes)
    order = (*rest, *axes)
    length = math.prod(x.shape[i] for i in axes)

    def joined(y: Tensor) -> Tensor:
        moved = y.permute(order)
        return moved.reshape(*moved.shape[: len(rest)], length)

    result = apply(*(each if each is None else joined(each) for each in (x, *others)), axis=-1)
    inverse = sorted(range(x.ndim), key=order.__getitem__)
    return result.reshape([x.shape[i] for i in order]).permute(inverse)
