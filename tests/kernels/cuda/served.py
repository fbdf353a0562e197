"""Operations as a launcher's kernels serve them, on NumPy's arrays, and masks from elsewhere."""

import numpy as np

from tinygrad_char.kernels.cuda.backend import assemble
from tinygrad_char.kernels.operations import Settings


def served(name, launcher, products=None, **settings):
    """Return an operation's functions, of which the launcher's kernels serve what they can."""
    backend = assemble("kernels", np, np.ndarray, launcher, products, None)
    return backend.under(Settings(**settings)).operation(name)


class Alternating:
    """A mask from elsewhere: every second element is kept."""

    def keep_mask(self, shape, p, start):
        return np.arange(np.prod(shape)).reshape(shape) % 2 == 0

    def keep_scale(self, p, dtype):
        return 3.0
