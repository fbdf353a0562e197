import os
import subprocess
import sys

import pytest
import threadpoolctl

from tinygrad_char.models import __main__ as program
from tinygrad_char.models import cli, doctor, openblas

WITH = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512cd avx512bw avx512dq avx512vl\n"
WITHOUT = "processor\t: 0\nflags\t\t: fpu avx2 avx512f\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a function that sets what the processor has and what the library took."""

    def build(cpuinfo=WITH, taken="Haswell", library="openblas"):
        path = tmp_path / "cpuinfo"
        if cpuinfo is not None:
            path.write_text(cpuinfo)
        monkeypatch.setattr(openblas, "_CPUINFO", path)
        info = {
            "user_api": "blas",
            "internal_api": library,
            "architecture": taken,
            "num_threads": 1,
        }
        monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: [info] if library else [])

    monkeypatch.delenv(openblas.VARIABLE, raising=False)
    return build


@pytest.mark.parametrize("taken", ["Haswell", "Zen", "Sandybridge"])
def test_older_kernels_are_replaced_where_the_processor_can_do_better(machine, taken):
    machine(taken=taken)
    assert openblas.better_core_type() == "SkylakeX"


@pytest.mark.parametrize(
    "facts",
    [
        {"taken": "SkylakeX"},
        {"taken": "Cooperlake"},
        {"taken": "SapphireRapids"},
        {"library": "mkl"},
        {"library": None},
        {"cpuinfo": WITHOUT},
        {"cpuinfo": "Features : asimd\n"},
        {"cpuinfo": None},
    ],
)
def test_otherwise_the_choice_stands(machine, facts):
    machine(**facts)
    assert openblas.better_core_type() is None


def test_the_user_has_the_last_word(machine, monkeypatch):
    machine()
    monkeypatch.setenv(openblas.VARIABLE, "Haswell")
    assert openblas.better_core_type() is None


@pytest.mark.parametrize(
    ("arguments", "restarts"),
    [
        (["train", "--steps", "5"], True),
        (["evaluate", "run"], True),
        (["train", "--help"], False),
        (["generate", "run"], False),
        (["doctor"], False),
        ([], False),
    ],
)
def test_the_program_begins_again_before_it_computes(machine, monkeypatch, arguments, restarts):
    machine()
    begun = []
    monkeypatch.setattr(os, "execve", lambda *given: begun.append(given))
    monkeypatch.setattr(sys, "argv", ["tinygrad-char", *arguments])
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-m", "tinygrad_char.models", *arguments])
    monkeypatch.setattr(cli, "run", lambda given: 0)
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 0
    assert len(begun) == restarts
    for path, command, environment in begun:
        assert path == command[0] == sys.executable
        assert command[1:] == ["-m", "tinygrad_char.models", *arguments]
        assert environment == {**os.environ, openblas.VARIABLE: "SkylakeX"}


def test_doctor_tells_of_the_better_choice(machine, monkeypatch):
    machine()
    assert "OPENBLAS_CORETYPE=SkylakeX" in doctor.examine()["matrix_products"]
    machine(taken="SkylakeX")
    assert "OPENBLAS_CORETYPE" not in doctor.examine()["matrix_products"]


def test_a_restarted_program_gets_its_arguments_and_the_variable():
    code = (
        "import os, sys; from tinygrad_char.models import openblas\n"
        "chosen = openblas.VARIABLE in os.environ\n"
        "openblas.better_core_type = lambda: None if chosen else 'Haswell'\n"
        "openblas.restart_with_better_core_type()\n"
        "print(os.environ[openblas.VARIABLE], sys.argv[1:])"
    )
    environment = {name: value for name, value in os.environ.items() if name != openblas.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", code, "a b", "--c"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout == "Haswell ['a b', '--c']\n"
