"""Layer normalisation over the last axis (Ba, Kiros and Hinton 2016, arXiv:1607.06450)."""

from tinygrad_char.kernels.layernorm.reference import FAR, Saved, backward, forward

__all__ = ["FAR", "Saved", "backward", "forward"]
