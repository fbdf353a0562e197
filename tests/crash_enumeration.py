"""Lose the power at every moment of a run: `python tests/crash_enumeration.py`.

A short training is run in a process whose writes, syncs and changes of names are logged, once
without disturbance and once killed and continued. For each moment, everything that a disk may then
hold is rebuilt: data that was not synced dropped, torn or kept, names that were not synced lost,
kept, or some of each. From each of these the run is continued, or begun again where there is no
checkpoint; its weights, its whole state and its metrics must be those of the undisturbed run, and
no step that was shown as done may be gone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS / "power_loss")]

import disk_log  # noqa: E402
from disk_log import Event  # noqa: E402
from disk_model import Disk, Tree, after_power_loss, write  # noqa: E402

from tinygrad_char import checkpoint  # noqa: E402
from tinygrad_char.models import cli  # noqa: E402

TEXT = "The quick brown fox jumps over the lazy dog.\nHow vexingly quick daft zebras jump!\n" * 20
RUN = Path("runs", "short")
TRAIN = [
    *("train", "--data", "text.txt", "--out", str(RUN), "--seed", "5", "--dropout", "0.2"),
    *("--steps", "4", "--eval-every", "2", "--eval-batches", "1", "--log-every", "1"),
    *("--n-layer", "1", "--n-head", "2", "--n-embd", "8", "--block-size", "8"),
    *("--batch-size", "2", "--sample-every", "2"),
]
RESUME = ["train", "--resume", str(RUN)]
SAID = re.compile(rb"^(?:step +|stopped at step )(\d+)", re.MULTILINE)


class Moment(NamedTuple):
    """What a disk may hold at some moment, and the last step that was then shown as done."""

    where: str
    tree: Tree
    said: int


class Outcome(NamedTuple):
    """What a run has come to: its metrics, and its two checkpoints' arrays and metadata."""

    metrics: list[object]
    checkpoints: list[tuple[dict[str, np.ndarray], dict[str, object]]]


def record(folder: Path) -> tuple[Outcome, list[tuple[str, list[Event], int]]]:
    """Run the histories in `folder`; return what is to come of each, and each one's events.

    With its name, and how many of the events have been looked at in another one.
    """
    library = disk_log.build(folder)
    logs = []
    for name in ("undisturbed", "killed and continued"):
        root = folder / name
        root.mkdir()
        (root / "text.txt").write_text(TEXT)
        log = folder / f"{name}.log"
        seen = 0
        if logs:  # killed when records have been written that no checkpoint counts
            events = logs[0][1]
            seen = max(i for i, each in enumerate(events) if is_record(each)) + 1
            assert disk_log.run(library, log, root, TRAIN, seen) == -9
        assert disk_log.run(library, log, root, RESUME if logs else TRAIN) == 0
        logs.append((name, disk_log.read(log), seen))
    return outcome(folder / "undisturbed" / RUN), logs


def is_record(event: Event) -> bool:
    """Return whether records are written."""
    return event.kind == "W" and event.path.endswith(".jsonl")


def moments(folder: Path, logs: list[tuple[str, list[Event], int]], seed: int) -> Iterator[Moment]:
    """Yield everything that the disk may hold at some moment, each once."""
    found = set()
    for name, events, seen in logs:
        disk = Disk(folder / name, {"text.txt": TEXT.encode()})
        said = 0
        for number, event in enumerate(events):
            disk.apply(event)
            said = max([said, *map(int, SAID.findall(event.data))] if event.kind == "P" else [said])
            if number < seen:
                continue
            for tree in after_power_loss(disk, seed + number):
                if (key := (repr(tree), said)) not in found:
                    found.add(key)
                    yield Moment(f"{name}, after event {number} ({event.kind})", tree, said)


def outcome(run: Path) -> Outcome:
    """Return what has come of a run."""
    checkpoints = [checkpoint.load(run / f"{name}.safetensors") for name in ("last", "best")]
    for _, metadata in checkpoints:
        del metadata["data"]["argument"], metadata["data"]["inode"]  # where the text was
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return Outcome([json.loads(line) for line in lines], checkpoints)


def fault(moment: Moment, expected: Outcome) -> str | None:
    """Go on from what the disk holds; return what is wrong with what comes of it, if anything."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write(moment.tree, Path())
        last = RUN / "last.safetensors"
        arguments, step = TRAIN, 0
        if last.exists():
            arguments, step = RESUME, checkpoint.load(last)[1]["step"]
        if step < moment.said:
            return f"step {moment.said} was shown as done, but the checkpoint is of step {step}"
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code = cli.run(arguments)
        if code:
            return f"exit code {code}: {error.getvalue()}"
        return difference(outcome(RUN), expected) or leftover(RUN)


def difference(found: Outcome, expected: Outcome) -> str | None:
    """Return what differs between two outcomes of a run, if anything."""
    if found.metrics != expected.metrics:
        steps = [each.get("step") for each in found.metrics if isinstance(each, dict)]
        return f"other metrics, of steps {steps}"
    both = zip(found.checkpoints, expected.checkpoints, strict=True)
    for (tensors, metadata), (expected_tensors, expected_metadata) in both:
        if metadata != expected_metadata:
            keys = metadata.keys() | expected_metadata.keys()
            differing = sorted(
                each for each in keys if metadata.get(each) != expected_metadata.get(each)
            )
            return f"other metadata: {', '.join(differing)}"
        for name, array in tensors.items():
            if array.tobytes() != expected_tensors[name].tobytes():
                return f"another {name}"
    return None


def leftover(run: Path) -> str | None:
    """Return which file is left that should not be, if any."""
    known = {"last.safetensors", "best.safetensors", "metrics.jsonl", "config.json", "loss.png"}
    left = {each.name for each in run.iterdir()} - known - {"run.lock"}
    return f"left over: {', '.join(left)}" if left else None


def main() -> int:
    """Go through the moments, all of them or a seeded choice, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--choose", type=int, help="look at so many moments only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    if reason := disk_log.unavailable():
        print(f"not run: {reason}")
        return 1
    started = time.perf_counter()
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        expected, logs = record(Path(folder))
        every = list(moments(Path(folder), logs, options.seed))
        chosen = every
        if options.choose is not None:
            chosen = random.Random(options.seed).sample(every, min(options.choose, len(every)))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
            found = pool.map(fault, chosen, [expected] * len(chosen))
            for moment, each in zip(chosen, found, strict=True):
                if each:
                    faults += 1
                    print(f"{moment.where}: {each}")
    events = sum(len(events) for _, events, _ in logs)
    print(
        f"{events} events of {len(logs)} runs, {len(every)} different contents of the disk, "
        f"{len(chosen)} of them continued: {faults} faults, "
        f"{time.perf_counter() - started:.0f} s"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
