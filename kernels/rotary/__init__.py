"""Rotary positions: queries and keys are turned by angles that grow with their positions."""

from tinygrad_char.kernels.rotary.reference import Options, angles, backward, cached, forward

__all__ = ["Options", "angles", "backward", "cached", "forward"]
