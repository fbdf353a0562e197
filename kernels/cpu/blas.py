"""The BLAS that NumPy computes matrix products with, for kernels in C to call themselves."""

import ctypes
from typing import Any

SYMBOLS = (("scipy_cblas_sgemm64_", 8), ("cblas_sgemm64_", 8), ("cblas_sgemm", 4))
"""Names of cblas_sgemm, and the bytes of its integers."""

_libraries: list[Any] = []  # so that what was bound stays loaded


def largest(whole_bytes: int) -> int:
    """Return the largest size that integers of so many bytes can tell; beyond it, no BLAS."""
    return 2 ** (8 * whole_bytes - 1) - 1


def bind(compiled: Any) -> bool:
    """Give the extension `compiled` the address of cblas_sgemm; return whether there is one.

    Where there is none that is known here, see fused._has_products for who computes products.
    """
    import threadpoolctl

    found = [each["filepath"] for each in threadpoolctl.threadpool_info()]
    # NumPy's own library first: another package may have brought a second one
    for path in sorted(found, key=lambda path: "numpy" not in path):
        library = ctypes.CDLL(path)
        for symbol, whole_bytes in SYMBOLS:
            function = getattr(library, symbol, None)
            if function is not None:
                _libraries.append(library)
                address = ctypes.cast(function, ctypes.c_void_p).value
                compiled.bind_sgemm(address, whole_bytes, largest(whole_bytes))
                return True
    return False
