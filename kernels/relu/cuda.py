"""ReLU by the CUDA kernel of bias and activation."""

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.bias_activation.cuda import BiasActivation, first
from tinygrad_char.kernels.cuda.operation import Device, Operation, fits_tiles, serves
from tinygrad_char.kernels.operations import Settings


class Relu(Operation):
    def __init__(self, device: Device, settings: Settings) -> None:
        super().__init__(device, settings)
        self._fused = BiasActivation(device, settings)

    def forward(self, x: Array) -> Array:
        if not (serves(x) and fits_tiles(x)):
            return NotImplemented  # the reference of the fused one may overwrite x
        return first(self._fused.forward(x, None, "relu"))

    def backward(self, grad: Array, y: Array) -> Array:
        return first(self._fused.backward(grad, (y, None), "relu", need_bias=False))
