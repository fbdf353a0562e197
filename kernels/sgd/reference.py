"""One step of stochastic gradient descent on a flat buffer."""

from tinygrad_char.kernels.array import Array, in_float32


@in_float32
def update(
    parameter: Array,
    grad: Array,
    velocity: Array | None,
    *,
    step: int,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    grad_scale: float = 1.0,
) -> None:
    """Update parameter, and velocity where there is momentum, in place (`step` counts from 1).

    g = grad_scale * grad + weight_decay * p;  u = momentum u + g (u = g at the first step);
    p -= lr * u, or lr * (g + momentum u) with Nesterov's momentum (Sutskever et al. 2013).
    """
    dtype = parameter.dtype.type
    g = grad * dtype(grad_scale)
    if weight_decay != 0.0:
        g += parameter * dtype(weight_decay)
    if velocity is not None:
        if step == 1:
            velocity[...] = g
        else:
            velocity *= dtype(momentum)
            velocity += g
        g = g + velocity * dtype(momentum) if nesterov else velocity
    parameter -= g * dtype(lr)
