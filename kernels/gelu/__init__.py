"""Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""

from tinygrad_char.kernels.gelu.reference import APPROXIMATE, CUBIC, INNER, backward, forward

__all__ = ["APPROXIMATE", "CUBIC", "INNER", "backward", "forward"]
