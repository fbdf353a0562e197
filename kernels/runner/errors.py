"""What can go wrong in the CPU runner."""


class RunnerError(RuntimeError):
    """The runner cannot be used on this machine, or a kernel does not compile."""


class KernelError(RunnerError):
    """A kernel did something that CUDA does not allow; says what, and in which line."""
