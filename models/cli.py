"""The command line: what each command takes, and how its end becomes an exit code."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from kernels.backend import DeviceError
from models.build import load_checkpoint
from models.config import PRESETS, SMALL, Device, PresetName, TrainConfig
from models.corpus import load_corpus
from models.errors import RunError, UsageError
from models.run_folder import RunFolder, resolve_checkpoint
from models.tokenizer import UnknownPolicy

RUNS = "runs"


@dataclass(frozen=True)
class Train:
    """Train a model on text, and keep it in a run folder.

    Without options: a small GPT on tiny Shakespeare, in about a minute. Every setting below
    starts from the preset and can be changed. Ctrl-C saves; --resume continues to the same digits.
    """

    preset: PresetName = "small"
    """Settings to start from."""
    data: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Text to learn: a UTF-8 file, "shakespeare" (downloaded once, the default) or "pydoc" (the
    documentation that comes with Python)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """New folder for the run; otherwise a numbered one under runs/."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Run folder or checkpoint to continue, with its settings unless changed here."""
    config: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=lambda: SMALL)
    json: bool = False
    """Print the result as JSON, and everything else to the standard error stream."""

    def __call__(self) -> int:
        """Train; the exit code is 130 or 143 after a signal that was answered by saving."""
        from models.train import train

        console = Console(stderr=self.json)

        def notify(text: str) -> None:
            console.print(text, highlight=False, markup=False)

        resumed = data = None
        if self.resume:
            if self.out:
                raise UsageError("--out and --resume exclude each other: a run stays in its folder")
            resumed = load_checkpoint(resolve_checkpoint(self.resume, "last"), self.config.device)
            _check_same_model(resumed.config, self.config)
            data = resumed.metadata["data"]["argument"]
        corpus = load_corpus(self.data or data, notify)
        if resumed:
            folder = RunFolder.open(resumed.path.parent)
        else:
            _check_trainable(self.config, corpus.text)
            name = f"{self.preset if self.config.model == 'gpt' else 'bigram'}-{corpus.name}"
            folder = (
                RunFolder.create(self.out) if self.out else RunFolder.create_numbered(RUNS, name)
            )
        notify(_describe_run(self.config, corpus.name, corpus.text, folder))
        result = train(self.config, corpus, folder, console, resumed)
        if self.json:
            _print_json(asdict(result))
        return result.exit_code


@dataclass(frozen=True)
class Generate:
    """Write text with a trained model, character by character."""

    run: tyro.conf.Positional[Path | None] = None
    """Run folder or checkpoint; otherwise the latest run under runs/."""
    prompt: str = ""
    """Text to continue; empty starts at a new line."""
    length: int = 500
    """Characters to write."""
    samples: int = 1
    """Texts to write at once, each independent of how many there are."""
    temperature: float = 0.8
    """Below 1 safer, above 1 wilder; 0 always takes the likeliest character."""
    top_k: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Choose among the k likeliest characters only."""
    top_p: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Choose among the fewest likeliest characters that together have this probability."""
    stop: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """End a text before this string."""
    seed: int = 1337
    """Equal seeds give equal texts."""
    unknown: UnknownPolicy = "error"
    """What to do with characters of the prompt that the model never saw."""
    checkpoint: Literal["best", "last"] = "best"
    """Which weights of a run folder: of the lowest validation loss, or of the last step."""
    slide: bool = False
    """Beyond the model's context, forget one character at a time (slow, as published notebooks
    do) instead of the older half."""
    device: Device = "cpu"
    """Where to compute."""
    json: bool = False
    """Print the texts as JSON when they are complete."""

    def __call__(self) -> int:
        """Generate; the first text is shown as it comes, the others after it."""
        from models.generate import Sampling, StopFilter, encode_prompt, generate
        from tinygrad_char.random import sampling_streams

        sampling = Sampling(self.temperature, self.top_k, self.top_p)
        for name, value, least in (("length", self.length, 0), ("samples", self.samples, 1)):
            if value < least:
                raise UsageError(f"{name} is {value}; expected a whole number from {least}")
        streams = _usage(sampling_streams, self.seed, self.samples)
        loaded = load_checkpoint(
            resolve_checkpoint(_run_or_latest(self.run), self.checkpoint), self.device
        )
        prompt = encode_prompt(self.prompt, loaded.tokenizer, self.unknown)
        filters = [StopFilter(self.stop) for _ in streams]
        texts = [self.prompt] * len(streams)
        live = not self.json

        def show(sample: int, text: str) -> None:
            texts[sample] += text
            if live and sample == 0:
                sys.stdout.write(text)
                sys.stdout.flush()

        if live:
            sys.stdout.write(self.prompt)
        for tokens in generate(
            loaded.model, prompt, self.length, sampling, streams, slide=self.slide
        ):
            characters = loaded.tokenizer.decode(tokens)
            for sample, character in enumerate(characters):
                show(sample, filters[sample].feed(character))
            if all(each.stopped for each in filters):
                break
        for sample, each in enumerate(filters):
            show(sample, each.finish())
        if self.json:
            _print_json({"checkpoint": str(loaded.path), "prompt": self.prompt, "texts": texts})
        else:
            rest = "".join(f"\n\n--- {i + 2} ---\n{text}" for i, text in enumerate(texts[1:]))
            sys.stdout.write(rest + "\n")
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained model's loss on every character of a split."""

    run: tyro.conf.Positional[Path | None] = None
    """Run folder or checkpoint; otherwise the latest run under runs/."""
    data: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Text to measure on; otherwise the one that the model was trained on."""
    split: Literal["validation", "train", "all"] = "validation"
    """The last tenth of the text, the rest, or all of it."""
    checkpoint: Literal["best", "last"] = "best"
    """Which weights of a run folder: of the lowest validation loss, or of the last step."""
    unknown: UnknownPolicy = "error"
    """What to do with characters that the model never saw."""
    device: Device = "cpu"
    """Where to compute."""
    json: bool = False
    """Print the result as JSON."""

    def __call__(self) -> int:
        """Print the loss in nats and bits per character, and the perplexity."""
        from models.batches import split_corpus
        from models.evaluate import whole_split_loss

        loaded = load_checkpoint(
            resolve_checkpoint(_run_or_latest(self.run), self.checkpoint), self.device
        )
        console = Console(stderr=self.json)
        corpus = load_corpus(
            self.data or loaded.metadata["data"]["argument"],
            lambda text: console.print(text, highlight=False, markup=False),
        )
        tokens = loaded.tokenizer.encode(corpus.text, self.unknown)
        if self.split != "all":
            tokens = getattr(split_corpus(tokens, loaded.model.block_size), self.split)
        if len(tokens) < 2:
            raise UsageError(
                f"{corpus.name} has {len(tokens)} known characters; expected at least 2"
            )
        loss = whole_split_loss(loaded.model, tokens)
        values = {
            "checkpoint": str(loaded.path),
            "step": loaded.metadata["step"],
            "text": corpus.name,
            "split": self.split,
            "characters": loss.characters,
            "nats_per_character": loss.nats,
            "bits_per_character": loss.bits_per_character,
            "perplexity": loss.perplexity,
        }
        _print_values(values, self.json)
        return 0


@dataclass(frozen=True)
class Data:
    """Describe a text as the models see it: its size, its characters, its splits."""

    data: tyro.conf.Positional[str | None] = None
    """A UTF-8 file, "shakespeare" (the default) or "pydoc"."""
    json: bool = False
    """Print the description as JSON."""

    def __call__(self) -> int:
        """Print the description."""
        from models.batches import split_corpus
        from models.tokenizer import CharTokenizer

        console = Console(stderr=self.json)
        corpus = load_corpus(
            self.data, lambda text: console.print(text, highlight=False, markup=False)
        )
        tokenizer = CharTokenizer.from_text(corpus.text)
        split = split_corpus(tokenizer.encode(corpus.text), 1)
        values = {
            "name": corpus.name,
            "source": corpus.source,
            "sha256": corpus.sha256,
            "characters": len(corpus.text),
            "lines": corpus.text.count("\n") + 1,
            "training": len(split.train),
            "validation": len(split.validation),
            "vocabulary_size": len(tokenizer),
            "vocabulary": tokenizer.characters if self.json else repr(tokenizer.characters),
        }
        _print_values(values, self.json)
        return 0


@dataclass(frozen=True)
class Doctor:
    """Say what this installation runs on: versions, products, threads, kernels, GPU, text."""

    json: bool = False
    """Print the findings as JSON."""

    def __call__(self) -> int:
        """Print the findings."""
        from models.doctor import examine

        _print_values(examine(), self.json)
        return 0


def run(arguments: list[str]) -> int:
    """Run the command that the arguments name and return its exit code."""
    try:
        command = tyro.cli(
            _commands(arguments),
            args=arguments,
            prog="tinygrad-char",
            description=DESCRIPTION,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        code = command()
        sys.stdout.flush()
    except SystemExit as end:  # tyro has shown the help, or what was wrong
        return end.code if isinstance(end.code, int) else 2
    except UsageError as error:
        return _fail(error, 2)
    except (RunError, DeviceError) as error:
        return _fail(error, 1)
    except MemoryError as error:
        return _fail(
            f"out of memory ({error or 'no details'}); lower --batch-size, --block-size or "
            "--n-embd, or split a batch with --accumulate",
            1,
        )
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


DESCRIPTION = (
    "Character language models on an autograd engine of their own, NumPy and CuPy underneath. "
    "Start with: tinygrad-char train"
)


def _commands(arguments: list[str]) -> Any:
    """Return the commands, with train's settings from --resume or --preset as defaults."""
    config = SMALL
    if arguments[:1] == ["train"]:
        resume, preset = _option(arguments, "--resume"), _option(arguments, "--preset")
        if resume:
            config = load_checkpoint(resolve_checkpoint(resume, "last")).config
        elif preset in PRESETS:
            config = PRESETS[preset]
    default = Train(config=config)
    command = tyro.conf.subcommand
    return (
        Annotated[Train, command("train", default=default)]
        | Annotated[Generate, command("generate")]
        | Annotated[Evaluate, command("evaluate")]
        | Annotated[Data, command("data")]
        | Annotated[Doctor, command("doctor")]
    )


def _option(arguments: list[str], name: str) -> str | None:
    """Return the last value given for an option, before the arguments are parsed in full."""
    value = None
    for position, argument in enumerate(arguments):
        if argument == name and position + 1 < len(arguments):
            value = arguments[position + 1]
        elif argument.startswith(name + "="):
            value = argument[len(name) + 1 :]
    return value


def _check_same_model(before: TrainConfig, now: TrainConfig) -> None:
    shapes = [{"model": each.model, **asdict(each.gpt)} for each in (before, now)]
    changed = [name for name in shapes[0] if shapes[0][name] != shapes[1][name]]
    if changed:
        name = changed[0]
        raise UsageError(
            f"{name} is {shapes[1][name]!r}, but the checkpoint's is {shapes[0][name]!r}: a "
            "resumed run keeps its model; leave the option out, or start without --resume"
        )


def _check_trainable(config: TrainConfig, text: str) -> None:
    """Find out before a folder is made what would end the run at once."""
    from kernels.backend import get_backend
    from models.batches import split_corpus

    get_backend(config.device)
    split_corpus(range(len(text)), config.gpt.block_size)  # type: ignore[arg-type]


def _describe_run(config: TrainConfig, name: str, text: str, folder: RunFolder) -> str:
    shape = config.gpt
    what = (
        f"GPT with {shape.n_layer} layers, {shape.n_head} heads, {shape.n_embd} channels, "
        f"{shape.block_size} characters of context"
        if config.model == "gpt"
        else "bigram model"
    )
    return f"{what}; {name}, {len(text):,} characters; {folder.path}"


def _run_or_latest(path: Path | None) -> Path:
    if path is not None:
        return path
    checkpoints = sorted(
        Path(RUNS).glob("*/last.safetensors"), key=lambda each: each.stat().st_mtime
    )
    if not checkpoints:
        raise UsageError(
            f"no run under {RUNS}/ here: give a run folder or a checkpoint, or make one with "
            "`tinygrad-char train`"
        )
    return checkpoints[-1].parent


def _usage(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _print_json(values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")


def _print_values(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(values)
        return
    width = max(len(name) for name in values)
    for name, value in values.items():
        if isinstance(value, float):
            value = f"{value:.4f}"
        elif isinstance(value, int):
            value = f"{value:,}"
        sys.stdout.write(f"{name.replace('_', ' '):{width}}  {value}\n")


def _fail(error: object, code: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"error: {error}\n")
    return code
