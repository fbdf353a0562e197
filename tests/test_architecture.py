"""The shape of the whole: who imports whom, what is documented, what is installed."""

import ast
import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
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
PARTS = [  # of kernels: each imports those before it, and rooms those that their references import
    *("words", "array", "operations", "cpu", "reduce", "backend", "cuda"),
    *("rooms", "cuda_on_cpu", "devices"),
]
UP = {  # the arrows up that there are
    # An activation alone is a bias and an activation without the bias: one kernel for both.
    "kernels/gelu/cpu.py imports bias_activation",
    "kernels/gelu/cuda.py imports bias_activation",
    "kernels/relu/cuda.py imports bias_activation",
}
MEASURED = "benchmarks/results"  # stays in the checkout
FINDERS = {  # import modules by names that stand in no import
    "kernels/operations.py",  # of operations, by their folders' names
    "tinygrad_char/lazy.py",  # of public names
}
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
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = source_of(node, package_of(path, root))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
            if module != PACKAGE:  # the names tell whose they are
                yield node.lineno, module
        elif isinstance(node, ast.Call) and _is_dynamic_import(node.func) and node.args:
            target = node.args[0]
            if path.relative_to(root).as_posix() not in FINDERS:
                yield node.lineno, target.value if isinstance(target, ast.Constant) else "?"


def source_of(node, package):
    """Return the full name of what an ImportFrom imports from, in a package of these parts."""
    above = package[: len(package) - node.level + 1] if node.level else ()
    return ".".join([*above, *([node.module] if node.module else [])])


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


def imported_at_once(path, modules, root=ROOT):
    """Return those of our modules that importing a file imports, by name.

    What functions and type checking import is left out. So are the packages that a module is in:
    their files run before it, but it needs nothing of them.
    """
    found = set()
    nodes = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = source_of(node, package_of(path, root))
            names = [f"{module}.{alias.name}" for alias in node.names]
            found.update(name if name in modules else module for name in names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.body if isinstance(node.test, ast.UnaryOp) else node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            nodes += ast.iter_child_nodes(node)
    return found & modules.keys()


def import_graph(root=ROOT):
    """Return the paths of our modules, and which modules each imports at once, by name."""
    modules = {
        ".".join([*package_of(path, root), *([] if path.stem == "__init__" else [path.stem])]): path
        for path in python_files(*LAYERS, root=root)
    }
    return modules, {name: imported_at_once(path, modules, root) for name, path in modules.items()}


def import_circle(root=ROOT):
    """Return the names of modules of which each imports the next, and the last is the first."""
    try:
        TopologicalSorter(import_graph(root)[1]).prepare()
    except CycleError as error:
        return error.args[1][::-1]
    return []


def imported_past_their_packages(root=ROOT):
    """Return the imports of modules past the file of their package, which imports them itself.

    Python imports a package after it has locked the module. So of two threads, one in the package's
    file and the other one on its way through it, each would wait for the other.
    """
    modules, graph = import_graph(root)
    found = set()
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                entered = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                entered = [source_of(node, package_of(path, root))]
            else:
                continue
            for module in set(entered) & modules.keys():
                parts = module.split(".")
                for package in (".".join(parts[:count]) for count in range(1, len(parts))):
                    outside = name != package and not name.startswith(f"{package}.")
                    if outside and module in reached(package, graph):
                        found.add(f"{path.relative_to(root)} imports {module}")
    return found


def reached(package, graph):
    """Return the modules that importing a package imports, itself among them."""
    found, nodes = set(), [package]
    while nodes:
        node = nodes.pop()
        if node not in found:
            found.add(node)
            nodes += graph.get(node, ())
    return found


def parts_of_kernels(root=ROOT):
    """Return the names of the modules and folders in kernels, and of those that are rooms."""
    paths = [path.relative_to(root / "kernels") for path in python_files("kernels", root=root)]
    parts = {path.parts[0].removesuffix(".py") for path in paths} - {"__init__"}
    return parts, {part for part in parts if (root / "kernels" / part / "reference.py").is_file()}


def arrows_up_in_kernels(root=ROOT):
    """Return the imports of a higher part of kernels by a lower one.

    A room stands on those that its reference imports, and on those that these stand on.
    """
    parts, rooms = parts_of_kernels(root)
    arrows = {
        (path, path.relative_to(root / "kernels").parts[0].removesuffix(".py"), name.split(".")[2])
        for path in python_files("kernels", root=root)
        for _, name in imported_modules(path, root)
        if name.startswith(f"{PACKAGE}.kernels.") and name.split(".")[2] in parts
        if path != root / "kernels" / "__init__.py"  # which hands on what stands anywhere in it
    }
    imported = {room: set() for room in rooms}
    for path, part, to in arrows:
        if {part, to} <= rooms and path.name == "reference.py" and part != to:
            imported[part].add(to)
    below = {}
    for room in TopologicalSorter(imported).static_order():
        below[room] = imported[room].union(*(below[each] for each in imported[room]))

    def is_up(low, high):
        if {low, high} <= rooms:
            return low in below[high]
        heights = [PARTS.index("rooms" if each in rooms else each) for each in (low, high)]
        return heights[0] < heights[1]

    return {
        f"{path.relative_to(root)} imports {to}" for path, part, to in arrows if is_up(part, to)
    }


def plant(root, **files):
    """Write files below a root; their names may have __ for each slash."""
    for name, text in files.items():
        path = root / f"{name if '/' in name else name.replace('__', '/')}.py"
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


def test_no_modules_import_each_other_in_a_circle():
    assert import_circle() == []


@pytest.mark.parametrize(
    ("a", "b", "c"),
    [
        ("import tinygrad_char.kernels.b", "from tinygrad_char.models import c", "from . import a"),
        (
            "from ..kernels import b",
            "from ..models.c import x",
            "try:\n    from .a import x\nfinally: 1",
        ),
        (
            "class A:\n    from ..kernels.b import x",
            "import tinygrad_char.models.c",
            "from .a import x",
        ),
    ],
)
def test_a_circle_is_found(tmp_path, a, b, c):
    plant(tmp_path, models__a=a, kernels__b=b, models__c=c, models__d="from . import a")
    circle = [f"tinygrad_char.{name}" for name in ("models.a", "kernels.b", "models.c")]
    found = import_circle(tmp_path)
    assert sorted(found[1:]) == sorted(circle)
    assert found[0] == found[-1]
    after = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    assert [after[name] for name in found[:-1]] == found[1:]


@pytest.mark.parametrize(
    "late",
    [
        "def f():\n    from . import a",
        "if TYPE_CHECKING:\n    from . import a",
        "import tinygrad_char.models",
        "f = lambda: __import__('tinygrad_char.models.a')",
    ],
)
def test_what_is_imported_later_makes_no_circle(tmp_path, late):
    plant(tmp_path, **{"models/__init__": ""}, models__a="from . import b", models__b=late)
    assert import_circle(tmp_path) == []


def test_a_circle_through_the_file_of_a_package_is_found(tmp_path):
    plant(tmp_path, **{"models/__init__": "from .a import x"}, models__a="from . import y")
    assert sorted(set(import_circle(tmp_path))) == [
        "tinygrad_char.models",
        "tinygrad_char.models.a",
    ]


def test_modules_that_their_packages_import_are_imported_by_these():
    assert not imported_past_their_packages()


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("from tinygrad_char.kernels.gelu.reference import x", True),
        ("from ..kernels.gelu.erf import x", True),
        ("def f():\n    import tinygrad_char.kernels.gelu.reference", True),
        ("from tinygrad_char.kernels.gelu import reference", False),
        ("import tinygrad_char.kernels.gelu", False),
        ("from tinygrad_char.kernels.gelu.cpu import x", False),
    ],
)
def test_an_import_past_a_package_is_seen(tmp_path, text, seen):
    plant(
        tmp_path,
        **{"kernels/gelu/__init__": "from tinygrad_char.kernels.gelu.reference import forward"},
        kernels__gelu__reference="from tinygrad_char.kernels.gelu.erf import erf",
        kernels__gelu__erf="",
        kernels__gelu__cpu="from tinygrad_char.kernels.gelu.reference import forward",
        models__a=text,
    )
    assert bool(imported_past_their_packages(tmp_path)) == seen


def test_kernels_import_downwards_with_few_exceptions():
    parts, rooms = parts_of_kernels()
    assert parts - rooms == set(PARTS) - {"rooms"}
    assert arrows_up_in_kernels() == UP
    assert len(UP) <= 4


@pytest.mark.parametrize(
    ("file", "text", "to"),
    [
        ("cpu__x", "from tinygrad_char.kernels.softmax import reference", "softmax"),
        ("array", "def f():\n    from tinygrad_char.kernels.cuda import x", "cuda"),
        ("cpu__x", "import tinygrad_char.kernels.backend", "backend"),
        ("softmax__cpu", "from tinygrad_char.kernels import devices", "devices"),
        ("gelu__cpu", "from tinygrad_char.kernels.bias.cpu import x", "bias"),
        ("gelu__cuda", "from ..softmax import cuda", "softmax"),
    ],
)
def test_an_arrow_up_in_kernels_is_seen(tmp_path, file, text, to):
    modules = {f"kernels__{name}": "" for name in ("array", "backend", "devices", "cuda__x")}
    plant(
        tmp_path,
        **modules,
        kernels__gelu__reference="from tinygrad_char.kernels.array import x",
        kernels__bias__reference="from tinygrad_char.kernels.gelu import reference",
        kernels__softmax__reference="from tinygrad_char.kernels.bias import reference",
        kernels__bias__cpu="from tinygrad_char.kernels.gelu.cpu import x",
        kernels__softmax__cuda="from tinygrad_char.kernels.cuda.x import y",
    )
    assert arrows_up_in_kernels(tmp_path) == set()
    plant(tmp_path, **{f"kernels__{file}": text})
    path = f"kernels/{file.replace('__', '/')}.py"
    assert arrows_up_in_kernels(tmp_path) == {f"{path} imports {to}"}


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
    program = (
        "import sys, json; from tinygrad_char import *; print(json.dumps(sorted(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.partition(".")[0] for name in json.loads(result.stdout)}
    assert "tinygrad_char" in loaded
    assert loaded & set(HEAVY) == set()
    assert result.stderr == ""


# Their functions have the words of the reference's, and those of cpu/bench.py and cuda/bench.py.
VERSIONS = ("cpu.py", "cuda.py", "loops.py", "bench.py")
SPOKEN_FOR = (
    *("forward", "backward", "result", "gradients", "better", "value", "loss", "slope"),
    "extra_repr",
)
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


def not_shipped(packages, data, root=ROOT):
    """Return the files in the folders of packages, by name, that package_data has no pattern for.

    A file is one of the nearest package above it, and patterns are relative to that.
    """
    missing = []
    for path in sorted(each for folder in LAYERS for each in (root / folder).rglob("*")):
        if (
            not path.is_file()
            or path.suffix in (".py", ".pyc", ".so")
            or root / MEASURED in path.parents
        ):
            continue
        folder, name = next(each for each in packages if each[0] in path.parents)
        patterns = [*data[""], *data.get(name, [])]
        if not any(path in folder.glob(pattern) for pattern in patterns):
            missing.append(str(path.relative_to(root)))
    return missing


def test_setup_ships_every_file_that_is_not_python(setup_arguments):
    names = sorted(setup_arguments["packages"], key=len, reverse=True)  # the inner ones first
    packages = [(folder_of(name, setup_arguments["package_dir"]), name) for name in names]
    assert not_shipped(packages, setup_arguments["package_data"]) == []


def test_a_file_that_is_not_shipped_is_seen(tmp_path):
    for name in ("a.c", "a.toml", "room/b.cu", "room/data/c.h", "room/data/d.bin", "room/e.png"):
        path = tmp_path / "kernels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    packages = [(tmp_path / "kernels/room", "k.room"), (tmp_path / "kernels", "k")]
    data = {"": ["*.c", "*.cu", "*.h"], "k.room": ["data/*.bin"]}
    missing = ["kernels/a.toml", "kernels/room/data/c.h", "kernels/room/e.png"]
    assert not_shipped(packages, data, tmp_path) == missing


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
