"""Cross entropy in C, for contiguous float32 arrays of the host: see reference.py."""

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.cpu.arguments import as_int64, fits
from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.cpu.recording import empty
from tinygrad_char.kernels.cross_entropy.reference import Saved


def forward(
    logits: Array, targets: Array, reduction: str = "mean", ignore_index: int = -100
) -> tuple[Array, Array]:
    indices, counted = _count_targets(logits, targets, ignore_index)
    if counted < 0:
        return NotImplemented
    losses, statistics = empty(targets.shape), empty((len(targets), 2))
    loss = None if reduction == "none" else empty(())
    compiled.cross_entropy_forward(
        *(logits, indices, losses, statistics, loss),
        *(*logits.shape, ignore_index, counted if reduction == "mean" else 1),
    )
    return losses if loss is None else loss, statistics


def backward(grad: Array, saved: Saved, reduction: str = "mean", ignore_index: int = -100) -> Array:
    logits, targets, statistics = saved
    # without a reduction the reference serves
    indices, counted = _count_targets(logits, targets, ignore_index)
    if counted < 0 or reduction == "none" or not fits(grad):
        return NotImplemented
    divisor = max(counted, 1) if reduction == "mean" else 1
    dlogits = empty(logits.shape)
    compiled.cross_entropy_backward(
        grad, logits, indices, statistics, dlogits, *logits.shape, ignore_index, divisor
    )
    return dlogits


def _count_targets(logits: Array, targets: Array, ignore_index: int) -> tuple[Array, int]:
    """Return the targets as int64, and how many count: -1 where the reference has to serve."""
    if not fits(logits):
        return targets, -1
    indices = as_int64(targets)
    return indices, compiled.count_targets(indices, *logits.shape, ignore_index)
