"""The dropout masks that CUDA kernels can draw themselves."""

from typing import Any, NamedTuple

import numpy as np

from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.dropout import DropoutKey, MaskSource, keep_scale, threshold


class RecordedKey(NamedTuple):
    """The source of the masks of a dropout call in a recorded graph.

    Its call's number is `call` plus what `recorded` (1,) uint64, on the device, holds whenever the
    graph is repeated.
    """

    seed: int
    call: int
    recorded: Array

    def keep_mask(self, shape: tuple[int, ...], p: float, block: int) -> np.ndarray:
        """Return the mask of this repetition's call; the host waits for the device."""
        call = (self.call + int(self.recorded[0])) % (1 << 64)
        return DropoutKey(self.seed, call).keep_mask(shape, p, block)

    def keep_scale(self, p: float, dtype: np.dtype) -> float:
        """Return 1 / (1 - p), for the p that the mask really has."""
        return keep_scale(p)


def can_draw(p: float, key: MaskSource | None) -> bool:
    """Return whether kernels can draw this key's masks; with p = 0 there is nothing to draw."""
    return p == 0 or key is None or isinstance(key, DropoutKey | RecordedKey)


def mask_arguments(p: float, key: Any) -> tuple[Any, ...]:
    """Return the arguments from which a kernel makes its Mask (philox.cuh)."""
    if p == 0 or key is None:
        return np.uint64(0), np.uint64(0), None, np.uint32(0), np.float32(1)
    return (
        np.uint64(key.seed),
        np.uint64(key.call),
        key.recorded if isinstance(key, RecordedKey) else None,
        np.uint32(threshold(p)),
        np.float32(keep_scale(p)),
    )
