"""What a checkpoint of a run says besides its tensors: the schema of its metadata.

Each part is checked as a whole before any of it is used; what a later version adds to the whole is
left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tinygrad_char.models.config import TrainConfig
from tinygrad_char.models.schema import Natural, Pattern, Range, SchemaError

Word32 = Annotated[int, Range(0, (1 << 32) - 1)]
Word64 = Annotated[int, Range(0, (1 << 64) - 1)]
Word128 = Annotated[int, Range(0, (1 << 128) - 1)]


@dataclass(frozen=True)
class BitsCounter:
    """The state of a PCG64DXSM."""

    state: Word128
    inc: Word128

    def __post_init__(self) -> None:
        if self.inc % 2 == 0:  # then it repeats itself early, even at once: a draw may never end
            raise SchemaError(f"inc is {self.inc}, expected an odd number")


@dataclass(frozen=True)
class Bits:
    """What NumPy keeps of its bit generator."""

    bit_generator: Literal["PCG64DXSM"]
    state: BitsCounter
    has_uint32: Annotated[int, Range(0, 1)]
    uinteger: Word32


@dataclass(frozen=True)
class StreamState:
    """One stream of random numbers, and the next of its dropout keys."""

    bits: Bits
    key: Word64
    calls: Natural


@dataclass(frozen=True)
class RandomState:
    """All streams of a generator."""

    seed: Word64
    init: StreamState
    batches: StreamState
    dropout: StreamState
    sampling: StreamState


@dataclass(frozen=True)
class Step:
    """How far a run had come."""

    step: Natural


@dataclass(frozen=True)
class TrainerState:
    """Where a run stood, without its tensors."""

    step: Natural
    random: RandomState
    best_loss: Annotated[float, Range(0.0)]
    best_step: Natural
    evaluated: bool

    def __post_init__(self) -> None:
        if self.best_step > self.step:
            raise SchemaError(f"'best_step' is {self.best_step}, but 'step' is {self.step}")


@dataclass(frozen=True)
class TextRecord:
    """Which text a run learns from."""

    argument: Annotated[str, Pattern("the name of a text", r"[^\0]+")]
    """What it was called. Somebody else may have written this: `trusted_argument` decides."""
    characters: Natural
    sha256: Annotated[str, Pattern("64 hexadecimal digits", r"[0-9a-f]{64}")]
    inode: Natural | None = None
    """The file's number on its disk, where it was a file."""


@dataclass(frozen=True)
class FolderState:
    """What else there was in the run's folder."""

    data: TextRecord
    metrics: Natural
    """Records in metrics.jsonl."""


@dataclass(frozen=True)
class ModelRecord:
    """What a model is built from."""

    config: TrainConfig
    vocabulary: str
