"""The operations of neural networks: each hands raw arrays to the backend's kernels.

Derivations are on the operations' pages, such as kernels/layernorm/README.md. Below, G is the
cotangent of the result.
"""

from typing import Any

import numpy as np

from tinygrad_char.autograd import Function
from tinygrad_char.kernels import (
    attention,
    bias_activation,
    causal_convolution,
    cross_entropy,
    dropout,
    embedding,
    gelu,
    layernorm,
    linear,
    log_softmax,
    matmul,
    relu,
    rotary,
    softmax,
)
from tinygrad_char.kernels import residual as residual_connection
from tinygrad_char.kernels.array import Array, select
from tinygrad_char.kernels.dropout import DropoutKey, MaskSource
from tinygrad_char.kernels.linear import rows


class MatMul(Function):
    """C = A B: (..., M, K) @ (..., K, N) -> (..., M, N), see kernels/matmul/.

    dA = G B^T, dB = A^T G, summed over batch axes that were broadcast. A and B are saved.
    """

    upcasts = True

    def forward(self, a: Array, b: Array) -> Array:
        """Return a @ b; ValueError that names the shapes where they do not fit."""
        if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != (b.shape[-2] if b.ndim > 1 else b.shape[0]):
            raise ValueError(
                f"matmul: shapes {a.shape} and {b.shape}; expected the last axis of the first to "
                "be as long as the last but one of the second"
            )
        self.saved = (a, b)
        try:
            return self.backend.kernels[matmul.forward](a, b)
        except ValueError:
            raise ValueError(
                f"matmul: the batch axes of shapes {a.shape} and {b.shape} do not broadcast"
            ) from None

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        a, b = self.saved
        need_a, need_b = self.needs
        return self.backend.kernels[matmul.backward](grad, a, b, (need_a, need_b))


class Linear(Function):
    """y = x W^T + b: x (..., I), W (O, I), b (O,), y (..., O), see kernels/linear/.

    dx = G W, dW = G^T x, db = the sum of G's rows. x and W are saved, where they are needed.
    """

    upcasts = True

    def forward(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """Return y; ValueError that names the shapes where they do not fit."""
        _check_linear(x, weight, bias)
        self.saved = _kept(x, weight, self.needs)
        return self.backend.kernels[linear.forward](x, weight, bias)

    def backward(self, grad: Array) -> tuple[Array | None, Array | None, Array | None]:
        x, weight = self.saved
        need_x, need_weight, need_bias = self.needs
        needs = (need_x, need_weight, need_bias)
        return self.backend.kernels[linear.backward](grad, x, weight, needs)


class LinearActivation(Function):
    """y = f(z + b), z = x W^T: shapes as Linear, see kernels/bias_activation/.

    dz = G f'(z + b), from which dx, dW and db are those of Linear. Besides x and W, what dz needs
    is saved: y for relu, else z and b.
    """

    upcasts = True

    def forward(self, x: Array, weight: Array, bias: Array | None, *, activation: str) -> Array:
        """Return y; ValueError that names the shapes where they do not fit."""
        _check_linear(x, weight, bias)
        self.activation = activation
        product = self.backend.kernels[linear.forward](x, weight, None)
        y, kept = self.backend.kernels[bias_activation.forward](product, bias, activation)
        self.saved = (*_kept(x, weight, self.needs), *kept)
        return y

    def backward(self, grad: Array) -> tuple[Array | None, Array | None, Array | None]:
        x, weight, kept, bias = self.saved
        need_x, need_weight, need_bias = self.needs
        grad, grad_bias = self.backend.kernels[bias_activation.backward](
            grad, (kept, bias), self.activation, need_bias
        )
        needs = (need_x, need_weight, False)
        grad_x, grad_weight, _ = self.backend.kernels[linear.backward](grad, x, weight, needs)
        return grad_x, grad_weight, grad_bias


class LinearResidual(Function):
    """y = r + dropout(x W^T + b): shapes as Linear, r (..., O), see kernels/residual/.

    dr = G, and through the mask to dx, dW and db as in Linear. The mask is drawn again.
    """

    upcasts = True

    def forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        residual: Array | None,
        *,
        p: float,
        key: MaskSource | None,
    ) -> Array:
        """Return y; ValueError that names the shapes where they do not fit."""
        _check_linear(x, weight, bias)
        shape = (*x.shape[:-1], weight.shape[0])
        if residual is not None and (residual.shape, residual.dtype) != (shape, x.dtype):
            raise ValueError(
                f"linear: residual {residual.shape} {residual.dtype}; expected {shape} {x.dtype}"
            )
        self.saved = _kept(x, weight, self.needs)
        self.options = (p, key)
        product = self.backend.kernels[linear.forward](x, weight, None)
        return self.backend.kernels[residual_connection.forward](product, bias, residual, p, key)

    def backward(
        self, grad: Array
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        need_x, need_weight, need_bias, need_residual = self.needs
        dropped, grad_bias = self.backend.kernels[residual_connection.backward](
            grad, *self.options, need_bias
        )
        needs = (need_x, need_weight, False)
        x, weight = self.saved
        grad_x, grad_weight, _ = self.backend.kernels[linear.backward](dropped, x, weight, needs)
        return grad_x, grad_weight, grad_bias, grad if need_residual else None


def _kept(x: Array, weight: Array, needs: tuple[bool, ...]) -> tuple[Array | None, Array | None]:
    """Return of x and weight what the product's backward needs.

    A weight of another dtype than x is kept for its dtype, which is that of its gradient.
    """
    need_x, need_weight = needs[:2]
    return x if need_weight else None, weight if need_x or weight.dtype != x.dtype else None


def _check_linear(x: Array, weight: Array, bias: Array | None) -> None:
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: x {x.shape} and weight {weight.shape}; expected x (..., in) and weight "
            "(out, in)"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias {bias.shape}; expected {weight.shape[:1]}")


class Relu(Function):
    """y = max(x, 0): dx = G where y > 0, else 0, see kernels/relu/. y is saved."""

    upcasts = True

    def forward(self, x: Array) -> Array:
        y = self.backend.kernels[relu.forward](x)
        self.saved = (y,)
        return y

    def backward(self, grad: Array) -> Array:
        return self.backend.kernels[relu.backward](grad, self.saved[0])


class Gelu(Function):
    """y = x Phi(x): dx = G (Phi(x) + x Phi'(x)), see kernels/gelu/. x is saved."""

    upcasts = True

    def forward(self, x: Array, *, approximate: str) -> Array:
        self.saved = (x,)
        self.approximate = approximate
        return self.backend.kernels[gelu.forward](x, approximate)

    def backward(self, grad: Array) -> Array:
        return self.backend.kernels[gelu.backward](grad, self.saved[0], self.approximate)


class Softmax(Function):
    """y_i = exp(s x_i) / sum_j exp(s x_j) along `axis`, over what the mask lets take part.

    dx = s y (G - sum(G y)), see kernels/softmax/. y is saved.
    """

    upcasts = True

    def forward(
        self,
        x: Array,
        mask: Array | None,
        *,
        axis: int,
        causal: bool = False,
        scale: float = 1.0,
    ) -> Array:
        y = self.backend.kernels[softmax.forward](x, mask, axis, causal, scale)
        self.saved = (y, mask)
        self.options = (axis, causal, scale)
        return y

    def backward(self, grad: Array) -> tuple[Array, None]:
        """Return dx; what the mask hides of dy is ignored."""
        y, mask = self.saved
        if mask is not None:
            grad = select(mask, grad)
        return self.backend.kernels[softmax.backward](grad, y, *self.options), None


class LogSoftmax(Function):
    """y_i = x_i - log(sum_j exp(x_j)) along `axis`: dx = G - exp(y) sum(G). y is saved.

    See kernels/log_softmax/.
    """

    upcasts = True

    def forward(self, x: Array, *, axis: int) -> Array:
        y = self.backend.kernels[log_softmax.forward](x, axis)
        self.saved = (y,)
        self.axis = axis
        return y

    def backward(self, grad: Array) -> Array:
        return self.backend.kernels[log_softmax.backward](grad, self.saved[0], self.axis)


class LayerNorm(Function):
    """y = n w + b, n = (x - mean) * rstd over the last axis: x, y (..., C), w, b (C,).

    With g = G w: dx = rstd (g - mean(g) - n mean(g n)), dw = sum(G n), db = sum(G), see
    kernels/layernorm/. x, mean and rstd are saved.
    """

    upcasts = True
    adds = True
    name, differentiates = "layer_norm", staticmethod(layernorm.backward)

    def forward(self, x: Array, weight: Array | None, bias: Array | None, *, eps: float) -> Array:
        """Return y; ValueError that names the shapes where they do not fit."""
        self._check(x, weight, bias)
        y, mean, rstd = self.backend.kernels[layernorm.forward](x, weight, bias, eps)
        self.saved = (x, weight, mean, rstd)
        return y

    def _check(self, x: Array, weight: Array | None, bias: Array | None) -> None:
        if x.ndim == 0 or x.shape[-1] == 0:
            raise ValueError(f"{self.name}: x {x.shape}; expected a last axis to normalise over")
        for name, each in (("weight", weight), ("bias", bias)):
            if each is not None and each.shape != x.shape[-1:]:
                raise ValueError(
                    f"{self.name}: {name} {each.shape} for x {x.shape}; expected {x.shape[-1:]}"
                )

    def backward(self, grad: Array) -> tuple[Array | None, Array | None, Array | None]:
        need_x, need_weight, need_bias = self.needs
        return self.backend.kernels[self.differentiates](
            grad, layernorm.Saved(*self.saved), (need_x, need_weight, need_bias), self.addend
        )


class RMSNorm(LayerNorm):
    """y = n w + b, n = x rstd over the last axis: LayerNorm that takes the mean to be 0.

    dx = rstd (g - n mean(g n)).
    """

    name, differentiates = "rms_norm", staticmethod(layernorm.rms_backward)

    def forward(self, x: Array, weight: Array | None, bias: Array | None, *, eps: float) -> Array:
        """Return y; ValueError that names the shapes where they do not fit."""
        self._check(x, weight, bias)
        y, rstd = self.backend.kernels[layernorm.rms_forward](x, weight, bias, eps)
        self.saved = (x, weight, None, rstd)
        return y


class Embedding(Function):
    """y = W[idx] + a: integers (...,), W (V, C), y (..., C), a of the last axes of y.

    dW has the rows of G added up by index, da their sum, see kernels/embedding/. idx is saved.
    """

    upcasts = True

    def forward(self, idx: Array, weight: Array, addend: Array | None, *, dtype: np.dtype) -> Array:
        """Return weight[idx] + addend; ValueError that names the shapes where they do not fit."""
        if weight.ndim != 2:
            raise ValueError(f"embedding: weight {weight.shape}; expected (rows, columns)")
        shape = (*idx.shape, weight.shape[1])
        if addend is not None and (
            addend.ndim == 0 or shape[max(0, len(shape) - addend.ndim) :] != addend.shape
        ):
            raise ValueError(
                f"embedding: addend {addend.shape} for rows {shape}; expected their last axes"
            )
        self.saved = (idx,)
        self.rows, self.table_dtype = weight.shape[0], weight.dtype
        self.addend_shape = getattr(addend, "shape", ())
        return self.backend.kernels[embedding.forward](idx, weight, addend, dtype)

    def backward(self, grad: Array) -> tuple[None, Array | None, Array | None]:
        kernels, dtype = self.backend.kernels, self.table_dtype
        _, need_weight, need_addend = self.needs
        grad_weight = grad_addend = None
        if need_weight:
            grad_weight = kernels[embedding.backward](grad, self.saved[0], self.rows, dtype)
        if need_addend:
            grad_addend = kernels[embedding.backward_addend](grad, self.addend_shape, dtype)
        return None, grad_weight, grad_addend


class CrossEntropy(Function):
    """loss_i = log(sum_j exp(x_ij)) - x_it, t the target of row i.

    Logits x are (..., V), targets (...). dx = (softmax(x) - onehot(t)) G, and 0 where the target is
    ignored; over the number of targets that count for the mean, see kernels/cross_entropy/. Two
    statistics of each row are saved, and, of a version that computes it in the same pass, dx for G
    = 1.
    """

    upcasts = True

    def forward(self, logits: Array, targets: Array, *, reduction: str, ignore_index: int) -> Array:
        """Return the loss; ValueError that names the shapes where they do not fit."""
        if targets.shape != logits.shape[:-1]:
            raise ValueError(
                f"cross_entropy: logits {logits.shape} and targets {targets.shape}; expected "
                f"targets {logits.shape[:-1]}"
            )
        self.options = (reduction, ignore_index)
        kernels, gradient = self.backend.kernels, None
        given = (rows(logits), targets.reshape(-1), *self.options)
        both = kernels[cross_entropy.one_pass](*given) if self.needs[0] else NotImplemented
        if both is not NotImplemented:
            loss, statistics, gradient = both
        else:
            loss, statistics = kernels[cross_entropy.forward](*given)
        self.saved = (logits, targets, statistics, gradient)
        return loss.reshape(targets.shape) if reduction == "none" else loss

    def backward(self, grad: Array) -> tuple[Array, None]:
        logits, targets, statistics, gradient = self.saved
        kernels = self.backend.kernels
        grad = grad.reshape(-1) if self.options[0] == "none" else grad
        if gradient is not None:
            # It is changed in its place: a second walk over a graph that is kept finds none.
            self.saved = (logits, targets, statistics, None)
            dlogits = kernels[cross_entropy.rescale](grad, gradient)
        else:
            saved = cross_entropy.Saved(rows(logits), targets.reshape(-1), statistics)
            dlogits = kernels[cross_entropy.backward](grad, saved, *self.options)
        return dlogits.reshape(logits.shape), None


class Attention(Function):
    """O = (P * M) V, P = softmax(s Q K^T): Q (B, H, T, D), K (B, H, S, D), V (B, H, S, E).

    dV = (P * M)^T G, dS = P * ((G V^T) * M - sum(G * O)), dQ = s dS K, dK = s dS^T Q, with M the
    mask of dropout over 1 - p, see kernels/attention/. Q, K, V, O and two statistics of each query
    are saved; P is computed again.
    """

    upcasts = True

    def forward(self, q: Array, k: Array, v: Array, *, options: attention.Options) -> Array:
        """Return out (B, H, T, E); ValueError that names the shapes where they do not fit."""
        if (
            not q.ndim == k.ndim == v.ndim == 4
            or q.shape[:2] != k.shape[:2]
            or k.shape[:3] != v.shape[:3]
            or q.shape[3] != k.shape[3]
        ):
            raise ValueError(
                f"attention: q {q.shape}, k {k.shape}, v {v.shape}; expected (B, H, T, D), "
                "(B, H, S, D), (B, H, S, E)"
            )
        self.options = options
        out, statistics = self.backend.kernels[attention.forward](q, k, v, options)
        self.saved = (q, k, v, out, statistics)
        return out

    def backward(self, grad: Array) -> tuple[Array, Array, Array]:
        saved = attention.Saved(*self.saved)
        grads = (
            self.backend.empty(saved.q.shape, saved.q.dtype),
            self.backend.empty(saved.k.shape, saved.k.dtype),
            self.backend.empty(saved.v.shape, saved.v.dtype),
        )
        self.backend.kernels[attention.backward](grad, saved, grads, self.options)
        return grads


class SelfAttention(Function):
    """Attention of a sequence to itself, from queries, keys and values side by side.

    Reads and writes the heads as views of the packed arrays: nothing is cut up, transposed or
    put together again. With angles, queries and keys go through kernels/rotary/ first, and their
    gradients back through it.
    """

    upcasts = True

    def forward(
        self,
        qkv: Array,
        angles: Array | None,
        *,
        heads: int,
        options: attention.Options,
        cache: Any,
        normalize: bool,
    ) -> Array:
        """Return out (B, T, C) for qkv (B, T, 3C); ValueError where the shape does not fit."""
        if qkv.ndim != 3 or qkv.shape[2] % (3 * heads):
            raise ValueError(
                f"self_attention: qkv {qkv.shape} with {heads} heads; expected (B, T, 3C) with C "
                "a multiple of the heads"
            )
        self.heads, self.options = heads, options
        q, k, v = self._views(qkv)
        kernels = self.backend.kernels
        room = None if cache is None else cache.room(k, v)
        turned = None
        if angles is not None:
            turn, self.turn = kernels[rotary.forward], rotary.Options(heads, angles, normalize)
            if cache is None:
                turned = turn(qkv, self.turn)
            else:
                turned = kernels[rotary.cached](qkv, cache.filled, self.turn, turn)
            q, k = turned.transpose(2, 0, 3, 1, 4)
        if room is not None:
            taken = attention.Cache(room[0], room[1], cache.filled)
            attend = kernels[attention.forward]
            return self._join(kernels[attention.cached](q, k, v, taken, options, attend))
        out, statistics = kernels[attention.forward](q, k, v, options)
        self.saved = (qkv, turned, out, statistics)
        return self._join(out)

    def backward(self, grad: Array) -> tuple[Array, None]:
        qkv, turned, out, statistics = self.saved
        batch, length, width = qkv.shape
        grad = grad.reshape(batch, length, self.heads, width // (3 * self.heads))
        result = self.backend.empty(qkv.shape, qkv.dtype)
        q, k, v = self._views(qkv)
        if turned is not None:
            q, k = turned.transpose(2, 0, 3, 1, 4)
        saved = attention.Saved(q, k, v, out, statistics)
        self.backend.kernels[attention.backward](
            grad.transpose(0, 2, 1, 3), saved, self._views(result), self.options
        )
        if turned is not None:
            self.backend.kernels[rotary.backward](result, qkv, self.turn)
        return result, None

    def _views(self, qkv: Array) -> tuple[Array, Array, Array]:
        batch, length, width = qkv.shape
        parts = qkv.reshape(batch, length, 3, self.heads, width // (3 * self.heads))
        return tuple(parts.transpose(2, 0, 3, 1, 4))  # three times (B, H, T, D)

    def _join(self, out: Array) -> Array:
        batch, heads, length, size = out.shape
        return out.transpose(0, 2, 1, 3).reshape(batch, length, heads * size)


class CausalConvolution(Function):
    """y[t] = x[t] + sum_k w[k] x[t - k] along the positions of (B, T, C): w (K, C).

    dx[t] = G[t] + sum_k w[k] G[t + k], dw[k] = sum x[t] G[t + k], see kernels/causal_convolution/.
    x and w are saved.
    """

    upcasts = True

    def forward(self, x: Array, weight: Array, *, cache: Any) -> Array:
        kernels = self.backend.kernels
        if cache is not None:
            convolve = kernels[causal_convolution.forward]
            options = (cache.room(x), cache.filled, convolve)
            return kernels[causal_convolution.cached](x, weight, *options)
        self.saved = (x, weight)
        return kernels[causal_convolution.forward](x, weight)

    def backward(self, grad: Array) -> tuple[Array | None, Array | None]:
        x, weight = self.saved
        need_x, need_weight = self.needs
        return self.backend.kernels[causal_convolution.backward](
            grad, x, weight, (need_x, need_weight)
        )


class Dropout(Function):
    """y = x / (1 - p) where the key's mask keeps x, else 0; dx is the same of G.

    See kernels/dropout/. The key is saved, and the mask drawn again.
    """

    upcasts = True

    def forward(self, x: Array, *, p: float, key: DropoutKey) -> Array:
        self.options = (p, key)
        return self.backend.kernels[dropout.forward](x, *self.options)

    def backward(self, grad: Array) -> Array:
        return self.backend.kernels[dropout.backward](grad, *self.options)
