"""The Euclidean norm of a flat buffer of gradients, by which they are clipped.

Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063.
"""

from kernels.array import Array, namespace


def forward(grad: Array) -> Array:
    """Return sqrt(sum(grad^2)) as an array of shape (), on the device of `grad`."""
    xp = namespace(grad)
    return xp.sqrt((grad * grad).sum(keepdims=True)).reshape(())
