"""What the documents on CUDA say is so: quoted lines, commands, programs and messages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_char.benchmarks.gpu_parts import PARTS
from tinygrad_char.kernels.attention.cuda import HEADS, plan
from tinygrad_char.kernels.cuda import compile as gate
from tinygrad_char.kernels.cuda.launcher import Kernel, sources
from tinygrad_char.kernels.cuda.signature import parse
from tinygrad_char.kernels.cuda.variants import variants
from tinygrad_char.kernels.cuda_on_cpu.runner import RunnerError
from tinygrad_char.kernels.cuda_on_cpu.runner.cache import IN_USE_SECONDS, MOST_BYTES
from tinygrad_char.kernels.cuda_on_cpu.runner.compiler import find_compiler
from tinygrad_char.kernels.operations import operations

ROOT = Path(__file__).resolve().parents[2]
CUDA = (ROOT / "docs" / "cuda.md").read_text(encoding="utf-8")
ON_CPU = (ROOT / "docs" / "cuda-on-cpu.md").read_text(encoding="utf-8")
DRAWN = "S = scale", "P = softmax", "total  ←", "O      ←", "dV =", "weights[m][n][e]   is"


def section(text, title):
    return re.split(r"^## ", text.split(f"\n## {title}", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def blocks(text):
    """Return the indented blocks."""
    return re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)


def normal(text):
    return re.sub(r"\s+", " ", text).strip()


def test_the_attention_kernel_is_quoted_as_it_is():
    code = normal(
        "".join(
            (operations()["attention"].folder / f"attention{end}").read_text()
            for end in (".cu", "_tiles.cuh")
        )
    )
    quotes = [
        each
        for each in map(normal, blocks(section(CUDA, "The attention kernel, line by line")))
        if not each.startswith((*map(normal, DRAWN), "python"))
    ]
    assert len(quotes) > 25
    missing = [each for each in quotes if each not in code]
    assert missing == []


def test_the_running_mean_is_quoted_as_it_is():
    code = normal(Kernel("running_mean", "").path.read_text())
    text = section(CUDA, "How a kernel is written here")
    quotes = [normal(each) for each in re.findall(r"(?:^       .*\n)+", text, re.MULTILINE)]
    kept = [each for each in quotes if not each.startswith("python")]
    assert len(kept) == 2
    assert all(each in code for each in kept)


def test_every_kernel_is_in_the_table_and_no_other():
    text = section(CUDA, "What the compiler makes of the kernels")
    assert all(f"  {name}  " in text for name in gate.ARCHITECTURES)
    named = re.findall(r"^    (\w+\.cu) +(\w+) +(\d+) ", text, re.MULTILINE)
    declared = []
    for path in sources():
        kinds = variants(path.read_text(encoding="utf-8"))
        kernels = parse(path.read_text(encoding="utf-8"), dict(kinds[0]))
        declared += [(path.name, kernel, str(len(kinds))) for kernel in kernels]
    assert sorted(named) == sorted(declared)


def test_the_shared_memory_of_attention_is_that():
    text = section(CUDA, "What the compiler makes of the kernels")
    rows = [
        [int(each.replace(",", "")) for each in row.split(" | ")]
        for row in re.findall(r"^\| (\d[\d, |]+) \|$", text, re.MULTILINE)
    ]
    plans = [(plan("PLAIN", head), plan("TF32", head), plan("BF16", head)) for head in HEADS]
    assert rows == [
        [low.head, *(size for each in (full, low) for size in sizes_of(each))]
        for full, _, low in plans
    ]
    assert all(sizes_of(full) == sizes_of(tf32) for full, tf32, _ in plans)


def sizes_of(chosen):
    return chosen.forward_bytes, chosen.backward_bytes, chosen.atomic_bytes


def test_the_parts_of_the_benchmark_are_in_the_table():
    text = section(CUDA, "On a machine with a GPU")
    rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == set(PARTS) - {
        "machine"
    }


def test_the_limits_of_the_cache_are_those():
    assert MOST_BYTES == 1 << 30
    assert IN_USE_SECONDS == 3600
    assert "more than 1 GiB" in ON_CPU
    assert "within the last hour" in ON_CPU


@pytest.mark.parametrize("mode", ["fast", "check", "debug"])
def test_the_program_that_runs_one_kernel_runs(tmp_path, mode):
    try:
        find_compiler()
    except RunnerError as error:
        pytest.skip(str(error))
    (program,) = re.findall(r"```python\n(.*?)```", ON_CPU, re.DOTALL)
    (tmp_path / "one_kernel.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TINYGRAD_CHAR_RUNNER": mode}
    done = subprocess.run(
        [sys.executable, "one_kernel.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[[0. 0. 0. 0. 0.]\n [0. 0. 0. 0. 0.]]\n"
