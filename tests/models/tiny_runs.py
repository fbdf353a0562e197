"""Runs so small that a test can afford several."""

import json
import os
import signal
import subprocess
import sys

from tinygrad_char.models import cli

TEXT = "The quick brown fox jumps over the lazy dog.\nHow vexingly quick daft zebras jump!\n" * 20
TINY = [
    *("--steps", "4", "--eval-every", "2", "--eval-batches", "1", "--log-every", "1"),
    *("--n-layer", "1", "--n-head", "2", "--n-embd", "8", "--block-size", "8"),
    *("--batch-size", "2", "--sample-every", "0"),
]


def train(folder, *options):
    """Train a tiny model on TEXT in `folder`, and return the exit code."""
    text = folder.parent / "text.txt"
    text.write_text(TEXT)
    return cli.run(["train", "--data", str(text), "--out", str(folder), *TINY, *options])


def start(*arguments, cwd, **options):
    """Start the command in a process of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    environment = {**os.environ, **options.pop("env", {})}
    command = [sys.executable, "-m", "tinygrad_char.models", *map(str, arguments)]
    return popen(command, cwd=cwd, env=environment, **options)


def popen(command, **options):
    """Start a process that answers signals, also where a shell in the background ignores them."""
    return subprocess.Popen(command, preexec_fn=_default_signals, **options)


def _default_signals():
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(each, signal.SIG_DFL)


def finish(process):
    """Return a process's exit code and what it wrote to its two streams."""
    out, err = process.communicate()
    return process.returncode, out, err


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
