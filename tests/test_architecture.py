"""The shape of the whole: who imports whom, what is documented, what is installed."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "tinygrad_char"
LAYERS = ["kernels", "tinygrad_char", "models", "benchmarks"]  # each imports those before it
HEAVY = [
    *("matplotlib", "cupy", "torch", "rich", "tyro", "pooch", "requests", "safetensors"),
    *("filelock", "threadpoolctl", "charset_normalizer"),
]
SKIPPED = {".git", ".venv", "venv", "build", "dist", "__pycache__"}
FINDER = "kernels/operations.py"  # imports modules of operations by their folders' names
PICKLES = ("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib")


def python_files(*folders, root=ROOT):
    """Return the Python files below the folders; below the root without installed packages."""
    return sorted(
        path
        for folder in folders
        for path in (root / folder).rglob("*.py")
        if not SKIPPED & set(path.relative_to(root).parts)
    )


def package_of(path, root=ROOT):
    """Return the parts of the import name of the package that a file is in."""
    folders = path.relative_to(root).parts[:-1]
    return folders if folders[:1] == (PACKAGE,) else (PACKAGE, *folders)


def layer_of(module):
    """Return the layer that a module belongs to, by its import name; None for what is not ours."""
    first, _, rest = module.partition(".")
    if first != PACKAGE:
        return None
    folder = rest.partition(".")[0]
    return folder if folder in (*LAYERS, "tests") else PACKAGE


def imported_modules(path, root=ROOT):
    """Yield the line and the full name of every module that a file imports, wherever it does.

    Of `from a import b` both `a` and `a.b`, which may be a module or a name in one.
    """
    package = package_of(path, root)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
            if module != PACKAGE:  # the names tell whose they are
                yield node.lineno, module
        elif isinstance(node, ast.Call) and _is_dynamic_import(node.func) and node.args:
            target = node.args[0]
            if path.relative_to(root).as_posix() != FINDER:
                yield node.lineno, target.value if isinstance(target, ast.Constant) else "?"


def _is_dynamic_import(function):
    name = getattr(function, "attr", getattr(function, "id", None))
    return name in ("import_module", "__import__")


def importers(*names, root=ROOT):
    """Return the files that import modules whose names begin so."""
    return sorted(
        {
            str(path.relative_to(root))
            for path in python_files(".", root=root)
            for _, module in imported_modules(path, root)
            if module.partition(".")[0] in names
        }
    )


def arrows_up(root=ROOT):
    """Return the imports of a higher layer, or of the tests, by a lower one."""
    return [
        f"{path.relative_to(root)}:{line} imports {module}"
        for height, layer in enumerate(LAYERS)
        for path in python_files(layer, root=root)
        for line, module in imported_modules(path, root)
        if layer_of(module) in [*LAYERS[height + 1 :], "tests"]
    ]


def plant(root, **files):
    """Write files, whose names have __ for each slash, below a root."""
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_import_finder_sees_every_form(tmp_path):
    text = """
import a.b as c
def f():
    from d import e
    from . import g
    from ..h import i
    from tinygrad_char import j
    importlib.import_module("k.l")
    __import__("m")
"""
    plant(tmp_path, kernels__deep__file=text, tinygrad_char__ops__file="from ..kernels import n")
    found = [module for _, module in imported_modules(tmp_path / "kernels/deep/file.py", tmp_path)]
    kernels = "tinygrad_char.kernels"
    expected = ["a.b", "d", "d.e", f"{kernels}.deep", f"{kernels}.deep.g", f"{kernels}.h"]
    assert sorted(found) == sorted([*expected, f"{kernels}.h.i", "tinygrad_char.j", "k.l", "m"])
    inside = [
        name for _, name in imported_modules(tmp_path / "tinygrad_char/ops/file.py", tmp_path)
    ]
    assert sorted(inside) == [kernels, f"{kernels}.n"]


def test_imports_point_down_only():
    assert all(python_files(layer) for layer in LAYERS)
    assert arrows_up() == []


@pytest.mark.parametrize("low", range(len(LAYERS)))
@pytest.mark.parametrize("high", range(len(LAYERS)))
@pytest.mark.parametrize(
    "form", ["import {}.x", "from {} import x", "def f():\n    from {}.x import y"]
)
def test_an_arrow_up_is_seen(tmp_path, low, high, form):
    target = PACKAGE if LAYERS[high] == PACKAGE else f"{PACKAGE}.{LAYERS[high]}"
    plant(tmp_path, **{f"{LAYERS[low]}__file": form.format(target)})
    assert bool(arrows_up(tmp_path)) == (high > low)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "text", ["import tinygrad_char.tests.x", "from tinygrad_char import tests"]
)
def test_an_import_of_the_tests_is_seen(tmp_path, layer, text):
    assert arrows_up(plant(tmp_path, **{f"{layer}__file": text})) != []


def test_nothing_imports_our_folders_by_their_own_names():
    assert importers("kernels", "models", "benchmarks", "tests") == []


@pytest.mark.parametrize("name", ["kernels", "models", "benchmarks", "tests"])
def test_an_import_by_a_folder_s_own_name_is_seen(tmp_path, name):
    plant(tmp_path, tests__a=f"from {name} import b", models__c=f"import {name}.d")
    assert importers(name, root=tmp_path) == ["models/c.py", "tests/a.py"]


def test_only_the_cuda_backend_imports_cupy():
    assert importers("cupy", "cupyx", "cupy_backends") == ["kernels/cuda/backend.py"]


def test_nothing_imports_pickle():
    assert [each for each in importers(*PICKLES) if not each.startswith("tests/")] == []


def test_no_engine_or_model_imports_pytorch():
    assert [each for each in importers("torch") if each.split("/")[0] in LAYERS[:3]] == []


@pytest.mark.parametrize("name", ["cupy", "torch", *PICKLES])
def test_an_import_of_what_is_not_allowed_is_seen(tmp_path, name):
    plant(tmp_path, kernels__a=f"def f():\n    import {name}.b", models__c=f"from {name} import d")
    assert importers(name, root=tmp_path) == ["kernels/a.py", "models/c.py"]


def test_importing_the_engine_loads_nothing_heavy():
    program = "import sys, json, tinygrad_char; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.partition(".")[0] for name in json.loads(result.stdout)}
    assert "tinygrad_char" in loaded
    assert loaded & set(HEAVY) == set()
    assert result.stderr == ""


# Their functions have the words of the reference's, and those of cpu/bench.py and cuda/bench.py.
VERSIONS = ("cpu.py", "cuda.py", "loops.py", "bench.py")
SPOKEN_FOR = ("forward", "backward", "result", "loss", "value", "extra_repr")
"""Methods that the docstring of their class may speak for, in `tinygrad_char/ops` and `nn`."""


def undocumented(path):
    """Yield the public modules, classes and functions of a file that have no docstring.

    Functions of an operation's versions and benchmark need none, nor do what a documented class
    speaks for.
    """
    is_version = path.name in VERSIONS and path.parent.parent.name == "kernels"
    speaks = path.parent.name in ("ops", "nn")
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
            needs_none = is_version and (prefix == "" or not isinstance(node, ast.ClassDef))
            needs_none = needs_none or (speaks and prefix != "" and node.name in SPOKEN_FOR)
            if ast.get_docstring(node) is None and not needs_none:
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


def test_a_class_speaks_for_its_passes_and_needs_words_itself():
    text = "'x'\nclass A:\n    'x'\n    def forward(self): 1\n    def f(self): 1\nclass B:\n    1"
    with mock.patch.object(Path, "read_text", return_value=text):
        found = [each.split(": ")[1] for each in undocumented(ROOT / "tinygrad_char/ops/none.py")]
        elsewhere = [each.split(": ")[1] for each in undocumented(ROOT / "tinygrad_char/none.py")]
    assert sorted(found) == ["A.f", "B"]
    assert sorted(elsewhere) == ["A.f", "A.forward", "B"]


def test_setup_lists_the_packages_that_exist(setup_arguments):
    on_disk = {".".join(package_of(path)): path.parent for path in python_files(*LAYERS)}
    assert sorted(setup_arguments["packages"]) == sorted(on_disk)
    for name, folder in on_disk.items():
        assert (folder / "__init__.py").is_file()
        assert folder_of(name, setup_arguments["package_dir"]) == folder


def folder_of(package, folders):
    """Return where setuptools looks for a package: by its nearest entry in package_dir."""
    parts = package.split(".")
    for count in range(len(parts), 0, -1):
        if found := folders.get(".".join(parts[:count])):
            return ROOT.joinpath(found, *parts[count:])
    return ROOT.joinpath(*parts)


def test_setup_ships_every_file_that_is_not_python(setup_arguments):
    data = setup_arguments["package_data"]
    missing = [
        str(path.relative_to(ROOT))
        for package in setup_arguments["packages"]
        for path in folder_of(package, setup_arguments["package_dir"]).iterdir()
        if path.is_file() and path.suffix not in (".py", ".pyc", ".so", ".png")
        if not any(path.match(pattern) for pattern in [*data[""], *data.get(package, [])])
    ]
    assert missing == []


def test_setup_declares_what_the_packages_import(setup_arguments):
    requirements = [
        *setup_arguments["install_requires"],
        *(each for extra in setup_arguments["extras_require"].values() for each in extra),
    ]
    declared = {name.lower() for each in requirements for name in _names(each)}
    imported = {
        module.partition(".")[0]
        for path in python_files(*LAYERS)
        for _, module in imported_modules(path)
    }
    known = {*sys.stdlib_module_names, PACKAGE, *declared, "cupy", "cuda"}
    assert imported - known == set()


def _names(requirement):
    name = requirement
    for sign in "><=!~[; ":
        name = name.partition(sign)[0]
    return [name, name.replace("-", "_")]
