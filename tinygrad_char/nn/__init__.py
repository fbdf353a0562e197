"""Layers and the modules that hold them."""

from tinygrad_char.nn.attention import (
    CausalSelfAttention,
    CrossAttention,
    KeyValueCache,
    SelfAttention,
)
from tinygrad_char.nn.layers import (
    GELU,
    BatchNorm1d,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    ModuleList,
    ReLU,
    ResidualLinear,
    Sequential,
)
from tinygrad_char.nn.module import Module, Parameter

__all__ = [
    "GELU",
    "BatchNorm1d",
    "CausalSelfAttention",
    "CrossAttention",
    "Dropout",
    "Embedding",
    "KeyValueCache",
    "LayerNorm",
    "Linear",
    "Module",
    "ModuleList",
    "Parameter",
    "ReLU",
    "ResidualLinear",
    "SelfAttention",
    "Sequential",
]
