"""The kernels in C, where this installation has them."""

from typing import Any

from tinygrad_char.kernels.environment import choice

VARIABLE = "TINYGRAD_CHAR_KERNELS"
"""The variable of the environment that chooses, one of CHOICES."""
CHOICES = ("fused", "reference")
"""The kernels in C, where they were built, or the references in NumPy alone."""

compiled: Any
"""The module tinygrad_char.kernels._fused; None where it was not built."""

try:
    from tinygrad_char.kernels import _fused as compiled  # type: ignore[attr-defined, no-redef]
except ImportError:
    compiled = None

wanted: Any = compiled if choice(VARIABLE, CHOICES, "fused") == "fused" else None
"""The same, and None where references are asked for."""
