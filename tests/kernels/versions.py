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
    "global_norm",
    "layernorm",
    "linear",
    "log_softmax",
    "residual",
    "running_mean",
    "sampling",
    "softmax",
)
