"""The mathematics on raw arrays: forward and backward of each operation."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinygrad_char.kernels.operations import using

__all__ = ["using"]

if not TYPE_CHECKING:

    def __getattr__(name):
        # Not when this is imported: threads that import modules in here at once would wait for each
        # other, one inside this file and the other one on its way through it.
        if name != "using":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from tinygrad_char.kernels.operations import using

        return globals().setdefault(name, using)
