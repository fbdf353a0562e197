"""The CUDA backend: the only module that imports CuPy."""

from kernels.backend import Backend, DeviceError


def load() -> Backend:
    """Return the CUDA backend, or raise DeviceError that says what this machine lacks."""
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            "device 'cuda' needs CuPy, which is not installed: pip install 'tinygrad-char[cuda13]' "
            "(or [cuda12] for an older driver), or use device 'cpu'"
        ) from error
    if not cupy.cuda.is_available():
        raise DeviceError(
            f"device 'cuda': CuPy {cupy.__version__} is installed but finds no NVIDIA driver or no "
            "GPU (see `nvidia-smi`); use device 'cpu'"
        )
    return Backend("cuda", cupy, cupy.ndarray)
