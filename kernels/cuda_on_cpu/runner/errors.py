"""What can go wrong in the CPU runner."""

from tinygrad_char.kernels.backend import DeviceError


class RunnerError(DeviceError):
    """The runner cannot be used on this machine, or a kernel does not compile."""


class KernelError(RunnerError):
    """A kernel did something that CUDA does not allow; says what, and in which line."""
