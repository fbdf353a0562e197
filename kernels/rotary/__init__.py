"""Rotary positions: queries and keys are turned by angles that grow with their positions."""

from tinygrad_char.kernels.rotary.reference import (
    EPS,
    MOST_ANGLES,
    Options,
    angles,
    backward,
    cached,
    forward,
)

__all__ = ["EPS", "MOST_ANGLES", "Options", "angles", "backward", "cached", "forward"]
