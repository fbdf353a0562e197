"""How far a result may be from the truth: units of rounding times a scale that the test derives."""

import numpy as np

SIZES = (1, 2, 3, 7, 31, 33, 65, 127, 129)


def assert_close(actual, truth, scale, units=8):
    """Assert |actual - truth| <= units * eps(actual's dtype) * scale, elementwise."""
    assert actual.shape == truth.shape
    eps = np.finfo(actual.dtype).eps
    error = np.abs(actual.astype(np.float64) - truth)
    allowed = units * eps * np.broadcast_to(scale, truth.shape)
    worst = (error - allowed).argmax() if error.size else None
    assert not np.isnan(actual).any()
    assert (error <= allowed).all(), (
        f"error {error.flat[worst]:.3g} where {allowed.flat[worst]:.3g} is allowed"
    )


def ulps(actual, truth):
    """Return the distance in units in the last place of actual's dtype."""
    spacing = np.spacing(np.abs(truth).astype(actual.dtype)).astype(np.float64)
    return np.abs(actual.astype(np.float64) - truth.astype(np.float64)) / spacing
