"""The operations that have a fused version for the CPU."""

NAMES = (
    "adamw",
    "add",
    "attention",
    "bias_activation",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layernorm",
    "linear",
    "residual",
    "running_mean",
)
