"""The shape of the whole: who imports whom, what is documented, what is installed."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["kernels", "tinygrad_char", "models", "benchmarks"]  # each imports those before it
HEAVY = [
    *("matplotlib", "cupy", "torch", "rich", "tyro", "pooch", "requests", "safetensors"),
    *("filelock", "threadpoolctl", "charset_normalizer"),
]
SKIPPED = {".git", ".venv", "venv", "build", "dist", "__pycache__"}


def python_files(*folders):
    """Return the Python files below the folders; below the root without installed packages."""
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if not SKIPPED & set(path.relative_to(ROOT).parts)
    )


def imported_modules(path):
    """Yield the line and the full name of every module that a file imports, wherever it does."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _is_dynamic_import(node.func) and node.args:
            target = node.args[0]
            yield node.lineno, target.value if isinstance(target, ast.Constant) else "?"


def _is_dynamic_import(function):
    name = getattr(function, "attr", getattr(function, "id", None))
    return name in ("import_module", "__import__")


def importers(*names):
    return sorted(
        {
            str(path.relative_to(ROOT))
            for path in python_files(".")
            for _, module in imported_modules(path)
            if module.partition(".")[0] in names
        }
    )


def test_the_import_finder_sees_every_form():
    text = """
import a.b as c
def f():
    from d import e
    from . import g
    from ..h import i
    importlib.import_module("j.k")
    __import__("l")
"""
    path = ROOT / "kernels" / "deep" / "none.py"
    with mock.patch.object(Path, "read_text", return_value=text):
        found = [module for _, module in imported_modules(path)]
    expected = ["a.b", "d", "d.e", "kernels.deep", "kernels.deep.g", "kernels.h", "kernels.h.i"]
    assert sorted(found) == sorted([*expected, "j.k", "l"])


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_down_only(layer):
    above = [*LAYERS[LAYERS.index(layer) + 1 :], "tests"]
    files = python_files(layer)
    assert files
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files
        for line, module in imported_modules(path)
        if module.partition(".")[0] in above
    ]
    assert wrong == []


def test_only_the_cuda_backend_imports_cupy():
    assert importers("cupy", "cupyx", "cupy_backends") == ["kernels/cuda.py"]


def test_nothing_imports_pickle():
    names = ("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib")
    assert [each for each in importers(*names) if not each.startswith("tests/")] == []


def test_no_engine_or_model_imports_pytorch():
    assert [each for each in importers("torch") if each.split("/")[0] in LAYERS[:3]] == []


def test_importing_the_engine_loads_nothing_heavy():
    program = "import sys, json, tinygrad_char; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.partition(".")[0] for name in json.loads(result.stdout)}
    assert "tinygrad_char" in loaded
    assert loaded & set(HEAVY) == set()
    assert result.stderr == ""


def undocumented(path):
    """Yield the public modules, classes and functions of a file that have no docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if ast.get_docstring(tree) is None and tree.body:
        yield f"{path.relative_to(ROOT)}: module"
    stack = [(tree, "")]
    while stack:
        parent, prefix = stack.pop()
        for node in ast.iter_child_nodes(parent):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_") or _is_setter(node) or _is_overload(node):
                continue
            if ast.get_docstring(node) is None:
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {prefix}{node.name}"
            if isinstance(node, ast.ClassDef):
                stack.append((node, f"{prefix}{node.name}."))


def _is_setter(node):
    return any(getattr(each, "attr", None) == "setter" for each in node.decorator_list)


def _is_overload(node):
    return any(getattr(each, "id", None) == "overload" for each in node.decorator_list)


def test_everything_public_is_documented():
    files = python_files("kernels", "tinygrad_char")
    assert [each for path in files for each in undocumented(path)] == []


def test_the_docstring_finder_finds_what_lacks_one():
    path = ROOT / "kernels" / "none.py"
    text = "class A:\n    'x'\n    def f(self): 1\n    def _g(self): 1\ndef h(): 1\n"
    with mock.patch.object(Path, "read_text", return_value=text):
        found = [each.split(": ")[1] for each in undocumented(path)]
    assert sorted(found) == ["A.f", "h", "module"]


def test_setup_lists_the_packages_that_exist(setup_arguments):
    on_disk = {".".join(path.relative_to(ROOT).parts[:-1]) for path in python_files(*LAYERS)}
    listed = setup_arguments["packages"]
    assert sorted(listed) == sorted(on_disk)
    assert all((ROOT / name.replace(".", "/") / "__init__.py").is_file() for name in listed)


def test_setup_ships_every_file_that_is_not_python(setup_arguments):
    data = setup_arguments["package_data"]
    missing = [
        str(path.relative_to(ROOT))
        for package in setup_arguments["packages"]
        for path in (ROOT / package.replace(".", "/")).iterdir()
        if path.suffix in (".c", ".h", ".cu", ".cuh", ".typed")
        if not any(path.match(pattern) for pattern in data.get(package, []))
    ]
    assert missing == []


def test_setup_declares_what_the_packages_import(setup_arguments):
    requirements = [
        *setup_arguments["install_requires"],
        *(each for extra in setup_arguments["extras_require"].values() for each in extra),
    ]
    declared = {name.lower() for each in requirements for name in _names(each)}
    own = {*LAYERS, "tests"}
    foreign = {
        module.partition(".")[0]
        for path in python_files(*LAYERS)
        for _, module in imported_modules(path)
    }
    assert foreign - set(sys.stdlib_module_names) - own - declared - {"cupy", "cuda"} == set()


def _names(requirement):
    name = requirement
    for sign in "><=!~[; ":
        name = name.partition(sign)[0]
    return [name, name.replace("-", "_")]
