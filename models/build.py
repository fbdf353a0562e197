"""Models and optimizers from settings, and both back from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tinygrad_char.kernels.operations import Settings
from tinygrad_char.models.bigram import Bigram
from tinygrad_char.models.config import Device, TrainConfig
from tinygrad_char.models.errors import RunError, UsageError
from tinygrad_char.models.gpt import GPT, check_context
from tinygrad_char.models.run_state import ModelRecord
from tinygrad_char.models.schema import SchemaError, parse
from tinygrad_char.models.tokenizer import CharTokenizer
from tinygrad_char.random import Generator
from tinygrad_char.safetensors_file import TensorInfo

MODEL_PREFIX, OPTIMIZER_PREFIX, TRAINING_PREFIX = "model.", "optimizer.", "training."

T = TypeVar("T")


def build_model(config: TrainConfig, vocab_size: int, generator: Generator) -> GPT | Bigram:
    """Return the untrained model that the settings describe, on their device.

    Raises
    ------
    UsageError
        The precision is "auto": see precision.resolved.
    """
    if config.precision == "auto":
        raise UsageError("precision is auto; expected what models.precision.resolved makes of it")
    on_host = config.device == "cpu"
    if config.model == "bigram":
        model: GPT | Bigram = Bigram(vocab_size, config.gpt.block_size, generator=generator)
    else:
        model = GPT(config.gpt, vocab_size, generator=generator)
        model.low_precision = config.precision == "bf16" and not on_host
    settings = Settings(
        tf32=True if config.precision == "tf32" else None,
        bf16=True if config.precision == "bf16" and on_host else None,
        atomics=None if config.deterministic else True,
    )
    if settings != Settings():
        model.settings = settings
    return model.to(config.device)


def parameter_count(config: TrainConfig, vocab_size: int) -> tuple[int, int]:
    """Return how many parameters the model of these settings has, and elements in them.

    It is what a file is compared with before anything of that size is made.
    """
    if config.model == "bigram":
        return 1, vocab_size * vocab_size
    shape = config.gpt
    width, layers, bias = shape.n_embd, shape.n_layer, int(shape.bias)
    norms = (2 * layers + 1) * (1 + (bias and shape.norm == "layernorm"))
    tensors = 1 + norms + (1 + bias) * 3 * layers + layers
    elements = vocab_size * width + norms * width
    elements += layers * (12 * width * width + bias * 6 * width)  # attention, feed-forward
    if shape.positions == "learned":
        tensors += 1
        elements += shape.block_size * width
    if shape.convolution:
        tensors += layers
        elements += layers * shape.convolution * width
    if not shape.tied:
        tensors += 1 + bias
        elements += vocab_size * (width + bias)
    return tensors, elements


@dataclass
class Loaded:
    """What a checkpoint holds: the model with its weights, and what belongs to it.

    Of `metadata`, what is not checked yet is read by `part`.
    """

    path: Path
    model: GPT | Bigram
    tokenizer: CharTokenizer
    config: TrainConfig
    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any]

    def part(self, schema: type[T], purpose: str = "continued") -> T:
        """Return what the metadata say of one thing, checked.

        Raises
        ------
        RunError
            It is missing or damaged; the message names the first such value.
        """
        try:
            return parse(schema, self.metadata, extra=True)
        except SchemaError as error:
            raise RunError(f"{str(self.path)!r} cannot be {purpose}: {error}") from error


def load_checkpoint(path: Path, device: Device | None = None) -> Loaded:
    """Return the model of a checkpoint, for evaluation, on its own device or another.

    Nothing is built before the sizes in the file are found to be those of the model that its
    settings describe.

    Raises
    ------
    RunError
        The file cannot be read, was altered, does not hold what its settings describe, or holds
        weights that are not finite numbers.
    """
    from tinygrad_char import checkpoint

    record: ModelRecord | None = None
    tokenizer: CharTokenizer | None = None

    def check(described: Mapping[str, TensorInfo], metadata: dict[str, Any]) -> None:
        nonlocal record, tokenizer
        try:
            record = parse(ModelRecord, metadata, extra=True)
            check_context(record.config.gpt)
            tokenizer = CharTokenizer(record.vocabulary)
        except (SchemaError, UsageError) as error:
            raise RunError(f"{str(path)!r} holds no model that can be used: {error}") from error
        weights = [each for name, each in described.items() if name.startswith(MODEL_PREFIX)]
        given = len(weights), sum(math.prod(each.shape) for each in weights)
        expected = parameter_count(record.config, len(tokenizer))
        if given != expected:
            raise RunError(
                f"{str(path)!r} does not hold the model that its settings describe: {given[0]:,} "
                f"parameters with {given[1]:,} elements, expected {expected[0]:,} with "
                f"{expected[1]:,}"
            )

    try:
        tensors, metadata = checkpoint.load(path, check)
    except checkpoint.CheckpointError as error:
        raise RunError(str(error)) from error
    assert record is not None
    assert tokenizer is not None
    config = record.config
    if device is not None:
        # What a device keeps in bfloat16 is float32 on the CPU, whose bf16 rounds less.
        on_cpu = device == "cpu" != config.device
        precision = "float32" if on_cpu else config.precision
        config = replace(config, device=device, precision=precision)
    weights = {
        name.removeprefix(MODEL_PREFIX): array
        for name, array in tensors.items()
        if name.startswith(MODEL_PREFIX)
    }
    check_finite(path, weights)
    model = build_model(config, len(tokenizer), Generator(config.seed))
    try:
        model.load_state_dict(weights)
    except ValueError as error:
        raise RunError(
            f"{str(path)!r} does not hold the model that its settings describe: {error}"
        ) from None
    return Loaded(path, model.eval(), tokenizer, config, tensors, metadata)


def check_finite(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise RunError that names the first tensor of a checkpoint that has NaN or infinities."""
    for name, array in tensors.items():
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            wrong = array.size - int(np.isfinite(array).sum())
            raise RunError(
                f"{str(path)!r} cannot be used: {wrong:,} of the {array.size:,} elements of "
                f"{name!r} are not finite. Use another checkpoint."
            )
