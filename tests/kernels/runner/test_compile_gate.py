"""The gate compiles every variant of every kernel for each target and stops what spills."""

import json
from pathlib import Path

import pytest

from tinygrad_char.kernels.cuda import compile as gate
from tinygrad_char.kernels.cuda.device_compiler import (
    DeviceCompilerError,
    Usage,
    find_device_compiler,
    read_usage,
)
from tinygrad_char.kernels.cuda.launcher import FOLDER, Kernel, LaunchError
from tinygrad_char.kernels.cuda.variants import variants

LOG = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_90'
ptxas info    : Function properties for first
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 512 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function 'second' for 'sm_90'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers
"""
PLAIN = 'extern "C" __global__ void plain(float* x, int n) { if (threadIdx.x < n) x[0] = N; }\n'
SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) spilling(const float* x, float* y) {
    float all[96];
    #pragma unroll
    for (int i = 0; i < 96; i++) all[i] = x[threadIdx.x * 96 + i];
    __syncthreads();
    float sum = 0.0f;
    #pragma unroll
    for (int i = 0; i < 96; i++) sum = sum * all[95 - i] + all[i];
    y[threadIdx.x] = sum;
}
"""


@pytest.fixture(scope="module")
def real_compilers():
    found = []
    for name in ("nvcc", "nvrtc"):
        try:
            found.append(find_device_compiler(name))
        except DeviceCompilerError as error:
            reason = str(error)
    if not found:
        pytest.skip(reason)
    return found


class Compiler:
    """A compiler that finds the same in every file, or fails for one architecture."""

    name = "compiler 1.0"

    def compile(self, path, architecture, macros):
        if architecture == "sm_1":
            raise DeviceCompilerError("no such architecture")
        return [Usage("plain", 20, 0, 4, 8, 256)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "plain.cu"
    path.write_text("// Variants: N=1|2\n" + PLAIN)
    return path


@pytest.fixture
def compiler(monkeypatch):
    monkeypatch.setattr(gate, "find_device_compiler", lambda name: Compiler())


def test_the_words_of_the_assembler_are_read():
    assert read_usage(LOG) == [
        Usage("first", 32, 8, 12, 16, 512),
        Usage("second", 10, 0, 0, 0, 0),
    ]


def test_a_file_names_its_variants():
    text = """/* SCALAR is a type.
 * Variants: SCALAR=float VECTOR=1|4
 * Variants: SCALAR=__nv_bfloat16 VECTOR=1|8 */"""
    assert variants(text) == [
        (("SCALAR", "float"), ("VECTOR", "1")),
        (("SCALAR", "float"), ("VECTOR", "4")),
        (("SCALAR", "__nv_bfloat16"), ("VECTOR", "1")),
        (("SCALAR", "__nv_bfloat16"), ("VECTOR", "8")),
    ]
    assert variants("// no Variants here") == [()]


@pytest.mark.parametrize("line", ["", "SCALAR", "SCALAR=", "SCALAR=float, N=1", "N = 1"])
def test_a_line_of_variants_that_cannot_be_read_is_refused(line):
    with pytest.raises(ValueError, match=r"is not NAME=value\|value"):
        variants(f"// Variants: {line}\n")


def test_only_variants_that_the_file_names_can_be_launched(file):
    assert Kernel(file, "plain", (("N", 2),)).signature.name == "plain"
    with pytest.raises(LaunchError, match=r"plain.cu: N=3: not among the variants that the file"):
        _ = Kernel(file, "plain", (("N", 3),)).signature
    with pytest.raises(LaunchError, match=r"plain.cu: no macros: not among the variants"):
        _ = Kernel(file, "plain").signature


@pytest.mark.parametrize(("allowed", "status"), [(0, 1), (11, 1), (12, 0)])
def test_spills_beyond_what_is_allowed_fail(file, compiler, capsys, allowed, status):
    assert gate.main([str(file), "--arch", "sm_80", "--spills", str(allowed)]) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("compiler 1.0")
    assert lines[3].split()[:7] == ["plain", "N=1", "sm_80", "20", "0", "12", "256"]
    assert lines[4].split()[1] == "N=2"
    assert lines[3].endswith(f"more than {allowed} spilled") == (status == 1)


def test_a_file_may_say_what_it_spills_and_why(file, compiler):
    file.write_text(file.read_text() + "// Spills: up to 12 bytes, since it has to.\n")
    assert gate.main([str(file)]) == 0
    file.write_text(file.read_text().replace("12 bytes", "11 bytes"))
    assert gate.main([str(file)]) == 1


def test_a_summary_has_a_line_for_each_kernel(compiler, capsys, monkeypatch, file):
    def compile_one(self, path, architecture, macros):
        several = architecture == "sm_80" and "N=1" in macros
        return [Usage("plain", 30 if several else 20, 0, 4, 8 if several else 0, 256)]

    monkeypatch.setattr(Compiler, "compile", compile_one)
    arguments = [str(file), "--arch", "sm_80", "sm_90", "--summary", "--spills", "12"]
    assert gate.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == [
        *("file", "kernel", "variants", "sm_80", "sm_90", "spilled", "static", "shared")
    ]
    assert lines[3].split() == ["plain.cu", "plain", "2", "20-30", "20", "12", "256"]


def test_json_has_all_of_it(file, compiler, capsys):
    assert gate.main([str(file), "--arch", "sm_80", "sm_1", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["compiler"] == "compiler 1.0"
    assert len(printed["kernels"]) == 4
    assert printed["kernels"][0] == {
        "file": "plain.cu",
        "macros": {"N": "1"},
        "architecture": "sm_80",
        "allowed_spills": 0,
        "function": "plain",
        "registers": 20,
        "stack": 0,
        "spill_stores": 4,
        "spill_loads": 8,
        "static_shared": 256,
    }
    assert printed["kernels"][1]["error"] == "no such architecture"


def test_a_kernel_that_does_not_compile_fails_with_its_reason(file, compiler, capsys):
    assert gate.main([str(file), "--arch", "sm_1", "--spills", "100"]) == 1
    printed = capsys.readouterr()
    assert "does not compile" in printed.out
    assert "plain.cu -DN=1 for sm_1 does not compile:\nno such architecture" in printed.err


def test_a_kernel_that_was_left_out_fails(file, compiler, capsys):
    file.write_text(file.read_text() + PLAIN.replace("plain", "other"))
    assert gate.main([str(file), "--spills", "100"]) == 1
    assert "other: not in what was compiled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "90"], "--arch 90: expected a name such as sm_90"),
        (["--spills", "-1"], "--spills -1: expected a number of bytes"),
        (["--spills", "few"], "invalid int value: 'few'"),
        (["nothing"], f"there is no file {FOLDER / 'nothing.cu'}"),
        (["--compiler", "gcc"], "invalid choice: 'gcc'"),
    ],
)
def test_wrong_usage_exits_with_2(compiler, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        gate.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_machine_without_either_compiler_says_what_to_install(monkeypatch, capsys, file):
    monkeypatch.setattr(
        "tinygrad_char.kernels.cuda.device_compiler.shutil.which", lambda name, path=None: None
    )
    monkeypatch.setattr("tinygrad_char.kernels.cuda.device_compiler._find_nvrtc", lambda: None)
    with pytest.raises(SystemExit) as caught:
        gate.main([str(file)])
    assert caught.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "neither nvcc nor NVRTC is on this machine" in said
    assert "pip install nvidia-cuda-nvrtc" in said


def test_real_compilers_see_spills_and_errors(real_compilers, tmp_path):
    path = tmp_path / "some.cu"
    for compiler in real_compilers:
        path.write_text(SPILLING)
        (result,) = gate.compile_all(compiler, [path], ["sm_80"])
        assert result.error == ""
        assert [each.function for each in result.spilling] == ["spilling"]
        path.write_text(PLAIN)
        (result,) = gate.compile_all(compiler, [path], ["sm_80"])
        assert 'identifier "N" is undefined' in result.error


def test_what_the_runner_emulates_compiles_for_every_target(real_compilers):
    path = Path(__file__).with_name("clean.cu")
    for compiler in real_compilers:
        results = gate.compile_all(compiler, [path], gate.ARCHITECTURES)
        assert [result.error for result in results] == ["", "", ""]
        assert [result.spilling for result in results] == [[], [], []]
        functions = {usage.function: usage for usage in results[0].usages}
        assert functions["narrow_writes"].static_shared == 256
