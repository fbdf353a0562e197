"""Rotary positions: queries and keys are turned by angles that grow with their positions."""

from tinygrad_char.kernels.rotary.reference import EPS, Options, angles, backward, cached, forward

__all__ = ["EPS", "Options", "angles", "backward", "cached", "forward"]
