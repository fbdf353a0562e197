"""Matrix product with NumPy's rules for vectors, batches and broadcasting."""

from kernels.array import Array
from kernels.broadcast import unbroadcast


def forward(a: Array, b: Array) -> Array:
    """Return a @ b: (..., M, K) @ (..., K, N) -> (..., M, N). Backward needs a and b."""
    return a @ b


def backward(
    grad: Array, a: Array, b: Array, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    """Return the gradients of a and b, each None where `needs` says so.

    dA = dC B^T,  dB = A^T dC, summed over the batch axes that were broadcast.
    """
    if a.ndim == 1:
        grad = grad[..., None, :] if b.ndim > 1 else grad[..., None, None]
    elif b.ndim == 1:
        grad = grad[..., None]
    left = a[None, :] if a.ndim == 1 else a  # (..., M, K)
    right = b[:, None] if b.ndim == 1 else b  # (..., K, N)
    grad_a = grad_b = None
    if needs[0]:
        grad_a = unbroadcast(grad @ right.swapaxes(-1, -2), left.shape).reshape(a.shape)
    if needs[1]:
        grad_b = unbroadcast(left.swapaxes(-1, -2) @ grad, right.shape).reshape(b.shape)
    return grad_a, grad_b
