"""The kernels in C, where this installation has them."""

from typing import Any

compiled: Any
"""The module kernels._fused; None where it was not built."""

try:
    from kernels import _fused as compiled  # type: ignore[attr-defined, no-redef]
except ImportError:
    compiled = None
