"""GELU by the CUDA kernel of bias and activation."""

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.bias_activation.cuda import BiasActivation, first
from tinygrad_char.kernels.cuda.operation import Device, Operation
from tinygrad_char.kernels.operations import Settings

_ACTIVATION = {"none": "gelu", "tanh": "gelu_tanh"}


class Gelu(Operation):
    def __init__(self, device: Device, settings: Settings) -> None:
        super().__init__(device, settings)
        self._fused = BiasActivation(device, settings)

    def forward(self, x: Array, approximate: str = "none") -> Array:
        return first(self._fused.forward(x, None, _ACTIVATION[approximate]))

    def backward(self, grad: Array, x: Array, approximate: str = "none") -> Array:
        return first(
            self._fused.backward(grad, (x, None), _ACTIVATION[approximate], need_bias=False)
        )
