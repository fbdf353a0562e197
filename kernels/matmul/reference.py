"""Matrix product with NumPy's rules for vectors, batches and broadcasting."""

from collections.abc import Callable

import numpy as np

from tinygrad_char.kernels.array import FLOAT32, Array
from tinygrad_char.kernels.reduce import total, unbroadcast

PART, LONG, NARROW = 256, 2048, 8
"""Products that a BLAS may add up one after the other, sums that are cut into such parts, and rows
or columns of a result so few that a BLAS does not cut them itself."""


def product(a: Array, b: Array) -> Array:
    """Return a @ b of at least two axes each; on the CPU errors do not grow with the inner one."""
    rows, length, columns = a.shape[-2], a.shape[-1], b.shape[-1]
    if length < LONG or min(rows, columns) >= NARROW or type(a) is not np.ndarray:
        return a @ b
    if a.dtype != FLOAT32 or b.dtype != FLOAT32 or length != b.shape[-2]:
        return a @ b
    if a.strides[-1] == a.itemsize and columns == 1:  # scalar products, which a BLAS does in lanes
        return a @ b
    if b.strides[-2] == b.itemsize and rows == 1:
        return a @ b
    parts = length // PART
    whole = parts * PART
    left = a[..., :whole].reshape(*a.shape[:-1], parts, PART).swapaxes(-2, -3)
    right = b[..., :whole, :].reshape(*b.shape[:-2], parts, PART, columns)
    products = left @ right  # (..., parts, M, N)
    result = total(products, (products.ndim - 3,))
    return result + a[..., whole:] @ b[..., whole:, :] if whole < length else result


def forward(a: Array, b: Array) -> Array:
    """Return a @ b: (..., M, K) @ (..., K, N) -> (..., M, N). Backward needs a and b."""
    if a.ndim > 1 and b.ndim > 1:
        return product(a, b)
    if a.ndim == 0 or b.ndim == 0 or a.shape[-1] < LONG:
        return a @ b
    return of_matrices(product, a, b)


def backward(
    grad: Array, a: Array, b: Array, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    """Return the gradients of a and b, each None where `needs` says so.

    dA = dC B^T,  dB = A^T dC, summed over the batch axes that were broadcast.
    """
    return gradients(product, grad, a, b, needs)


def of_matrices(product: Callable[[Array, Array], Array], a: Array, b: Array) -> Array:
    """Return a @ b by the product of arrays of at least two axes: vectors are rows, or columns."""
    y = product(a[None, :] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b)
    if a.ndim == 1:
        y = y[..., 0, :]
    return y[..., 0] if b.ndim == 1 else y


def gradients(
    product: Callable[[Array, Array], Array],
    grad: Array,
    a: Array,
    b: Array,
    needs: tuple[bool, bool],
) -> tuple[Array | None, Array | None]:
    """Return what `backward` does, by such a product."""
    if a.ndim == 1:
        grad = grad[..., None, :] if b.ndim > 1 else grad[..., None, None]
    elif b.ndim == 1:
        grad = grad[..., None]
    left = a[None, :] if a.ndim == 1 else a  # (..., M, K)
    right = b[:, None] if b.ndim == 1 else b  # (..., K, N)
    grad_a = grad_b = None
    if needs[0]:
        grad_a = unbroadcast(product(grad, right.swapaxes(-1, -2)), left.shape).reshape(a.shape)
    if needs[1]:
        grad_b = unbroadcast(product(left.swapaxes(-1, -2), grad), right.shape).reshape(b.shape)
    return grad_a, grad_b
