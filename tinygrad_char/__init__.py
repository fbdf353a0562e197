"""An autograd engine on NumPy and CuPy arrays, every backward pass by hand."""

from kernels.backend import DeviceError
from tinygrad_char import functional, nn, optim, random
from tinygrad_char.autograd import (
    NonFiniteError,
    detect_nonfinite,
    grad,
    is_grad_enabled,
    no_grad,
)
from tinygrad_char.creation import (
    Value,
    arange,
    from_dlpack,
    from_numpy,
    full,
    ones,
    ones_like,
    tensor,
    zeros,
    zeros_like,
)
from tinygrad_char.functional import cat, concatenate, maximum, minimum, stack, where
from tinygrad_char.gradcheck import GradcheckError, gradcheck
from tinygrad_char.random import Generator, manual_seed
from tinygrad_char.tensor import Tensor

__version__ = "0.2.0"

__all__ = [
    "DeviceError",
    "Generator",
    "GradcheckError",
    "NonFiniteError",
    "Tensor",
    "Value",
    "arange",
    "cat",
    "concatenate",
    "detect_nonfinite",
    "from_dlpack",
    "from_numpy",
    "full",
    "functional",
    "grad",
    "gradcheck",
    "is_grad_enabled",
    "manual_seed",
    "maximum",
    "minimum",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "optim",
    "random",
    "stack",
    "tensor",
    "where",
    "zeros",
    "zeros_like",
]
