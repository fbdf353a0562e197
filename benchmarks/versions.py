"""A training step with the version of each operation exchanged in turn.

All take the same weights, batches and one thread, and run on the tape, which not all versions could
leave; beside them the step as it is served, recorded. A share is what an operation's functions take
of a step. Loops in Python are timed in a smaller step. A version of one's own, given as `--with
layernorm=mymodule:MyLayerNorm`, is first checked against the reference at ragged sizes, forward and
backward. Exit code 1 where results differ.
"""

from __future__ import annotations

import pkgutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from tinygrad_char.benchmarks import gpu_checks, train_step
from tinygrad_char.benchmarks.measure import Contender
from tinygrad_char.benchmarks.report import TIMES, Columns, Options, Report, Row, parse
from tinygrad_char.benchmarks.train_step import CONFIGS, VOCABULARY, checked, random_split
from tinygrad_char.kernels.backend import CPU
from tinygrad_char.kernels.cpu.bench import Task
from tinygrad_char.kernels.cuda.bench import Ragged
from tinygrad_char.kernels.operations import REFERENCE, VersionError, benches, operations, using
from tinygrad_char.models.config import TrainConfig
from tinygrad_char.models.gpt import GPTConfig
from tinygrad_char.models.memory import keep_freed_memory
from tinygrad_char.models.trainer import Trainer
from tinygrad_char.step import Way, stepping

SERVED, RECORDED = "as served", "as served, recorded"
LOOPS = TrainConfig(
    gpt=GPTConfig(block_size=8, n_layer=1, n_head=2, n_embd=16, dropout=0.0), batch_size=4
)
"""What loops in Python are timed with."""
ROUNDS = {"smoke": 2, "tiny": 9, "small": 7}
UPDATES = {"smoke": 2, "tiny": 30, "small": 5}
"""Of which shares are taken, and after which losses are shown."""


def load(version: str) -> Any:
    """Return a version: a name, or the object that module:object names, an instance of a class."""
    if ":" not in version:
        return version
    found = pkgutil.resolve_name(version)
    return found() if isinstance(found, type) else found


@dataclass(frozen=True)
class Versions(Options):
    """Time a training step with each operation's versions."""

    size: Literal["smoke", "tiny", "small"] = "small"
    """A preset of `tinygrad-char train`; smoke takes seconds."""
    with_: Annotated[
        tuple[str, ...], tyro.conf.arg(name="with", metavar="OPERATION=MODULE:OBJECT")
    ] = ()
    """Versions of your own: objects with the functions forward and backward of the reference."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = 1
    """Processors for each step."""
    own: tyro.conf.Suppress[dict[str, str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.against:
            raise ValueError("--against torch: PyTorch's operations are no versions of ours")
        for each in self.with_:
            name, _, version = each.partition("=")
            if ":" not in version:
                raise ValueError(f"--with is {each!r}; expected OPERATION=MODULE:OBJECT")
            try:
                with using({name: load(version)}):
                    self.own[name] = version
            except (ImportError, AttributeError, VersionError) as error:
                raise ValueError(f"--with is {each!r}; {error}") from error


class Counted:
    """The functions of an operation, the seconds that they take, and how often they serve."""

    def __init__(self, functions: Any) -> None:
        self._functions = functions
        self.seconds, self.served = 0.0, 0

    def __getattr__(self, name: str) -> Any:
        return partial(self._call, getattr(self._functions, name))

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments, **options)
        self.seconds += time.perf_counter() - started
        self.served += result is not NotImplemented
        return result


def fault(name: str, version: str, quick: bool) -> str | None:
    """Return how a version differs from the reference at ragged sizes; None where it does not."""
    if name not in benches("checks"):
        return f"there is no check of {name}: expected one of {', '.join(benches('checks'))}"
    mine = Counted(load(version))
    for check in benches("checks")[name](Ragged(quick)):
        with using({name: mine}):
            try:
                outcome = gpu_checks.run(check, "float32", CPU)
            except Exception as error:  # whatever the user's code raises
                return f"{name} {check.case}: {type(error).__name__}: {error}"
        if not outcome.passed:
            return (
                f"{name} {check.case} differs from the reference by {outcome.error:.2g} of the "
                f"largest element, and {outcome.allowed:.2g} is allowed"
            )
    return None if mine.served else f"{name}: every call returned NotImplemented"


def trainer_of(config: TrainConfig) -> Trainer:
    """Return what makes steps of random characters, on one thread."""
    return Trainer(config, VOCABULARY, random_split(), threads=1)


def prepare(
    config: TrainConfig, task: str, versions: Mapping[str, str], way: Way = "tape"
) -> dict[str, Task]:
    """Return the updates by these versions, and the rest as served."""
    keep_freed_memory()
    chosen = {name: load(version) for name, version in versions.items()}

    def by_these(compute: Callable[[], Any]) -> Any:
        with using(chosen), stepping(way):
            return compute()

    def check() -> tuple[np.ndarray, float]:
        other = trainer_of(checked(config))
        updates = [other.update() for _ in range(train_step.CHECKED_UPDATES)]
        return np.array([update.loss for update in updates]), updates[0].norm

    trainer = by_these(lambda: trainer_of(config))
    return {task: Task(lambda: by_these(trainer.update), lambda: by_these(check))}


class Profile(NamedTuple):
    """What part of a step each operation that it calls takes, and the loss after some."""

    shares: dict[str, float]
    loss: float


def profile(config: TrainConfig, versions: Mapping[str, str], updates: int) -> Profile:
    """Make some updates by these versions, and the rest as served."""
    with using({name: load(version) for name, version in versions.items()}):
        counted = {name: Counted(CPU.chosen().operation(name)) for name in operations()}
    with using(counted), stepping("tape"):
        trainer = trainer_of(config)
        trainer.update()
        before = {name: each.seconds for name, each in counted.items()}
        started = time.perf_counter()
        for _ in range(updates):
            loss = trainer.update().loss
        seconds = time.perf_counter() - started
    return Profile(
        {
            name: (each.seconds - before[name]) / seconds
            for name, each in counted.items()
            if each.served
        },
        loss,
    )


def contest(
    report: Report, size: str, config: TrainConfig, exchanged: dict[str, tuple[str, str]], pace: str
) -> None:
    """Time a step as served, and with each (operation, version) instead, as often as at `pace`."""
    task, updates = f"step of {size}", UPDATES[pace]
    contenders = {
        SERVED: Contender(prepare, (config, task, {})),
        RECORDED: Contender(prepare, (config, task, {}, "recorded")),
    }
    for title, (name, version) in exchanged.items():
        contenders[title] = Contender(prepare, (config, task, {name: version}))
    served = profile(config, {}, updates)

    def complete(rows: list[Row]) -> None:
        for row in rows:
            pair = exchanged.get(row["contender"])
            found = profile(config, dict([pair]), updates) if pair else served
            row["loss"] = found.loss
            row["share"] = found.shares.get(pair[0], 0.0) if pair else None
            row["share_as_served"] = served.shares.get(pair[0], 0.0) if pair else None

    gpt = config.gpt
    report.hold(
        f"{size}: batch {config.batch_size}, T {gpt.block_size}, C {gpt.n_embd}, "
        f"{gpt.n_layer} layers, {gpt.n_head} heads; one thread, on the tape; loss after "
        f"{updates + 1} steps",
        contenders,
        rounds=ROUNDS[pace],
        columns=COLUMNS,
        complete=complete,
        case={"size": size},
    )


def _share(key: str) -> Callable[[Row], str]:
    return lambda row: "" if row[key] is None else f"{row[key]:.1%}"


COLUMNS: Columns = {
    **TIMES,
    "share": _share("share"),
    "share as served": _share("share_as_served"),
    "loss": lambda row: f"{row['loss']:.4f}",
}


def exchanged(called: Mapping[str, float], version: str) -> dict[str, tuple[str, str]]:
    """Return the operations of a step that have this version and are served by another one."""
    return {
        f"{name}: {version}": (name, version)
        for name in called
        if version in operations()[name].versions and CPU.version_of(name) != version
    }


def main() -> None:
    """Check what was given, compare, time, and exit 1 where results differ."""
    options = parse(Versions)
    config = CONFIGS[options.size]
    called = profile(config, {}, 1).shares
    own = {}
    for name, version in options.own.items():
        if name not in called:
            expected = ", ".join(each for each in called if each in benches("checks"))
            sys.stderr.write(
                f"error: a training step calls no {name}; expected one of {expected}\n"
            )
            sys.exit(2)
        if found := fault(name, version, quick=options.size == "smoke"):
            sys.stderr.write(f"error: {version} is not {found}\n")
            sys.exit(1)
        print(f"{version} computes {name} as the reference does, at ragged sizes, both ways")
        own[f"{name}: {version}"] = (name, version)
    report = Report("versions", options, train_step.BOUND)
    others = exchanged(called, REFERENCE) | exchanged(called, "c") | own
    contest(report, options.size, config, others, options.size)
    if report.agree:
        contest(report, "loops", LOOPS, exchanged(called, "loops"), options.size)
    sys.exit(report.finish())


if __name__ == "__main__":
    main()
