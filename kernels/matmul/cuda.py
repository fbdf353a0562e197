"""Matrix products by cuBLAS, with sums in float32."""

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cuda.operation import Operation
from tinygrad_char.kernels.matmul.reference import gradients, of_matrices


class MatMul(Operation):
    def forward(self, a: Array, b: Array) -> Array:
        if not self.device.products.serves(a, b):
            return NotImplemented
        return of_matrices(self._product, a, b)

    def backward(
        self, grad: Array, a: Array, b: Array, needs: tuple[bool, bool]
    ) -> tuple[Array | None, Array | None]:
        if not self.device.products.serves(a, b):
            return NotImplemented
        return gradients(self._product, grad, a, b, needs)

    def _product(self, a: Array, b: Array) -> Array:
        return self.device.products.multiply(a, b, tf32=bool(self.settings.tf32))
