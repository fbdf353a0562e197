"""Layers, initialised as PyTorch's are unless said otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_char import functional as F
from tinygrad_char.kernels.gelu import APPROXIMATE
from tinygrad_char.kernels.words import shorten
from tinygrad_char.nn.caches import ConvolutionCache
from tinygrad_char.nn.module import Module, Parameter
from tinygrad_char.random import Generator, default_generator
from tinygrad_char.spelling import spelled
from tinygrad_char.tensor import Tensor


def check_size(layer: str, **sizes: int) -> None:
    """Raise ValueError that names the layer and the size unless each is an integer above 0."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{layer}: {name}={shorten(size)}, expected an integer of at least 1")


class Linear(Module):
    """y = x W^T + b, with x (..., in_features), W (out_features, in_features), b (out_features,).

    With an activation, "relu", "gelu" (exact) or "gelu_tanh", that of this sum. W and b start
    uniform in +-1 / sqrt(in_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activation: str | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_size(name, in_features=in_features, out_features=out_features)
        F.check_activation(name, activation)
        self.activation = activation
        stream = (generator or default_generator()).init
        bound = 1 / math.sqrt(in_features)
        self.weight = Parameter(stream.uniform(-bound, bound, (out_features, in_features)))
        self.bias = Parameter(stream.uniform(-bound, bound, out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return activation(x W^T + b)."""
        return F.linear(x, self.weight, self.bias, self.activation)

    def extra_repr(self) -> str:
        out_features, in_features = self.weight.shape
        bias = "" if self.bias is not None else ", bias=False"
        activation = f", activation={self.activation!r}" if self.activation else ""
        return f"{in_features}, {out_features}{bias}{activation}"


class ResidualLinear(Linear):
    """y = residual + dropout(x W^T + b): the last layer of a branch of a residual network.

    dropout is the probability, in training.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dropout: float = 0.0,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, generator=generator)
        F.check_probability(type(self).__name__, dropout)
        self.p = dropout
        self._generator = generator or default_generator()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return residual (..., out_features), or 0, plus dropout(x W^T + b)."""
        p = self.p if self.p and self.training else 0.0
        key = self._generator.dropout.dropout_key() if p else None
        return F.linear_residual(x, self.weight, self.bias, residual, dropout=p, key=key)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", dropout={self.p}" if self.p else "")


class Embedding(Module):
    """Rows of a table by index: integers (...,) give (..., embedding_dim). Starts as N(0, 1)."""

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, generator: Generator | None = None
    ) -> None:
        super().__init__()
        check_size("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        stream = (generator or default_generator()).init
        self.weight = Parameter(stream.normal(0, 1, (num_embeddings, embedding_dim)))

    def forward(self, idx: Any, addend: Tensor | None = None, dtype: Any = None) -> Tensor:
        """Return the rows named by idx, plus an addend, in `dtype`: see functional.embedding."""
        return F.embedding(idx, self.weight, addend, dtype)

    def extra_repr(self) -> str:
        return "{}, {}".format(*self.weight.shape)


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axes, of normalized_shape.

    normalized_shape is the length of the last axis, or a tuple of lengths of several.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        shape = _check_normalized("LayerNorm", normalized_shape)
        self.normalized_shape: Any = shape[0] if isinstance(normalized_shape, int) else shape
        self.eps = eps
        affine = elementwise_affine
        self.weight = Parameter(np.ones(shape, np.float32)) if affine else None
        self.bias = Parameter(np.zeros(shape, np.float32)) if affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        shape = self.normalized_shape
        if x.shape[-1:] != (shape,) and (isinstance(shape, int) or x.shape[-len(shape) :] != shape):
            raise ValueError(f"LayerNorm({shape}): x has shape {x.shape}")
        axes = None if isinstance(shape, int) else shape
        return F.layer_norm(x, self.weight, self.bias, self.eps, normalized_shape=axes)

    def extra_repr(self) -> str:
        if self.weight is None:
            return f"{self.normalized_shape}, elementwise_affine=False"
        return f"{self.normalized_shape}" + ("" if self.bias is not None else ", bias=False")


class RMSNorm(Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axes, of normalized_shape.

    normalized_shape is as in LayerNorm; eps, if None, is the precision of x's dtype (Zhang and
    Sennrich 2019, arXiv:1910.07467).
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
    ) -> None:
        super().__init__()
        self.normalized_shape = _check_normalized("RMSNorm", normalized_shape)
        self.eps = eps
        ones = np.ones(self.normalized_shape, np.float32)
        self.weight = Parameter(ones) if elementwise_affine else None

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-len(self.normalized_shape) :] != self.normalized_shape:
            raise ValueError(f"RMSNorm({self.normalized_shape}): x has shape {x.shape}")
        return F.rms_norm(x, self.weight, self.eps, normalized_shape=self.normalized_shape)

    def extra_repr(self) -> str:
        eps = "" if self.eps is None else f", eps={self.eps}"
        affine = "" if self.weight is not None else ", elementwise_affine=False"
        return f"{self.normalized_shape}{eps}{affine}"


def _check_normalized(layer: str, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    several = isinstance(normalized_shape, tuple | list)
    shape: Any = tuple(normalized_shape) if several else (normalized_shape,)  # type: ignore[arg-type]
    if not shape:
        raise ValueError(f"{layer}: normalized_shape=(), expected at least one axis")
    for size in shape:
        check_size(layer, normalized_shape=size)
    return shape


class BatchNorm1d(Module):
    """Normalisation of each feature over the batch (Ioffe and Szegedy 2015, arXiv:1502.03167).

    x is (N, C), or (N, C, L) and then normalised over N and L. In training the batch's own mean
    and biased variance are used, and running averages of mean and unbiased variance are kept,
    new = (1 - momentum) * old + momentum * batch; in evaluation these are used.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        super().__init__()
        check_size("BatchNorm1d", num_features=num_features)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = Parameter(np.ones(num_features, np.float32)) if affine else None
        self.bias = Parameter(np.zeros(num_features, np.float32)) if affine else None
        self.register_buffer("running_mean", Tensor(np.zeros(num_features, np.float32)))
        self.register_buffer("running_var", Tensor(np.ones(num_features, np.float32)))
        self.register_buffer("num_batches_tracked", Tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in (2, 3) or x.shape[1] != self.num_features:
            raise ValueError(
                f"BatchNorm1d({self.num_features}): x has shape {x.shape}, expected "
                f"(N, {self.num_features}) or (N, {self.num_features}, L)"
            )
        if self.training:
            if x.size == self.num_features:
                raise ValueError(f"BatchNorm1d: shape {x.shape} holds one value for each feature")
            self.num_batches_tracked.copy_(self.num_batches_tracked + 1)
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )

    def extra_repr(self) -> str:
        affine = "" if self.weight is not None else ", affine=False"
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}{affine}"


class CausalConvolution(Module):
    """y[b, t] = x[b, t] + sum_k weight[k] * x[b, t - k]: each channel with its last few positions.

    x and y are (B, T, C), the weight is (taps, C) and starts at 0, so that the layer begins as the
    identity (So et al. 2021, arXiv:2109.08668). Of positions before the first nothing is added.

    Parameters
    ----------
    channels
        C.
    taps
        Positions that are mixed, the own one among them.
    """

    def __init__(self, channels: int, taps: int = 4) -> None:
        super().__init__()
        check_size("CausalConvolution", channels=channels, taps=taps)
        self.weight = Parameter(np.zeros((taps, channels), np.float32))

    def forward(self, x: Tensor, cache: ConvolutionCache | None = None) -> Tensor:
        """Return the mixed x; with a cache, x continues the positions that it holds.

        Raises
        ------
        RuntimeError
            With a cache, the operations are on the tape: the gradients of what it holds would be
            missing.
        """
        return F.causal_convolution(x, self.weight, cache=cache)

    def extra_repr(self) -> str:
        taps, channels = self.weight.shape
        return f"{channels}, taps={taps}"


class Dropout(Module):
    """In training, sets each element to 0 with probability p and multiplies the rest by 1/(1-p)."""

    def __init__(self, p: float = 0.5, *, generator: Generator | None = None) -> None:
        super().__init__()
        F.check_probability("Dropout", p)
        self.p = p
        self._generator = generator or default_generator()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return F.dropout(x, self.p, self._generator.dropout.dropout_key())

    def extra_repr(self) -> str:
        return f"p={self.p}"


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


class GELU(Module):
    """x Phi(x), exactly (approximate="none") or by the "tanh" approximation."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in APPROXIMATE:
            raise ValueError(f"GELU: approximate={approximate!r}, expected one of {APPROXIMATE}")
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return x.gelu(self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Flatten(Module):
    """The axes from `start` to `end` as one; all but the first unless said otherwise."""

    @spelled
    def __init__(self, start: int = 1, end: int = -1) -> None:
        super().__init__()
        self.start, self.end = start, end

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start, self.end)

    def extra_repr(self) -> str:
        return f"start={self.start}, end={self.end}"


class Identity(Module):
    """x itself, whatever it was made with: a part that does nothing, in another's place."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return x
