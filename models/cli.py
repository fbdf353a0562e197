"""The command line: what each command takes, and how its end becomes an exit code."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import tyro

from tinygrad_char import __version__
from tinygrad_char.kernels import operations
from tinygrad_char.kernels.backend import DeviceError
from tinygrad_char.kernels.devices import DEVICES, get_backend
from tinygrad_char.kernels.words import EnvironmentVariableError, choice, shorten
from tinygrad_char.models.build import Loaded, load_checkpoint
from tinygrad_char.models.config import PRESETS, SMALL, Device, PresetName, TrainConfig
from tinygrad_char.models.console import PlainConsole
from tinygrad_char.models.corpus import load_corpus
from tinygrad_char.models.errors import RunError, UsageError
from tinygrad_char.models.escape import escaped, quoted, write
from tinygrad_char.models.latest import latest_run, steps_made
from tinygrad_char.models.precision import (
    check_precision,
    describe_emulation,
    emulates,
    resolved,
)
from tinygrad_char.models.recorded_text import trusted_argument
from tinygrad_char.models.run_folder import RunFolder, resolve_checkpoint
from tinygrad_char.models.run_state import FolderState, ModelRecord, Step
from tinygrad_char.models.schema import LARGEST
from tinygrad_char.models.tokenizer import UnknownPolicy
from tinygrad_char.step import Way, stepping

if TYPE_CHECKING:
    from tinygrad_char.models.train import Result

RUNS = "runs"
DEVICE_VARIABLE = "TINYGRAD_CHAR_DEVICE"
LONGEST_SHOWN = 120
"""Characters of an argument in the messages about it; longer ones lose their middle."""
BROKEN_PIPE = 128 + 13  # how shells report a program that SIGPIPE ended


def _argument(metavar: str, default: str | None = None) -> Any:
    """Name an option's value in the help, and say in words what holds where it is left out."""
    hint = "" if default is None else f"(default: {default})"
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)


# The help shows a setting's text as it stands in the file, line breaks included: one line each.
Run = Annotated[Path | None, _argument("[RUN]", f"the latest run under {RUNS}/")]
Kernels = Annotated[str | None, _argument("OPERATION=VERSION,...", "the fastest")]
Flag = tyro.conf.FlagCreatePairsOff[Annotated[bool, tyro.conf.arg(help_behavior_hint="")]]


@dataclass(frozen=True)
class Train:
    """Train a model on text, and keep it in a run folder.

    Without options: a small GPT on tiny Shakespeare, in half a minute or so.

    Ctrl-C saves and stops; --resume continues, to the same digits as without the pause.
    """

    preset: PresetName = "small"
    """All settings at once: tiny takes seconds, medium minutes, full hours without a GPU."""
    data: Annotated[str | None, _argument("FILE", "shakespeare, downloaded once")] = None
    """Text to learn: a UTF-8 file, "shakespeare", or "pydoc" (Python's own documentation)."""
    out: Annotated[Path | None, _argument("FOLDER", f"a numbered one under {RUNS}/")] = None
    """New folder for the run."""
    resume: Annotated[Path | None, _argument("RUN")] = None
    """Run folder or checkpoint to continue, with its settings unless changed here."""
    kernels: Kernels = None
    """Versions of operations, such as layernorm=loops,attention=reference; "reference" for all."""
    step: Annotated[Way | None, _argument("{recorded,tape}", "recorded")] = None
    """With "tape" every step meets a print or a breakpoint in a backward pass, and takes longer."""
    json: Flag = False
    """Print the result as JSON, and everything else to the standard error stream."""
    config: tyro.conf.OmitArgPrefixes[Annotated[TrainConfig, tyro.conf.arg(name="")]] = field(
        default_factory=lambda: SMALL
    )

    def __call__(self) -> int:
        """Train; the exit code is 128 + N after signal N, which was answered by saving."""
        step = contextlib.nullcontext() if self.step is None else stepping(self.step)
        try:
            with _computing(self.kernels, self.config.device), step:
                result = self._train(PlainConsole(stderr=self.json))
        except BrokenPipeError:  # nobody reads on; what there was is saved
            return BROKEN_PIPE
        try:
            if self.json:
                _print_json(asdict(result))
            sys.stdout.flush()
        except OSError:
            if not result.exit_code:
                raise
            _discard_output()  # after a signal, perhaps of the terminal that is gone with it
        return result.exit_code

    def _train(self, console: PlainConsole) -> Result:
        from tinygrad_char.models.memory import keep_freed_memory
        from tinygrad_char.models.train import train
        from tinygrad_char.parallel import keep_blas_to_quota

        keep_freed_memory()
        keep_blas_to_quota()
        config = resolved(self.config)
        if self.resume:
            if self.out:
                raise UsageError("--out and --resume exclude each other: a run stays in its folder")
            path = resolve_checkpoint(self.resume, "last")
            folder = RunFolder.open(path.parent)
            with folder.lock():  # before reading: until then, another process may be training
                resumed = load_checkpoint(path, config.device)
                before = resumed.part(ModelRecord).config
                _check_same_model(before, config)
                check_precision(config, before)
                argument = self.data
                if argument is None:
                    argument = trusted_argument(path, resumed.part(FolderState).data)
                corpus = load_corpus(argument, console.note)
                return train(config, corpus, folder, console, resumed)
        check_precision(config)
        corpus = load_corpus(self.data, console.note)
        _check_trainable(config, len(corpus))
        name = f"{self.preset if config.model == 'gpt' else 'bigram'}-{corpus.name}"
        folder = (
            RunFolder.create_numbered(RUNS, name)
            if self.out is None
            else RunFolder.create(self.out)
        )
        with folder.lock():
            return train(config, corpus, folder, console)


@dataclass(frozen=True)
class Generate:
    """Write text with a trained model, character by character."""

    run: tyro.conf.Positional[Run] = None
    """Run folder or checkpoint."""
    prompt: Annotated[str, _argument("TEXT", "a new line")] = ""
    """Text to continue."""
    length: int = 500
    """Characters to write."""
    samples: int = 1
    """Texts to write; each is the same however many there are."""
    temperature: float = 0.8
    """Below 1 safer, above 1 wilder; 0 always takes the likeliest character."""
    top_k: Annotated[int | None, _argument("INT")] = None
    """Choose among the k likeliest characters only."""
    top_p: Annotated[float | None, _argument("FLOAT")] = None
    """Choose among the fewest likeliest characters that together have this probability."""
    stop: Annotated[str | None, _argument("TEXT")] = None
    """End a text before this string."""
    seed: int = 1337
    """Equal seeds give equal texts."""
    unknown: UnknownPolicy = "error"
    """What to do with characters of the prompt that the model never saw."""
    checkpoint: Literal["best", "last"] = "best"
    """Which weights of a run folder: of the lowest validation loss, or of the last step."""
    slide: Flag = False
    """When the context is full, forget one character at a time (slow), not the older half."""
    device: Device = "cpu"
    """Where to compute."""
    kernels: Kernels = None
    """Versions of operations, such as layernorm=loops,attention=reference; "reference" for all."""
    json: Flag = False
    """Print the texts as JSON when they are complete."""

    def __call__(self) -> int:
        """Generate; the first text is shown as it comes, the others after it."""
        with _computing(self.kernels, self.device):
            return self._generate()

    def _generate(self) -> int:
        from tinygrad_char.models.generate import Sampling, StopFilter, encode_prompt, generate
        from tinygrad_char.models.memory import BYTES_OF_A_SAMPLE, available_memory
        from tinygrad_char.random import sampling_streams

        sampling = Sampling(self.temperature, self.top_k, self.top_p)
        for name, value, least, most in (
            ("length", self.length, 0, LARGEST),
            ("samples", self.samples, 1, available_memory() // BYTES_OF_A_SAMPLE),
        ):
            if value < least:
                raise UsageError(f"{name} is {shorten(value)}; expected an integer from {least}")
            if value > most:
                raise UsageError(f"{name} is {shorten(value)}; expected an integer up to {most}")
        streams = _usage(sampling_streams, self.seed, self.samples)
        loaded = _load(self.run, self.checkpoint, self.device)
        note = PlainConsole(stderr=True).note
        read = loaded.tokenizer.decode(loaded.tokenizer.encode(self.prompt, self.unknown, note))
        prompt = encode_prompt(read, loaded.tokenizer)
        filters = [StopFilter(self.stop) for _ in streams]
        texts = [read] * len(streams)
        live = not self.json

        def show(sample: int, text: str) -> None:
            texts[sample] += text
            if live and sample == 0:
                write(sys.stdout, text)
                sys.stdout.flush()

        if live:
            write(sys.stdout, read)
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
            _print_json({"checkpoint": str(loaded.path), "prompt": read, "texts": texts})
        else:
            rest = "".join(f"\n\n--- {i + 2} ---\n{text}" for i, text in enumerate(texts[1:]))
            write(sys.stdout, rest + "\n")
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained model's loss on every character of a split."""

    run: tyro.conf.Positional[Run] = None
    """Run folder or checkpoint."""
    data: Annotated[str | None, _argument("FILE", "the one that the model learned from")] = None
    """Text to measure on: a UTF-8 file, "shakespeare", or "pydoc"."""
    split: Literal["validation", "train", "all"] = "validation"
    """The last tenth of the text, the rest, or all of it."""
    checkpoint: Literal["best", "last"] = "best"
    """Which weights of a run folder: of the lowest validation loss, or of the last step."""
    strided: Flag = False
    """Have at least half a window of context before each character, where the text has it; the loss
    is lower, and not to be compared with others."""
    unknown: UnknownPolicy = "error"
    """What to do with characters that the model never saw."""
    device: Device = "cpu"
    """Where to compute."""
    kernels: Kernels = None
    """Versions of operations, such as layernorm=loops,attention=reference; "reference" for all."""
    json: Flag = False
    """Print the result as JSON."""

    def __call__(self) -> int:
        """Print the loss in nats and bits per character, and the perplexity."""
        with _computing(self.kernels, self.device):
            return self._evaluate()

    def _evaluate(self) -> int:
        from tinygrad_char.models.batches import split_corpus
        from tinygrad_char.models.evaluate import strided_loss, whole_split_loss

        loaded = _load(self.run, self.checkpoint, self.device)
        argument = self.data
        if argument is None:
            argument = trusted_argument(loaded.path, loaded.part(FolderState, "used").data)
        corpus = load_corpus(argument, PlainConsole(stderr=self.json).note)
        remarks: list[str] = []
        tokens = loaded.tokenizer.encode(corpus.content, self.unknown, remarks.append)
        if self.split != "all":
            tokens = getattr(split_corpus(tokens, block_size=1), self.split)
        if len(tokens) < 2:
            raise UsageError(
                f"{corpus.name!r} has {len(tokens)} known characters; expected at least 2"
            )
        console = PlainConsole(stderr=True)
        for each in remarks:
            console.note(each)
        with console.status(f"evaluating on {len(tokens):,} characters"):
            loss = (strided_loss if self.strided else whole_split_loss)(loaded.model, tokens)
        values = {
            "checkpoint": str(loaded.path),
            "step": loaded.part(Step, "used").step,
            "text": corpus.name,
            "split": self.split,
            "context": "half a window or more" if self.strided else "windows do not overlap",
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

    data: tyro.conf.Positional[Annotated[str | None, _argument("[FILE]", "shakespeare")]] = None
    """A UTF-8 file, "shakespeare", or "pydoc"."""
    json: Flag = False
    """Print the description as JSON."""

    def __call__(self) -> int:
        """Print the description."""
        from tinygrad_char.models.batches import cut

        corpus = load_corpus(self.data, PlainConsole(stderr=self.json).note)
        content = corpus.content
        train, validation = cut(len(content))
        values = {
            "name": corpus.name,
            "source": corpus.source,
            "sha256": corpus.sha256,
            "characters": len(content),
            "lines": content.lines,
            "training": train,
            "validation": validation,
            "vocabulary_size": len(content.characters),
            "vocabulary": content.characters if self.json else repr(content.characters),
        }
        _print_values(values, self.json)
        return 0


@dataclass(frozen=True)
class Doctor:
    """Say what this installation runs on: versions, BLAS, threads, kernels, GPU, text."""

    json: Flag = False
    """Print the findings as JSON."""

    def __call__(self) -> int:
        """Print the findings."""
        from tinygrad_char.models.doctor import examine

        _print_values(examine(), self.json)
        return 0


def run(arguments: list[str]) -> int:
    """Run the command that the arguments name and return its exit code."""
    code = 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a vocabulary may hold half a character
            stream.reconfigure(errors="backslashreplace")
    try:
        if arguments == ["--version"]:
            sys.stdout.write(f"tinygrad-char {__version__}\n")
            sys.stdout.flush()
            return 0
        code = _parse(arguments)()
        sys.stdout.flush()
    except SystemExit as end:  # tyro has shown the help or what was wrong; or a second signal
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 2
    except (UsageError, EnvironmentVariableError) as error:
        return _fail(error, 2)
    except (RunError, DeviceError) as error:
        return _fail(error, 1)
    except MemoryError as error:
        advice = _MEMORY_ADVICE.get(arguments[0] if arguments else "", "close other programs")
        return _fail(f"out of memory ({error or 'no details'}); {advice}", 1)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        _discard_output()
    except OSError as error:
        if error.filename is not None:  # a file, of which a stream knows nothing
            return _fail(f"{error.strerror or error}: {str(error.filename)!r}", 1)
        _discard_output()
        return _fail(f"cannot write the output: {error.strerror or error}", 1)
    return code


_MEMORY_ADVICE = {
    "train": "lower --batch-size, --block-size or --n-embd, or split a batch with --accumulate",
    "generate": "write fewer --samples at once",
    "evaluate": "measure on a shorter text, or close other programs",
    "data": "give a shorter text, or close other programs",
}


def _parse(arguments: list[str]) -> Any:
    """Return the command that the arguments name; SystemExit where tyro has answered instead."""
    _check_completion(arguments)
    options: dict[str, Any] = {
        "prog": "tinygrad-char",
        "description": DESCRIPTION,
        "config": (tyro.conf.DisallowNone,),
    }
    commands: Any = _commands(arguments)
    plain = [_shown(each) for each in arguments]
    if plain != arguments:
        # What is wrong about them is shown with them: then as they may be.
        unseen = io.StringIO()
        try:
            with contextlib.redirect_stdout(unseen), contextlib.redirect_stderr(unseen):
                return tyro.cli(commands, args=arguments, **options)
        except SystemExit:
            arguments = plain
    return tyro.cli(commands, args=arguments or ["--help"], **options)


def _shown(argument: str) -> str:
    """Return an argument as tyro's messages are to show it: short, and escaped for a terminal."""
    if len(argument) > LONGEST_SHOWN:
        argument = f"{argument[: LONGEST_SHOWN // 2]}...{argument[-LONGEST_SHOWN // 2 :]}"
    return escaped(argument) if sys.stderr.isatty() else argument


def _check_completion(arguments: list[str]) -> None:
    """Refuse a completion for a shell that has none here, before tyro fails on it."""
    asked = arguments[0].replace("_", "-") if arguments else ""
    named = asked in ("--tyro-print-completion", "--tyro-write-completion") and arguments[1:]
    if named and named[0] not in SHELLS:
        raise UsageError(
            f"there is no completion for {named[0]!r}; expected one of {', '.join(SHELLS)}"
        )


SHELLS = ("bash", "zsh", "fish")
DESCRIPTION = (
    "Character language models on an autograd engine of their own, NumPy and CuPy underneath. "
    "Start with: tinygrad-char train. Which version this is: tinygrad-char --version"
)


def _commands(arguments: list[str]) -> Any:
    """Return the commands, with train's settings from --resume or --preset as defaults."""
    config = SMALL
    if arguments[:1] == ["train"]:
        resume, preset = _option(arguments, "--resume"), _option(arguments, "--preset")
        if resume:
            if preset is not None:
                raise UsageError(
                    "--preset and --resume exclude each other: a resumed run keeps its settings; "
                    "change single ones by their own options"
                )
            # On the CPU: its own device may be one that this machine has not, or is not to use.
            loaded = load_checkpoint(resolve_checkpoint(resume, "last"), "cpu")
            config = loaded.part(ModelRecord).config
        elif preset in PRESETS:
            config = PRESETS[preset]
        if not resume:
            config = replace(config, device=_default_device())
    default = Train(config=config)
    command = tyro.conf.subcommand
    return (
        Annotated[Train, command("train", default=default)]
        | Annotated[Generate, command("generate", default=Generate(device=_default_device()))]
        | Annotated[Evaluate, command("evaluate", default=Evaluate(device=_default_device()))]
        | Annotated[Data, command("data")]
        | Annotated[Doctor, command("doctor")]
    )


def _default_device() -> Device:
    """Return the device that the environment names, or the CPU."""
    return cast(Device, choice(DEVICE_VARIABLE, DEVICES, "cpu"))


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
    shapes = [
        {"model": each.model, **asdict(each.gpt)}
        # which decide what the optimizer's state is of
        | {"optimizer": each.optimizer, "decayed": each.decayed}
        for each in (before, now)
    ]
    changed = [name for name in shapes[0] if shapes[0][name] != shapes[1][name]]
    if changed:
        name = changed[0]
        raise UsageError(
            f"{name} is {shapes[1][name]!r}, but the checkpoint's is {shapes[0][name]!r}: a "
            "resumed run keeps its model and its optimizer; leave the option out, or start without "
            "--resume"
        )


def _check_trainable(config: TrainConfig, size: int) -> None:
    """Find out before a folder is made what would end the run at once."""
    from tinygrad_char.kernels.devices import get_backend
    from tinygrad_char.models.batches import split_corpus

    get_backend(config.device)
    split_corpus(range(size), config.gpt.block_size)  # type: ignore[arg-type]


def _load(run: Path | None, which: Literal["best", "last"], device: Device) -> Loaded:
    """Load the checkpoint that is meant; say which where none was named, and if it is untrained."""
    from tinygrad_char.parallel import keep_blas_to_quota

    keep_blas_to_quota()
    path = resolve_checkpoint(latest_run(RUNS) if run is None else run, which)
    loaded = load_checkpoint(path, device)
    step, note = loaded.part(Step, "used").step, PlainConsole(stderr=True).note
    if run is None:
        note(f"using {str(path)!r}, step {step:,}; for another, name its folder")
    if emulates(loaded.config):
        note(describe_emulation())
    if step == 0:
        last = path.with_name("last.safetensors")
        if path != last and (more := steps_made(last)):
            remedy = f"its last one has made {more:,} steps: --checkpoint last"
        else:
            remedy = f"train it with `tinygrad-char train --resume {quoted(path.parent)}`"
        note(f"the model in {str(path)!r} is untrained (step 0); {remedy}")
    return loaded


@contextlib.contextmanager
def _computing(kernels: str | None, device: str) -> Iterator[None]:
    """Compute with the versions that --kernels names; UsageError where that is not possible."""
    if kernels is None:
        yield
        return
    try:
        versions = operations.parse(kernels)
    except operations.VersionError as error:
        raise UsageError(f"--kernels is {shorten(kernels)}; {error}") from error
    backend = get_backend(device)
    with operations.using(versions):
        try:
            backend.chosen()
        except DeviceError as error:
            raise UsageError(f"--kernels is {shorten(kernels)}; {error}") from error
        yield


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
        write(sys.stdout, f"{name.replace('_', ' '):{width}}  {value}\n")


def _fail(error: object, code: int) -> int:
    try:
        Path.cwd()
    except OSError:
        error = f"{error} (the working directory is gone: go to another one)"
    # Where one of the streams is closed, the other and the exit code must still tell.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        write(sys.stderr, f"error: {error}\n")
    return code


def _discard_output() -> None:
    """Let what is still to be written to the standard output go nowhere, without an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
