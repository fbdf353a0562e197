"""One step of Adam or AdamW on a flat buffer."""

from tinygrad_char.kernels.adamw.reference import (
    CHUNK,
    FACTORS,
    Rule,
    count_step,
    update,
    update_recorded,
)

__all__ = ["CHUNK", "FACTORS", "Rule", "count_step", "update", "update_recorded"]
