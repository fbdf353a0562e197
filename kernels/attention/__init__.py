"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762)."""

from tinygrad_char.kernels.attention.reference import (
    BLOCK,
    Cache,
    Options,
    Saved,
    backward,
    blocks,
    cached,
    forward,
)

__all__ = ["BLOCK", "Cache", "Options", "Saved", "backward", "blocks", "cached", "forward"]
