"""One step of Muon on matrices of one shape, which lie in a flat buffer."""

from tinygrad_char.kernels.muon.reference import (
    COEFFICIENTS,
    Matrices,
    Rates,
    Rule,
    orthogonalize,
    stretch,
    update,
    update_recorded,
)

__all__ = [
    "COEFFICIENTS",
    "Matrices",
    "Rates",
    "Rule",
    "orthogonalize",
    "stretch",
    "update",
    "update_recorded",
]
