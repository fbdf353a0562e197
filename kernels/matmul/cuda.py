"""Matrix products by cuBLAS, with sums in float32."""

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cuda.operation import Operation
from tinygrad_char.kernels.reduce import unbroadcast


class MatMul(Operation):
    def forward(self, a: Array, b: Array) -> Array:
        if not self.device.products.serves(a, b):
            return NotImplemented
        left = a[None, :] if a.ndim == 1 else a  # (..., M, K)
        right = b[:, None] if b.ndim == 1 else b  # (..., K, N)
        y = self.device.products.multiply(left, right, tf32=bool(self.settings.tf32))
        if a.ndim == 1:
            y = y.reshape(*y.shape[:-2], y.shape[-1])
        return y.reshape(y.shape[:-1]) if b.ndim == 1 else y

    def backward(
        self, grad: Array, a: Array, b: Array, needs: tuple[bool, bool]
    ) -> tuple[Array | None, Array | None]:
        if not self.device.products.serves(a, b):
            return NotImplemented
        left = a[None, :] if a.ndim == 1 else a
        right = b[:, None] if b.ndim == 1 else b
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        grad = grad.reshape(*batch, left.shape[-2], right.shape[-1])
        grad_a = grad_b = None
        if needs[0]:
            full = self.device.products.multiply(
                grad, right.swapaxes(-1, -2), tf32=bool(self.settings.tf32)
            )
            grad_a = unbroadcast(full, left.shape).reshape(a.shape)
        if needs[1]:
            full = self.device.products.multiply(
                left.swapaxes(-1, -2), grad, tf32=bool(self.settings.tf32)
            )
            grad_b = unbroadcast(full, right.shape).reshape(b.shape)
        return grad_a, grad_b
