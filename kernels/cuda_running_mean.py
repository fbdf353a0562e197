"""The mean of all positions so far by CUDA kernels."""

import numpy as np

from tinygrad_char.kernels import running_mean
from tinygrad_char.kernels.array import Array, namespace
from tinygrad_char.kernels.cuda_operation import SCALARS, Operation, contiguous, serves

THREADS, CHANNELS = 512, 32


class RunningMean(Operation):
    """See running_mean.py; running_mean.cu. Sums are float32."""

    def forward(self, x: Array) -> Array:
        """See running_mean.forward."""
        if not serves(x):
            return running_mean.forward(x)
        return self._walk("running_mean_forward", x)

    def backward(self, grad: Array) -> Array:
        """See running_mean.backward."""
        if not serves(grad):
            return running_mean.backward(grad)
        return self._walk("running_mean_backward", grad)

    def _walk(self, function: str, x: Array) -> Array:
        batch, length, channels = x.shape
        y = namespace(x).empty(x.shape, x.dtype)
        self.launch(
            "running_mean",
            function,
            (batch * -(-channels // CHANNELS),),
            THREADS,
            contiguous(x),
            y,
            np.int64(length),
            np.int64(channels),
            SCALAR=SCALARS[x.dtype.name],
        )
        return y
