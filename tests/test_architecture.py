"""The structure of the code: file sizes, allowed imports, exports of each room, and modules that `--help` must not load."""

import ast
import re
import subprocess
import sys
from collections import Counter

import pytest
from architecture import PACKAGES, ROOT, circles, exports, files, graph, home, imports, is_room, room_of

MAX_LINES = 300
MAX_FILES = 24
ALLOWED = {
    "landscape": {"landscape"},
    "apet": {"apet"},
    "analyses": {"analyses", "apet", "landscape"},
    "figures": {"figures", "analyses"},
}
OURS = {*ALLOWED, "cli"}
# Files that are tables of data with one entry per line.
DATA_TABLES: set[str] = set()
# Names that a room exports for users of the library, although no other room imports them.
API = {"landscape": set(exports("landscape"))}

ROOMS = [name for name in files() if is_room(name)]


def test_files_are_short():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in files().items()}
    assert {name for name, length in lengths.items() if length > MAX_LINES} <= DATA_TABLES


def test_folders_are_small():
    direct = [path for package in PACKAGES for path in (ROOT / package).glob("*.py")]
    assert len(direct) <= MAX_FILES
    for room in ROOMS:
        assert len(list(files()[room].parent.glob("*.py"))) <= MAX_FILES, room


def test_no_files_import_each_other():
    assert not circles(graph())


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_lies_below_them(package):
    for path in (ROOT / package).rglob("*.py"):
        names = {module.split(".")[0] for module, _ in imports(path, typing=True)}
        assert names & OURS <= ALLOWED[package], path


def test_landscape_needs_only_torch_scipy_and_numpy():
    allowed = {"landscape", "torch", "scipy", "numpy"} | set(sys.stdlib_module_names)
    for path in (ROOT / "landscape").rglob("*.py"):
        assert {module.split(".")[0] for module, _ in imports(path, typing=True)} <= allowed, path


def test_figures_load_nothing_heavy_of_the_analyses():
    heavy = {"torch", "transformers", "datasets", "accelerate", "peft"}
    todo, seen = [name for name in graph() if name.startswith("figures.")], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        body = ast.parse(files()[name].read_text(encoding="utf-8")).body  # run-time imports only
        lines = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
        modules = [(alias.name, "") for node in lines if isinstance(node, ast.Import) for alias in node.names]
        modules += [(str(node.module), alias.name) for node in lines if isinstance(node, ast.ImportFrom) for alias in node.names]
        assert not {module.split(".")[0] for module, _ in modules} & heavy, name
        todo += [target for target in (home(*pair) for pair in modules) if target in graph()]


def test_other_rooms_are_imported_not_their_files():
    past = {
        (name, module)
        for name, path in files().items()
        for module, _ in imports(path, typing=True)
        if module in files() and not is_room(module) and room_of(module) not in ("", room_of(name), *_passing_on(name))
    }
    assert not past


def _passing_on(name: str) -> set[str]:
    """Return the rooms whose names this package's or room's `__init__` file exports: the rooms inside it."""
    return {room for room in ROOMS if files()[name].name == "__init__.py" and room.startswith(name + ".")}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for(room):
    docstring = ast.get_docstring(ast.parse(files()[room].read_text(encoding="utf-8")))
    assert docstring
    assert len(docstring.splitlines()) <= 5


def test_what_a_room_exports_exists_and_is_used():
    sources = [path for folder in (*PACKAGES, "benchmarks", "tests", "studies") for path in (ROOT / folder).rglob("*.py")]
    used = {(str(path.parent), *pair) for path in (*sources, ROOT / "cli.py") for pair in imports(path, typing=True)}
    unused = set()
    for room in ROOMS:
        outside = {name for folder, module, name in used if module == room and folder != str(files()[room].parent)} | _named_by_cli(room)
        for name, (module, original) in exports(room).items():
            tree = ast.parse(files()[home(module, original)].read_text(encoding="utf-8"))
            assert original in _defined(tree), f"{room} exports {name}, which {module} does not define"
            if name not in outside | API.get(room.split(".")[0], set()):
                unused.add(f"{room}.{name}")
    assert not unused


def _named_by_cli(room: str) -> set[str]:
    """Return the names of a room that cli.py uses as attributes, such as `analyses.runs.check` or, for the terminal, `ui.check`."""
    text = (ROOT / "cli.py").read_text(encoding="utf-8")
    spoken = "ui" if room == "analyses.terminal" else re.escape(room)
    return set(re.findall(rf"(?<![\w.]){spoken}\.(\w+)", text))


def _defined(tree: ast.Module) -> set[str]:
    """Return the names that a module binds at its top level."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def test_tests_mirror_the_rooms():
    for package in PACKAGES:
        for folder in (ROOT / "tests" / package).glob("**/"):
            if folder.name != "__pycache__" and any(folder.glob("*.py")):
                assert (ROOT / folder.relative_to(ROOT / "tests")).is_dir(), folder


def test_a_files_name_stands_once():
    in_rooms = [name for name in files() if room_of(name) not in ("", "figures.plots") and not is_room(name)]
    names = Counter(files()[name].name for name in in_rooms)
    assert {name for name, count in names.items() if count > 1} == set()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["tasks"]])
def test_help_and_listings_do_not_import_torch(arguments):
    script = f"import sys; sys.argv = ['cli.py', *{arguments!r}]\ntry:\n    import cli; cli.main()\n"
    script += "finally:\n    assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_nothing_is_unpickled_and_no_remote_code_is_run():
    for path in ROOT.glob("*/**/*.py"):
        top = path.parts[len(ROOT.parts)]
        if top in {"tests", "results"} or top.startswith(".venv"):
            continue
        text = path.read_text()
        assert "torch.load" not in text, path
        assert "pickle" not in text, path
        assert "trust_remote_code=True" not in text, path


def test_circles_are_told_from_chains():
    chain = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset[str]()}
    assert circles(chain) == set()
    assert circles(chain | {"c": frozenset({"a"})}) == {frozenset("abc")}


def test_names_are_followed_to_the_file_that_defines_them():
    assert home("landscape", "Hessian") == "landscape.curvature.curvature_matrices"
    assert home("apet.subspaces", "Coordinates") == "apet.subspaces.coordinates"
