"""The kernels in C, where this installation has them."""

import os
import threading
from typing import Any

from tinygrad_char.kernels.operations import REFERENCE, VARIABLE

compiled: Any
"""The module tinygrad_char.kernels.cpu._c; None where it was not built."""

try:
    from tinygrad_char.kernels.cpu import _c as compiled  # type: ignore[attr-defined, no-redef]
except ImportError:
    compiled = None

wanted: Any = None if os.environ.get(VARIABLE) == REFERENCE else compiled
"""The same, and None where the environment asks for references alone."""

if compiled is not None and hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: compiled.expect_fork(threading.active_count() > 1),
        after_in_parent=lambda: compiled.expect_fork(False),
        after_in_child=lambda: compiled.expect_fork(False),
    )
