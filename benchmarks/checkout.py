"""One side of `benchmarks.compare`: serves the tasks of one checkout, in a process of its own.

`python checkout.py FOLDER` reads one JSON request a line and answers in one line. It takes
nothing from this project but what FOLDER holds, so that both sides run the same program on two
states of the code, older ones too; the import names of both arrangements of its folders are tried.
"""

import base64
import importlib.util
import io
import json
import pkgutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[], Any]
Settings = dict[str, Any]
"""Of training, as JSON, as far as they differ from their defaults."""
CHARACTERS = 100
REDUCED: tuple[tuple[tuple[int, ...], int], ...] = (
    ((4, 8), 0),
    ((100, 10), 0),
    ((1000, 1000), 0),
    ((1000, 1000), 1),
    ((16384, 384), 0),
    ((100_000, 10), 0),
    ((300, 10_000), 0),
    ((64, 256, 64), 1),
)
"""Shapes that are summed, and the axis."""
UPDATES = 50
CHAIN = 20
"""Operations of a kind on one small array: what is timed is the tape."""


def benchmark(name: str) -> Any:
    """Return a module of the checkout's benchmarks."""
    inside = importlib.util.find_spec("tinygrad_char.benchmarks") is not None
    return pkgutil.resolve_name(f"{'tinygrad_char.' * inside}benchmarks.{name}:")


def train_step(size: str, settings: Settings) -> dict[str, tuple[Run, Run]]:
    """Return one update, and the losses and the norm of a few without dropout."""
    module = benchmark("train_step")
    task = module.prepare(module.TrainConfig.from_json(settings))["step"]
    return {f"step {size}": (task.run, task.check)}


def train(size: str, settings: Settings) -> dict[str, tuple[Run, Run]]:
    """Return updates with dropout, and what a checkpoint would hold after some tens of them."""
    module = benchmark("train_step")
    config, vocabulary = module.TrainConfig.from_json(settings), module.VOCABULARY

    def after() -> tuple[Any, ...]:
        trainer = module.Trainer(config, vocabulary, module.random_split())
        for _ in range(UPDATES):
            trainer.update()
        states = trainer.model.state_dict(), trainer.optimizer.state_dict()
        return tuple(state[name] for state in states for name in sorted(state))

    trainer = module.Trainer(config, vocabulary, module.random_split())
    return {f"train {size}": (trainer.update, after)}


def generate(size: str, settings: Settings) -> dict[str, tuple[Run, Run]]:
    """Return the writing of a text, and of the likeliest one past the end of the context."""
    module = benchmark("generate")
    config = module.TrainConfig.from_json(settings)
    checked = config.gpt.block_size + config.gpt.block_size // 4
    task = module.prepare(config, CHARACTERS, checked, 0.8)["text"]
    return {f"generate {size}": (task.run, task.check)}


def ops(size: str) -> dict[str, tuple[Run, Run]]:
    """Return every fused kernel."""
    module = benchmark("ops")
    found = module.prepare("fused", sorted(module.CASES), module.SIZES[size])
    return {name: (task.run, task.check or task.run) for name, task in found.items()}


def tape() -> dict[str, tuple[Run, Run]]:
    """Return chains of small operations: recorded, not recorded, and their backward pass."""
    import numpy as np

    from tinygrad_char import Tensor

    x = Tensor(np.linspace(0.5, 1.5, 8, dtype=np.float32), requires_grad=True)
    y = Tensor(np.ones(8, np.float32))

    def chain(z: Tensor) -> Tensor:
        for _ in range(CHAIN):
            z = z * y + y
            z = z.reshape(2, 4).reshape(8)
        return z.sum()

    def forward(start: Tensor) -> Any:
        return chain(start).numpy()

    def both() -> Any:
        x.grad = None
        chain(x).backward()
        assert x.grad is not None
        return x.grad.numpy()

    return {
        "tape, nothing recorded": (lambda: forward(y), lambda: forward(y)),
        "tape, recorded": (lambda: chain(x), lambda: chain(x).detach().numpy()),
        "tape, with backward": (both, both),
    }


def sums(size: str) -> dict[str, tuple[Run, Run]]:
    """Return sums, means, variances and running sums of float32: short, many and long rows.

    Of a mean far from zero, which "far" stands for, a variance is harder to keep exact.
    """
    import numpy as np

    from tinygrad_char import Tensor

    found: dict[str, tuple[Run, Run]] = {}
    for shape, axis in REDUCED[: 2 if size == "smoke" else None]:
        values = np.random.default_rng(0).standard_normal(shape, np.float32)
        for name in ("sum", "mean", "var", "var far", "cumsum"):
            method = name.partition(" ")[0]
            x = Tensor(values + np.float32(1000 if "far" in name else 0))

            def run(x: Any = x, method: str = method, axis: int = axis) -> Any:
                return getattr(x, method)(axis).numpy()

            found[f"{name} {shape} over {axis}"] = run, run
    return found


TASKS: dict[str, Callable[..., dict[str, tuple[Run, Run]]]] = {
    "step": train_step,
    "train": train,
    "generate": generate,
    "ops": ops,
    "tape": tape,
    "sums": sums,
}


class Server:
    """Answers the requests."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[Run, Run]] = {}

    def prepare(self, kind: str, *arguments: Any) -> list[str]:
        """Make the tasks of a kind and return their names."""
        found = TASKS[kind](*arguments)
        self.tasks.update(found)
        return list(found)

    def results(self, name: str) -> list[str]:
        """Return what is compared: arrays in NumPy's format, in base 64."""
        import numpy as np

        found = self.tasks[name][1]()
        texts = []
        for each in found if isinstance(found, tuple) else (found,):
            file = io.BytesIO()
            np.save(file, np.asarray(each), allow_pickle=False)
            texts.append(base64.b64encode(file.getvalue()).decode())
        return texts

    def time(self, name: str, runs: int) -> float:
        """Return the seconds of all processors that a run takes."""
        run = self.tasks[name][0]
        started = time.process_time()
        for _ in range(runs):
            run()
        return (time.process_time() - started) / runs


def serve() -> None:
    """Serve until the requests end."""
    root = Path(sys.argv[1]).resolve()
    # The folder of this file holds modules, too, which are not what the names below mean.
    sys.path[:] = [str(root), *sys.path[1:]]
    package = importlib.import_module("tinygrad_char")
    if not Path(package.__file__ or "").is_relative_to(root):
        sys.exit(f"tinygrad_char came from {package.__file__}, not from {root}")
    server, answers = Server(), sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        print(json.dumps(getattr(server, method)(*arguments)), file=answers, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a terminal's is the other process's, too
    serve()
