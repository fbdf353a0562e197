"""The kernels in C, where this installation has them."""

import os
from typing import Any

VARIABLE = "TINYGRAD_CHAR_KERNELS"
"""The variable of the environment that, as "reference", asks for the references in NumPy alone."""

compiled: Any
"""The module kernels._fused; None where it was not built."""

try:
    from kernels import _fused as compiled  # type: ignore[attr-defined, no-redef]
except ImportError:
    compiled = None

wanted: Any = None if os.environ.get(VARIABLE) == "reference" else compiled
"""The same, and None where references are asked for."""
