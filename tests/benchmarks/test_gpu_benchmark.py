"""The benchmark for machines with a GPU, tried out on the CPU runner."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tinygrad_char.benchmarks import gpu, gpu_checks, gpu_kernels, gpu_parts, gpu_report, gpu_timing
from tinygrad_char.benchmarks.gpu_timing import Case
from tinygrad_char.kernels.array import namespace
from tinygrad_char.kernels.backend import DeviceError
from tinygrad_char.kernels.cuda.bench import Check
from tinygrad_char.kernels.operations import benches, operations

ROOT = Path(__file__).resolve().parents[2]
HAS_TORCH = importlib.util.find_spec("torch") is not None
MISSING = ("tyro", "rich", "safetensors", "threadpoolctl", "pooch", "matplotlib")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Return the environment of a machine with few packages: the others fail to import."""
    folder = tmp_path_factory.mktemp("bare")
    for name in MISSING:
        (folder / f"{name}.py").write_text(f"raise ImportError('no {name} here')\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def start(environment, *arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "tinygrad_char.benchmarks.gpu", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
    )


@pytest.mark.usefixtures("on_cpu")
def test_every_part_runs_with_few_packages(bare, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(map(chr, range(32, 97))) * 20)
    parts = [name for name in gpu.PARTS if name not in ("machine", "checks")]
    options = ("--device", "cuda-on-cpu", "--quick", "--data", text, "--json", "x.json")
    done = start(bare, *options, "--parts", *parts, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {each.name for each in tmp_path.iterdir()} == {"text.txt", "x.json"}
    results = json.loads((tmp_path / "x.json").read_text())
    assert results["machine"]["numpy"] == np.__version__
    assert "none: CUDA kernels on the CPU" in results["machine"]["gpu"]
    rows = {name: part["rows"] for name, part in results["parts"].items()}
    cases = {name: [row["case"] for row in part] for name, part in rows.items()}
    assert rows["compile"][0]["variants"] == 2
    assert cases["ceilings"] == ["copy", "product float32", "product tf32", "product bf16"]
    assert {
        *("layernorm backward bfloat16", "adamw float32", "attention backward tf32"),
        *("attention backward, atomic bf16", "embedding backward, atomic float32"),
        *("embedding backward of 40 rows bfloat16", "cross_entropy in one pass float32"),
    } <= set(cases["kernels"])
    assert cases["attention"] == ["T = 16", "T = 32"]
    assert cases["steps"] == [
        *("graph bf16", "graph, atomic bf16", "eager bf16"),
        *("graph tf32", "eager tf32", "graph float32", "eager float32"),
    ]
    assert not any("reason_not_as_graph" in row for row in rows["steps"])
    (trained,) = rows["training"]
    assert trained["validation_loss"] == pytest.approx(np.log(65), rel=0.05)
    assert [len(cases[name]) for name in ("averaging", "attention ladder")] == [5, 5]
    assert "failed" not in done.stdout
    assert "of copy" in done.stdout
    if HAS_TORCH:
        check_the_side_of_pytorch(results["parts"])
    else:
        assert "PyTorch is not installed" in done.stdout


def check_the_side_of_pytorch(parts):
    cases = [row["case"] for row in parts["PyTorch"]["rows"]]
    assert cases[:2] == ["flash T = 16", "flash T = 32"]
    assert len(cases) == 2 + 6
    assert [row["case"] for row in parts["PyTorch compiled"]["rows"]] == ["compiled bf16"]
    assert gpu_report.disagreements(parts) == []
    for name, field, words in (("attention", "sizes", "attention"), ("steps", "first_loss", "fi")):
        row = parts[name]["rows"][0]
        before = row[field]
        row[field] = [1.1 * each for each in before] if name == "attention" else 1.1 * before
        found = gpu_report.disagreements(parts)
        assert found
        assert all(each.startswith(words) for each in found)
        row[field] = before


def test_without_a_gpu_it_ends_with_the_reason(tmp_path, capsys):
    if importlib.util.find_spec("cupy"):
        pytest.skip("CuPy is installed: there may be a GPU")
    assert gpu.main(["--json", str(tmp_path / "x.json"), "--parts", "checks"]) == 1
    assert capsys.readouterr().err.startswith("error: device 'cuda' needs CuPy")


def test_without_the_corpus_it_ends_before_anything_is_measured(bare, tmp_path):
    environment = {**bare, "TINYGRAD_CHAR_DATA": str(tmp_path)}
    done = start(environment, "--device", "cuda-on-cpu", "--json", tmp_path / "x.json")
    assert done.returncode == 1
    assert "tiny Shakespeare is not here" in done.stderr
    assert "set TINYGRAD_CHAR_DATA to a folder with tinyshakespeare.txt" in done.stderr
    assert not (tmp_path / "x.json").exists()


def test_results_that_cannot_be_written_are_told_first(tmp_path, capsys):
    arguments = ["--json", str(tmp_path / "none" / "x.json"), "--parts", "ceilings"]
    assert gpu.main(arguments) == 1
    assert "No such file" in capsys.readouterr().err


class Scripted:
    """Stands in the place of the processes of one part: what each says, and how it ended."""

    def __init__(self, *scripts):
        self.scripts, self.skipped = list(scripts), []

    def __call__(self, settings):
        self.skipped.append(settings.skip)
        self.said, self.how = self.scripts.pop(0)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        return None

    def messages(self, end, patience):
        yield from self.said

    def end(self):
        return self.how


DONE = {"done": True}


def run_scripted(monkeypatch, tmp_path, *scripts, part="ceilings"):
    processes = Scripted(([{"case": "machine"}, {"row": {"gpu": "x"}}, DONE], ""), *scripts)
    monkeypatch.setattr(gpu, "_Process", processes)
    path = tmp_path / "x.json"
    status = gpu.main(["--json", str(path), "--parts", part])
    return status, json.loads(path.read_text()), processes.skipped[1:]


def test_a_case_that_ends_its_process_is_told_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    status, results, skipped = run_scripted(
        monkeypatch,
        tmp_path,
        (
            [{"case": "copy"}, {"row": {"seconds": 1.0, "bytes": 1e9}}, {"case": "product tf32"}],
            "the process ended by SIGSEGV",
        ),
        ([{"case": "a"}, {"row": {"error": "CUDA", "trace": ""}}], "exit code 3"),
        ([{"case": "b"}, {"row": {"seconds": 2.0, "bytes": 1}}, DONE], ""),
    )
    assert status == 1
    assert skipped == [0, 2, 3]
    assert [row["case"] for row in results["parts"]["ceilings"]["rows"]] == [
        *("copy", "product tf32", "a", "b")
    ]
    assert results["failed"] == ["ceilings"]
    shown = capsys.readouterr().out
    assert "product tf32: failed: the process ended by SIGSEGV" in shown
    assert "failed: ceilings" in shown


def test_a_part_that_cannot_begin_is_not_tried_again(monkeypatch, tmp_path):
    status, results, skipped = run_scripted(monkeypatch, tmp_path, ([], "exit code 1: no cupy"))
    assert (status, skipped) == (1, [0])
    assert results["parts"]["ceilings"]["error"] == "exit code 1: no cupy"


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed")
def test_what_fails_on_the_side_of_pytorch_is_told_and_no_failure(monkeypatch, tmp_path, capsys):
    message = {"part_error": {"error": "RuntimeError: no nvcc", "trace": ""}}
    part = "PyTorch compiled"
    status, results, _ = run_scripted(monkeypatch, tmp_path, ([message], ""), part=part)
    assert status == 0
    assert results["parts"][part]["error"] == "RuntimeError: no nvcc"
    assert "RuntimeError: no nvcc" in capsys.readouterr().out


def test_no_pytorch_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    status, results, skipped = run_scripted(monkeypatch, tmp_path, part="PyTorch")
    assert (status, skipped) == (0, [])
    assert results["parts"]["PyTorch"]["error"] == "PyTorch is not installed"


def test_a_part_whose_time_is_up_is_a_failure_that_keeps_its_rows(monkeypatch, tmp_path):
    said = [{"case": "copy"}, {"row": {"seconds": 1.0, "bytes": 1}}, {"case": "product tf32"}]
    monkeypatch.setitem(gpu.PLAN, "ceilings", gpu.Plan(0.05, 1))

    class Slow(Scripted):
        def messages(self, end, patience):
            yield from self.said
            time.sleep(max(0, end - time.perf_counter()))

    monkeypatch.setattr(sys.modules[__name__], "Scripted", Slow)
    status, results, _ = run_scripted(monkeypatch, tmp_path, (said, "ended after 9 s"))
    section = results["parts"]["ceilings"]
    assert status == 1
    assert section["error"] == "its time was up after 2 cases"
    assert section["rows"][1] == {"case": "product tf32", "error": "ended after 9 s"}


@pytest.fixture
def processes(monkeypatch):
    """Return a function that starts a process which runs a program in the place of a part."""

    def begin(program):
        monkeypatch.setattr(gpu.sys, "executable", sys.executable)
        real = subprocess.Popen

        def popen(command, **options):
            return real([sys.executable, "-c", program, command[-1]], **options)

        monkeypatch.setattr(gpu.subprocess, "Popen", popen)
        return gpu._Process(gpu_parts.Settings("ceilings", "cuda", True, ""))

    return begin


BEGUN = """
import os, sys, time
results = os.fdopen(int(sys.argv[1]), "w")
results.write('{"case": "a"}\\n')
results.flush()
"""


def test_a_process_that_does_not_begin_is_ended(processes, monkeypatch):
    monkeypatch.setattr(gpu, "BEGIN", 0.5)
    with processes("import time; print('importing', flush=True); time.sleep(60)") as process:
        assert list(process.messages(time.perf_counter() + 60, 0.1)) == []
        assert process.end().startswith("ended after")


def test_a_case_that_does_not_end_is_ended(processes):
    with processes(BEGUN + "time.sleep(60)") as process:
        assert list(process.messages(time.perf_counter() + 60, 0.3)) == [{"case": "a"}]
        assert process.end() == "ended after 0 s without a result"


def test_a_process_that_dies_is_told_with_its_last_words(processes):
    program = 'print("illegal address", flush=True); os.kill(os.getpid(), 9)'
    with processes(BEGUN + program) as process:
        assert list(process.messages(time.perf_counter() + 60, 60)) == [{"case": "a"}]
        assert process.end() == f"the process ended by {signal.SIGKILL.name}: illegal address"


def run_cases(monkeypatch, cases, usable=True, skip=0):
    monkeypatch.setitem(gpu_parts.PARTS, "checks", lambda settings: cases)
    monkeypatch.setattr(gpu_parts, "usable", lambda settings: usable)
    read, write = os.pipe()
    settings = gpu_parts.Settings("checks", "cuda", True, "", skip)
    status = gpu_parts.serve([settings.to_json(), str(write)])
    with os.fdopen(read) as results:
        return status, [json.loads(line) for line in results]


def broken():
    raise DeviceError("out of memory on the GPU")


CASES = [Case("a", dict), Case("b", broken), Case("c", dict)]


def test_a_process_goes_on_after_an_error_that_left_the_device_usable(monkeypatch):
    status, said = run_cases(monkeypatch, CASES)
    assert status == 0
    assert [each.get("case") for each in said[::2]] == ["a", "b", "c", None]
    assert said[3]["row"]["error"] == "out of memory on the GPU"
    assert said[-1] == DONE


def test_a_process_ends_after_an_error_that_broke_the_device(monkeypatch):
    status, said = run_cases(monkeypatch, CASES, usable=False, skip=1)
    assert status == gpu_parts.BROKEN
    assert [each.get("case") for each in said] == ["b", None]


def test_a_part_that_cannot_be_made_says_why(monkeypatch):
    def cases():
        yield CASES[0]
        raise ValueError("no such size")

    status, said = run_cases(monkeypatch, cases())
    assert status == 1
    assert said[-1]["part_error"]["error"] == "ValueError: no such size"


@pytest.mark.usefixtures("on_cpu")
def test_variants_that_do_not_compile_are_named_after_all_others(monkeypatch):
    wrong = [(("SCALAR", "int"),), (("SCALAR", "double"),)]
    right = (("SCALAR", "float"),)
    monkeypatch.setattr(gpu_parts, "variants", lambda text: [wrong[0], right, wrong[1]])
    with pytest.raises(
        RuntimeError, match=r"^column_sum .*'int'.*; column_sum .*'double'"
    ) as found:
        gpu_parts.compile_files("cuda-on-cpu", "column_sum.cu")
    assert "not among the variants" in str(found.value)


ON_DEVICES = {name for name, room in operations().items() if "cuda" in room.versions}


def test_every_kernel_is_timed():
    timed = {*benches("moving"), *benches("multiplying"), "matmul"}  # whose time is a ceiling
    assert timed == ON_DEVICES


def test_the_checks_pass_and_are_of_every_kernel(on_cpu):
    names = set()
    for check in gpu_checks.checks(quick=True):
        for precision in check.precisions:
            outcome = gpu_checks.run(check, precision, on_cpu)
            assert outcome.passed, outcome
        names.add(check.name)
    assert names == ON_DEVICES


def test_the_part_of_checks_is_made_of_them(monkeypatch, on_cpu):
    x = np.random.default_rng(0).standard_normal((5, 33), np.float32)
    right = Check("softmax", "right", lambda op, i: [op.forward(i.x)], {"x": x})
    monkeypatch.setattr(gpu_checks, "checks", lambda quick: [right])
    settings = gpu_parts.Settings("checks", "cuda-on-cpu", True, "")
    cases = list(gpu_parts.PARTS["checks"](settings))
    assert [case.name for case in cases] == ["softmax right float32", "softmax right bf16"]
    assert all(case.run()["passed"] for case in cases)


@pytest.mark.parametrize("wrong", [lambda y: y * 1.001, lambda y: y * np.nan, lambda y: y + 1e-4])
def test_a_wrong_result_does_not_pass(on_cpu, wrong):
    def compute(op, arrays):
        y = op.forward(arrays.x)
        return [wrong(y) if namespace(y) is not np else y]

    x = np.random.default_rng(0).standard_normal((5, 33), np.float32)
    check = Check("softmax", "wrong", compute, {"x": x})
    outcome = gpu_checks.run(check, "float32", on_cpu)
    assert not outcome.passed
    assert outcome.error > 10 * outcome.allowed


class Clock:
    """Events of a device whose time goes on by `step` seconds with each action."""

    def __init__(self, step):
        self.now, self.step, self.actions = 0.0, step, 0

    def act(self):
        self.now += self.step
        self.actions += 1

    def namespace(self, free=1 << 40):
        clock = self

        class Event:
            def record(self):
                self.at = clock.now

            def synchronize(self):
                self.waited = True

        def elapsed(start, end):
            assert end.waited
            return 1000 * (end.at - start.at)

        def refuse():
            raise RuntimeError("not today")

        properties = {"name": b"NVIDIA H200", "multiProcessorCount": 132, "totalGlobalMem": 1 << 30}
        runtime = SimpleNamespace(
            memGetInfo=lambda: (free, 1 << 40),
            getDevice=lambda: 0,
            getDeviceProperties=lambda number: properties,
            driverGetVersion=lambda: 13010,
            runtimeGetVersion=refuse,
        )
        cuda = SimpleNamespace(
            Event=Event,
            get_elapsed_time=elapsed,
            runtime=runtime,
            Device=lambda number: SimpleNamespace(compute_capability="90"),
            nvrtc=SimpleNamespace(getVersion=lambda: (13, 1)),
        )
        return SimpleNamespace(name="cuda", xp=SimpleNamespace(cuda=cuda))


@pytest.mark.parametrize(("step", "least"), [(1e-5, 200), (1e-3, 2), (0.5, 1)])
def test_short_work_is_repeated_between_two_events(step, least, monkeypatch):
    monkeypatch.setattr(gpu_timing, "WARM_SECONDS", 0)
    clock = Clock(step)
    taken = gpu_timing.median_seconds(clock.namespace(), clock.act, rounds=3)
    assert taken == pytest.approx(step)
    assert clock.actions == 1 + 3 * least


def test_a_small_memory_has_small_arrays():
    clock = Clock(1)
    assert gpu_kernels.sizes_for(clock.namespace(), False).rows == gpu_kernels.FULL.rows
    sizes = gpu_kernels.sizes_for(clock.namespace(free=8 << 30), True)
    assert sizes.rows * sizes.channels * 4 == 128 << 20
    assert sizes.rounds == gpu_kernels.QUICK.rounds
    assert gpu_kernels.attention_shapes(gpu_kernels.FULL)[0] == (64, 6, 256, 64)
    assert gpu_kernels.attention_shapes(gpu_kernels.FULL)[-1] == (1, 6, 16_384, 64)


def test_the_machine_is_described_as_far_as_it_answers(monkeypatch):
    answer = "580.1, 96.00, 700.00 W, 1980 MHz, 3201 MHz\n"
    monkeypatch.setattr(
        gpu_parts.subprocess,
        "run",
        lambda *arguments, **options: subprocess.CompletedProcess([], 0, answer),
    )
    found = gpu_parts.describe_machine(Clock(1).namespace())
    assert found["gpu"] == "NVIDIA H200"
    assert (found["compute capability"], found["NVRTC"]) == ("90", "13.1")
    assert found["CUDA of the driver"] == "13.1"
    assert found["CUDA of CuPy"] == "not known: not today"
    assert found["L2 cache"].startswith("not known")
    assert (found["driver_version"], found["power.limit"]) == ("580.1", "700.00 W")


def test_the_nearer_of_two_limits_is_named():
    rows = [
        {"case": "copy", "seconds": 2.0, "bytes": 200.0},
        {"case": "product bf16", "seconds": 1.0, "products": 1000.0},
    ]
    parts = {"ceilings": {"rows": rows}}
    row = {"seconds": 4.0, "bytes": 100, "products": 3000, "precision": "bf16"}
    assert gpu_report.limit(parts, row) == ("product bf16", 0.75)
    assert gpu_report.limit(parts, {**row, "bytes": 360}) == ("copy", 0.9)
    assert gpu_report.limit(parts, {**row, "precision": "tf32"}) == ("copy", 0.25)
    assert gpu_report.limit({}, row) is None


def test_targets_are_judged_in_the_table():
    def part(*rows):
        return {"rows": list(rows)}

    shape = [64, 6, 256, 64]
    times = {"forward_seconds": 1e-3, "seconds": 4e-3, "atomic_seconds": 2e-3, "shape": shape}
    products = {"forward": 1e9, "backward": 2e9}
    parts = {
        "ceilings": part({"case": "copy", "seconds": 1.0, "bytes": 100.0}),
        "kernels": part(
            {"case": "softmax", "seconds": 1.0, "bytes": 79.0},
            {"case": "relu", "seconds": 1.0, "bytes": 81.0},
        ),
        "attention": part({"case": "T = 256", **times, "products": products}),
        "steps": part({"case": "graph bf16", "precision": "bf16", "seconds": 1.0, "products": 1e9}),
        "PyTorch": part(
            {"case": "flash T = 256", **times, "seconds": 5e-3},
            {"case": "eager, SDPA bf16", "precision": "bf16", "seconds": 2.9},
        ),
        "PyTorch compiled": part({"case": "compiled bf16", "precision": "bf16", "seconds": 1.6}),
        "training": part({"case": "x", "seconds": 50.0, "steps": 5000, "validation_loss": 1.49}),
    }
    results = {"machine": {"device": "cuda"}, "parts": parts}
    lines = {line.split("  ")[0]: line for line in gpu_report.table(results).splitlines()}
    assert "met" not in gpu_report.table({"machine": {"device": "cuda-on-cpu"}, "parts": parts})
    assert "79%" in lines["softmax"]
    assert lines["softmax"].endswith("0.8: missed")
    assert lines["relu"].endswith("0.8: met")
    assert "1.25 x" in lines["T = 256, with backward"]
    assert lines["T = 256, with backward"].endswith("1: met")
    assert "2.50 x" in lines["T = 256, with backward, atomic"]
    assert "met" not in lines["T = 256, with backward, atomic"]
    assert lines["PyTorch eager, SDPA bf16"].endswith("3: missed")
    assert lines["PyTorch compiled bf16"].endswith("1.5: met")
    assert lines["x"].endswith("60 s: met, 1.48: missed")
