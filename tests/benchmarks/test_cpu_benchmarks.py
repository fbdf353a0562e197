"""The benchmarks with contenders, each at its smallest size, as one runs them."""

import importlib.util
import itertools
import json
import math
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char.benchmarks import averaging, ops, products, scaling, train_step
from tinygrad_char.benchmarks.measure import difference, resident
from tinygrad_char.benchmarks.report import QUIET, without_folder
from tinygrad_char.kernels.backend import references, status
from tinygrad_char.kernels.cpu.cores import available_cores
from tinygrad_char.kernels.operations import VARIABLE, benches
from tinygrad_char.models.config import PRESETS

ROOT = Path(__file__).resolve().parent.parent.parent
AGAINST = pytest.param(
    ("--against", "torch"),
    id="against torch",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
    ),
)
ALONE = pytest.param((), id="alone")
EVERY = pytest.mark.parametrize("against", [ALONE, AGAINST])


def run(name, *arguments, cwd, program=("-m", "tinygrad_char.benchmarks.{}")):
    """Run a benchmark and return its exit code and what it wrote to its two streams."""
    done = subprocess.run(
        [sys.executable, *(each.format(name) for each in program), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def measure(name, *arguments, cwd):
    """Run a benchmark at size smoke, check what all have in common, and return its JSON."""
    files = ("--json", "found.json", "--chart", "found.png")
    code, out, error = run(name, "--size", "smoke", *files, *arguments, cwd=cwd)
    assert (code, error) == (0, "")
    assert (cwd / "found.png").read_bytes().startswith(b"\x89PNG\r\n")
    values = json.loads((cwd / "found.json").read_text(), parse_constant=pytest.fail)
    assert values["benchmark"] == name
    assert values["arguments"] == ["--size", "smoke", *files, *arguments]
    assert values["machine"]["processors"] == available_cores()
    expected = {"ours", "PyTorch"} if "torch" in arguments else {"ours"}
    assert set(values["libraries"]) == expected
    assert all(values["machine"][key] in out for key in ("processor", "python"))
    assert values["agree"] is True
    assert "results agree: at most" in out
    assert 0 <= values["used_by_others"] <= 1
    assert ("repeat on a quiet machine" in out) == (values["used_by_others"] > QUIET)
    check_rows(values["results"])
    return values


def check_rows(rows):
    first = {}
    for row in rows:
        assert 0 <= row["difference"] <= row["bound"] < math.inf
        assert row["agrees"] is True
        low, high = row["quartiles"]
        assert 0 < min(row["samples"]) <= low <= row["seconds"] <= high <= max(row["samples"])
        case = tuple((key, row[key]) for key in row if key in ("task", "length", "axis", "value"))
        assert row["ratio"] == row["seconds"] / first.setdefault(case, row["seconds"])
        if resident() is not None:
            assert row["memory_peak"] >= row["memory_growth"]


def contenders(values):
    return list(dict.fromkeys(row["contender"] for row in values["results"]))


@EVERY
def test_train_step(against, tmp_path):
    styles = ("--styles", "sdpa", "heads") if against else ()
    values = measure("train_step", *against, *styles, cwd=tmp_path)
    torch = ["PyTorch, sdpa", "PyTorch, heads"] if against else []
    assert contenders(values) == ["ours", *torch]
    assert {row["task"] for row in values["results"]} == {"step"}


@EVERY
def test_train_step_in_bfloat16(against, tmp_path):
    options = ("--precision", "float32", "bf16", *(("--styles", "sdpa") if against else ()))
    values = measure("train_step", *against, *options, cwd=tmp_path)
    ways = ("", ", bf16 autocast", ", medium precision")
    torch = [f"PyTorch, sdpa{way}" for way in ways] if against else []
    assert contenders(values) == ["ours", "ours, bf16", *torch]
    found = {row["contender"]: row["difference"] for row in values["results"]}
    assert 0 < found["ours, bf16"] < train_step.BOUND_OF_BF16


@EVERY
def test_products_in_both_precisions(against, tmp_path):
    options = ("--size", "smoke", "--json", "found.json", *against)
    code, out, error = run("products", *options, cwd=tmp_path)
    assert (code, error) == (0, "")
    assert "bf16 over float32" in out
    values = json.loads((tmp_path / "found.json").read_text())
    assert values["agree"] is True
    assert len(values["results"]) == 12
    torch = ["PyTorch", "PyTorch, bf16 autocast", "PyTorch, medium precision"] if against else []
    for row in values["results"]:
        assert list(row["seconds"]) == ["float32", "bf16", *torch]
        assert min(row["seconds"].values()) > 0
        assert 1e-4 < row["difference"]["float32"] < 1e-2
        assert row["difference"]["bf16"] < 1e-6


def test_products_that_differ_exit_with_1(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["products.py", "--size", "smoke"])
    monkeypatch.setattr(products, "BOUND", 0.0)
    monkeypatch.setattr(products, "limit_threads", lambda threads: None)
    with pytest.raises(SystemExit) as end:
        products.main()
    assert end.value.code == 1


@EVERY
def test_attention(against, tmp_path):
    values = measure("attention", *against, cwd=tmp_path)
    ours = ["ours", "ours, one core"][: available_cores()]
    others = ["whole matrices", "Python loops", *(["PyTorch, sdpa"] if against else [])]
    assert contenders(values) == [*ours, *others]
    rows = values["results"]
    assert {row["task"] for row in rows} == {"forward", "forward and backward"}
    assert {tuple(row["shape"]) for row in rows} == {(2, 2, 8, 8), (2, 2, 13, 8)}
    assert all(row["length"] == row["shape"][2] for row in rows)


@EVERY
def test_generate(against, tmp_path):
    values = measure("generate", *against, cwd=tmp_path)
    torch = ["PyTorch, with cache", "PyTorch, without cache"] if against else []
    assert contenders(values) == ["ours", *torch]
    for row in values["results"]:
        assert row["difference"] == row["bound"] == 0
        assert row["characters_per_second"] == row["length"] / row["seconds"]


def test_generate_beside_the_plain_shape(tmp_path):
    values = measure("generate", "--plain", cwd=tmp_path)
    assert contenders(values) == ["ours", "ours, plain"]


@pytest.mark.skipif(not ops.fused(), reason=status())
@EVERY
def test_ops(against, tmp_path):
    values = measure("ops", *against, cwd=tmp_path)
    sides = ["fused", "reference", *(["PyTorch"] if against else [])]
    assert contenders(values) == ["machine", *sides]
    rows = values["results"]
    copies = {row["task"] for row in rows if row["task"].startswith("copy of")}
    ceilings = {row["task"]: row["per_second"] for row in rows if row["contender"] == "machine"}
    assert set(ceilings) == {"product", *copies}
    found = {(row["task"], row["contender"]) for row in rows if row["contender"] != "machine"}
    tasks = {task for task, _ in found}
    assert found == {(task, side) for task in tasks for side in sides}
    measured = {task.partition(" ")[0] for task in tasks}
    assert measured == set(ops.fused()), f"no benchmark of {set(ops.fused()) - measured}"
    amounts = ops.work(ops.SIZES["smoke"])
    for row in rows:
        if row["contender"] == "machine":
            assert row["of_ceiling"] == 1
            continue
        unit, amount = amounts[row["task"]]
        assert (row["unit"], row["per_second"]) == (unit, amount / row["seconds"])
        ceiling = "product" if unit == "operations" else f"copy of {amount / 2:,.0f} bytes"
        assert row["of_ceiling"] == row["per_second"] / ceilings[ceiling]


@pytest.mark.parametrize("name", ops.CASES)
def test_every_case_does_what_pytorch_does(name):
    torch = pytest.importorskip("torch")
    at = ops.SIZES["smoke"]
    expected = ops.CASES[name](references().operation(name), at)
    found = benches("torch_cases")[name](torch, at)
    assert list(expected) == list(found)
    assert set(expected) <= set(ops.work(at))
    for task, other in zip(expected.values(), found.values(), strict=True):
        results = [each.check() if each.check else each.run() for each in (task, other)]
        arrays = [
            [np.asarray(part) for part in (each if isinstance(each, tuple) else (each,))]
            for each in results
        ]
        assert difference(arrays[1], arrays[0]) < 1e-5


def test_ops_without_fused_kernels_exits_with_1(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "reference")
    code, out, error = run("ops", "--size", "smoke", cwd=tmp_path)
    assert (code, out) == (1, "")
    assert error.startswith("error: there is nothing to measure: references in NumPy")


@pytest.mark.skipif(not ops.fused(), reason=status())
def test_ops_measures_some_kernels_only(tmp_path):
    values = measure("ops", "--only", "layernorm", cwd=tmp_path)
    tasks = {row["task"] for row in values["results"] if row["contender"] != "machine"}
    assert tasks == {
        *("layernorm forward", "layernorm backward"),
        *("layernorm rms forward", "layernorm rms backward"),
    }
    code, _, error = run("ops", "--only", "conv", cwd=tmp_path)
    assert code == 2
    assert "--only conv" in error


@EVERY
def test_averaging(against, tmp_path):
    values = measure("averaging", *against, cwd=tmp_path)
    ways = ["running sum", "softmax weights", "triangular product", "Python loops"]
    if ops.fused():
        ways.insert(0, "fused")
    torch = [f"PyTorch, {way}" for way in ("cumsum", "softmax", "product")] if against else []
    assert contenders(values) == [*ways, *torch, "copy"]
    rows = {row["contender"]: row for row in values["results"]}
    assert {row["task"] for row in values["results"]} == {"mean", "read and write once"}
    for row in rows.values():
        assert row["times_copy"] == row["seconds"] / rows["copy"]["seconds"]
        assert row["published_seconds"] is None  # these are for one size


def test_averaging_without_fused_kernels_has_the_reference(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "reference")
    assert contenders(measure("averaging", cwd=tmp_path))[0] == "running sum"


def test_published_times_stand_beside_ours_at_their_size_only():
    rows = [{"contender": name, "seconds": 2.0} for name in ("copy", "Python loops")]
    averaging.add_figures(rows, averaging.SHAPES["published"])
    assert [row["published_seconds"] for row in rows] == [None, 4.84]
    averaging.add_figures(rows, averaging.SHAPES["small"])
    assert [row["published_seconds"] for row in rows] == [None, None]


@EVERY
def test_scaling(against, tmp_path):
    grown = {**scaling.VALUES["smoke"], "threads": list(range(1, available_cores() + 1))}
    axes = ("--axes", "T", "threads") if against else ()
    values = measure("scaling", *against, *axes, cwd=tmp_path)
    sides = ["ours", *(["PyTorch"] if against else [])]
    assert contenders(values) == sides
    rows, lines = values["results"], set(itertools.product(axes[1:] or grown, sides))
    found = {(row["axis"], row["value"], row["contender"]) for row in rows}
    assert found == {(axis, value, side) for axis, side in lines for value in grown[axis]}
    assert len(values["exponents"]) == len(lines)
    for each in values["exponents"]:
        line = (each["axis"], each["contender"])
        lines.remove(line)
        points = [
            (row["value"], row["seconds"])
            for row in rows
            if (row["axis"], row["contender"]) == line
        ]
        slope = np.polyfit(*np.log(np.transpose(points)), 1)[0]
        assert each["exponent"] == pytest.approx(slope)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 1000), min_size=2, max_size=9, unique=True),
    st.floats(-3, 3),
    st.floats(1e-6, 1e3),
)
def test_the_exponent_of_a_power_is_found(values, power, factor):
    seconds = [factor * value**power for value in values]
    assert scaling.exponent(values, seconds) == pytest.approx(power, abs=1e-6)


def test_a_single_value_has_no_exponent():
    assert scaling.exponent([4], [2.0]) is None
    assert scaling.exponent([4, 4], [2.0, 3.0]) is None


@pytest.mark.parametrize(
    ("axis", "change"),
    [
        ("T", {"block_size": 2}),
        ("C", {"n_embd": 2}),
        ("layers", {"n_layer": 2}),
        ("batch", {"batch_size": 2}),
        ("threads", {}),
    ],
)
def test_one_quantity_grows_and_the_others_stay(axis, change):
    base = replace(PRESETS["small"], gpt=replace(PRESETS["small"].gpt, n_head=1))
    grown = scaling.grow(base, axis, 2)
    before, after = ({**asdict(each), **asdict(each.gpt)} for each in (base, grown))
    different = {name for name in before if name != "gpt" and before[name] != after[name]}
    assert {name: after[name] for name in different} == change


def test_options_choose_rounds_threads_and_batch(tmp_path):
    options = ("--rounds", "3", "--threads", "1", "--batch-size", "1")
    values = measure("train_step", *options, cwd=tmp_path)
    assert [len(row["samples"]) for row in values["results"]] == [3]
    assert values["results"][0]["batch_size"] == 1
    assert "1 thread" in values["libraries"]["ours"]["products"]


WRONG_BOUND = """
import sys, tinygrad_char.benchmarks.{0} as benchmark
if __name__ == "__main__":
    benchmark.BOUND = -1.0
    sys.argv[0] = "{0}.py"
    benchmark.main()
"""


def test_results_that_differ_are_not_timed_and_exit_with_1(tmp_path):
    (tmp_path / "program.py").write_text(WRONG_BOUND.format("train_step"))
    code, out, error = run(
        *("train_step", "--size", "smoke", "--json", "found.json", "--chart", "found.png"),
        cwd=tmp_path,
        program=("program.py",),
    )
    assert (code, error) == (1, "")
    assert "RESULTS DIFFER" in out
    values = json.loads((tmp_path / "found.json").read_text())
    assert values["agree"] is False
    assert [row["agrees"] for row in values["results"]] == [False]
    assert "seconds" not in values["results"][0]
    assert not (tmp_path / "found.png").exists()


def test_without_pytorch_the_comparison_exits_with_2(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["train_step.py", "--against", "torch"])
    with pytest.raises(SystemExit) as end:
        train_step.main()
    assert end.value.code == 2
    error = capsys.readouterr().err.replace("│", " ")
    assert "--against torch needs PyTorch, which is not installed" in " ".join(error.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threads", "0"), "--threads is 0; expected 1 to"),
        (("--rounds", "0"), "--rounds is 0; expected at least 1"),
        (("--chart", "picture.jpg"), "expected a name that ends in .png"),
        (("--json", "nowhere/found.json"), "there is no folder nowhere"),
        (("--batch-size", "0"), "--batch-size is 0; expected at least 1"),
        (("--size", "huge"), "huge"),
        (("--against", "numpy"), "numpy"),
    ],
)
def test_wrong_usage_exits_with_2(arguments, message, tmp_path):
    code, out, error = run("train_step", *arguments, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert message in " ".join(error.replace("│", " ").split())


@pytest.mark.parametrize(
    ("argument", "kept"),
    [
        ("--size", "--size"),
        ("out/a.json", "out/a.json"),
        (str(Path.cwd() / "a.json"), "a.json"),
        (f"--json={Path.cwd() / 'a.json'}", "--json=a.json"),
        ("--size=full", "--size=full"),
    ],
)
def test_results_name_no_folder_of_this_machine(argument, kept):
    assert without_folder(argument) == kept


def test_a_checkout_beside_itself(tmp_path):
    options = ("--sizes", "smoke", "--rounds", "2", "--seconds", "0.001", "--json", "found.json")
    code, out, error = run("compare", str(ROOT), *options, cwd=tmp_path)
    assert (code, error) == (0, "")
    rows = {
        row["task"]: row for row in json.loads((tmp_path / "found.json").read_text())["results"]
    }
    assert {"step smoke", "generate smoke", "tape, with backward", "import"} <= set(rows)
    assert all(row["equal"] and row["difference"] == 0 for row in rows.values())
    for row in rows.values():
        assert len(row["here"]) == len(row["there"]) == 2
        assert row["ratio_of_smallest"] == min(row["here"]) / min(row["there"]) > 0
        assert row["task"] in out


def changed_checkout(folder):
    """Copy what a checkout needs into a folder, with a product that adds."""
    for name in ("kernels", "tinygrad_char", "models", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "tinygrad_char" / "tensor.py").open("a") as file:
        file.write("Tensor.__mul__ = lambda self, other: self + other\n")
    return folder


def test_a_checkout_whose_results_differ_fails(tmp_path):
    other = changed_checkout(tmp_path / "other")
    options = ("--sizes", "smoke", "--rounds", "1", "--seconds", "0.001", "--tasks", "tape")
    code, out, error = run("compare", str(other), *options, cwd=tmp_path)
    assert (code, error) == (1, "")
    assert "tape, recorded: results differ by" in out


def test_a_limit_on_the_ratio_of_times(tmp_path):
    options = ("--sizes", "smoke", "--rounds", "1", "--tasks", "tape", "--limit", "1e-9")
    code, out, _ = run("compare", str(ROOT), *options, cwd=tmp_path)
    assert code == 1
    assert "times the other's time (limit 1e-09)" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("/no/such/folder",), "'/no/such/folder' is not a checkout"),
        ((str(ROOT), "--rounds", "0"), "--rounds is 0; expected at least 1"),
        ((str(ROOT), "--seconds", "nan"), "--seconds is nan; expected a number above 0"),
    ],
)
def test_a_comparison_that_cannot_be(tmp_path, arguments, words):
    code, _, error = run("compare", *arguments, cwd=tmp_path)
    assert code == 2
    assert words in " ".join(error.replace("│", " ").split())
