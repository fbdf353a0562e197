"""The matrix product in plain Python: each element a sum of products, see reference.py."""

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.plain import in_python
from tinygrad_char.kernels.matmul.reference import gradients, of_matrices


@in_python
def forward(a: Array, b: Array) -> Array:
    if a.ndim == 0 or b.ndim == 0:
        return NotImplemented
    return of_matrices(product, a, b)


@in_python
def backward(
    grad: Array, a: Array, b: Array, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    return gradients(product, grad, a, b, needs)


def product(a: Array, b: Array) -> Array:
    """Return c[i, j] = a[i, 0] b[0, j] + a[i, 1] b[1, j] + ... of each matrix of a batch."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if a.shape[-1] != b.shape[-2]:
        return NotImplemented  # the reference names the shapes
    c = np.empty((*batch, a.shape[-2], b.shape[-1]), np.result_type(a, b))
    a = np.broadcast_to(a, (*batch, *a.shape[-2:]))
    b = np.broadcast_to(b, (*batch, *b.shape[-2:]))
    for matrix in np.ndindex(batch):
        rows, columns = a[matrix].tolist(), b[matrix].T.tolist()
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                c[(*matrix, i, j)] = sum(x * y for x, y in zip(row, column, strict=True))
    return c
