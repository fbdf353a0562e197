"""The CUDA kernels in the place of the references that they equal."""

from typing import Any

from tinygrad_char.kernels.cuda_attention import Attention
from tinygrad_char.kernels.cuda_elements import BiasActivation, Dropout, Gelu, Relu, Residual
from tinygrad_char.kernels.cuda_embedding import Embedding
from tinygrad_char.kernels.cuda_optimizer import AdamW, GlobalNorm
from tinygrad_char.kernels.cuda_rows import CrossEntropy, LayerNorm, Softmax
from tinygrad_char.kernels.cuda_running_mean import RunningMean
from tinygrad_char.kernels.cuda_sampling import Sampling
from tinygrad_char.kernels.launcher import Launcher


def table(launcher: Launcher, *, check: bool = True, tf32: bool = False) -> dict[str, Any]:
    """Return the operations that CUDA kernels serve, by name, for the arrays of this launcher.

    Each has the functions of its reference, and hands over to it what its kernels do not serve.
    With `check`, indices and targets are checked, for which the host waits for the device; under
    graph capture it must not. `tf32` lets attention multiply float32 on the tensor cores.
    """
    return {
        "adamw": AdamW(launcher),
        "attention": Attention(launcher, tf32),
        "bias_activation": BiasActivation(launcher),
        "cross_entropy": CrossEntropy(launcher, check),
        "dropout": Dropout(launcher),
        "embedding": Embedding(launcher, check),
        "gelu": Gelu(launcher),
        "global_norm": GlobalNorm(launcher),
        "layernorm": LayerNorm(launcher),
        "relu": Relu(launcher),
        "residual": Residual(launcher),
        "running_mean": RunningMean(launcher),
        "sampling": Sampling(launcher),
        "softmax": Softmax(launcher),
    }
