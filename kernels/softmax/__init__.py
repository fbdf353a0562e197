"""Softmax along one axis, of scaled elements, with an optional mask."""

from tinygrad_char.kernels.softmax.reference import (
    backward,
    causal_mask,
    exponentials,
    forward,
    split_scale,
    with_causal,
)

__all__ = ["backward", "causal_mask", "exponentials", "forward", "split_scale", "with_causal"]
