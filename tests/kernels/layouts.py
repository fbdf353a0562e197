"""Arrays whose elements lie in memory in other orders than that of their axes."""

import numpy as np
from hypothesis import strategies as st


def draw(rng, shape, laid_out):
    """Return float32 elements whose memory is contiguous, or that of another order of the axes."""
    if laid_out == "contiguous":
        return rng.standard_normal(shape, np.float32)
    if laid_out == "transposed":
        return rng.standard_normal((*shape[:-2], *shape[:-3:-1]), np.float32).swapaxes(-1, -2)
    return rng.standard_normal((*shape[:-1], 2 * shape[-1]), np.float32)[..., ::2]


LAYOUTS = st.sampled_from(["contiguous", "transposed", "stepped"])
