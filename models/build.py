"""Models and optimizers from settings, and both back from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kernels.devices import get_backend
from models.bigram import Bigram
from models.config import Device, TrainConfig
from models.errors import RunError, UsageError
from models.gpt import GPT
from models.tokenizer import CharTokenizer
from tinygrad_char.random import Generator

MODEL_PREFIX, OPTIMIZER_PREFIX = "model.", "optimizer."


def build_model(config: TrainConfig, vocab_size: int, generator: Generator) -> GPT | Bigram:
    """Return the untrained model that the settings describe, on their device."""
    if config.model == "bigram":
        model: GPT | Bigram = Bigram(vocab_size, config.gpt.block_size, generator=generator)
    else:
        model = GPT(config.gpt, vocab_size, generator=generator)
        model.low_precision = config.precision == "bf16"
    backend = get_backend(config.device)
    backend.use_tf32(config.precision == "tf32")
    backend.use_atomics(not config.deterministic)
    return model.to(config.device)


@dataclass
class Loaded:
    """What a checkpoint holds: the model with its weights, and what belongs to it."""

    path: Path
    model: GPT | Bigram
    tokenizer: CharTokenizer
    config: TrainConfig
    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any]


def load_checkpoint(path: Path, device: Device | None = None) -> Loaded:
    """Return the model of a checkpoint, for evaluation, on its own device or another.

    Raises
    ------
    RunError
        The file cannot be read, was altered, or does not hold what its settings describe.
    """
    from tinygrad_char import checkpoint

    try:
        tensors, metadata = checkpoint.load(path)
    except checkpoint.CheckpointError as error:
        raise RunError(str(error)) from error
    try:
        config = TrainConfig.from_json(metadata["config"])
        tokenizer = CharTokenizer(metadata["vocabulary"])
    except (AttributeError, KeyError, TypeError, UsageError) as error:
        raise RunError(f"{path} holds no model that can be used: {error!r}") from error
    if device is not None:
        precision = "float32" if device == "cpu" else config.precision
        config = replace(config, device=device, precision=precision)
    model = build_model(config, len(tokenizer), Generator(config.seed))
    weights = {
        name.removeprefix(MODEL_PREFIX): array
        for name, array in tensors.items()
        if name.startswith(MODEL_PREFIX)
    }
    try:
        model.load_state_dict(weights)
    except ValueError as error:
        raise RunError(
            f"{path} does not hold the model that its settings describe: {error}"
        ) from None
    return Loaded(path, model.eval(), tokenizer, config, tensors, metadata)
