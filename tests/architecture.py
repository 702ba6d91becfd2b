"""Read the packages' imports: files, rooms, the files that each file imports, and circular imports."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("landscape", "apet", "analyses", "figures")


@cache
def files() -> dict[str, Path]:
    """Return {module name: file} of the four packages. A room's `__init__` has the room's name."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return dict(zip(names, paths, strict=True))


def is_room(module: str) -> bool:
    """Return whether the module is a folder below a package, like apet.subspaces or apet.tasks.generated."""
    return module in files() and files()[module].name == "__init__.py" and "." in module


def room_of(module: str) -> str:
    """Return the room that contains a module or that the module is, or "" for a file directly in a package."""
    name = module if is_room(module) else module.rpartition(".")[0]
    return name if is_room(name) else ""


def _typing_only(tree: ast.Module) -> set[ast.AST]:
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"]
    return {inner for block in blocks for inner in ast.walk(block)}


def imports(path: Path, *, typing: bool) -> list[tuple[str, str]]:
    """Return (module, name) of every import in a file, including functions. The name is "" for `import module`.

    With `typing`, imports under `if TYPE_CHECKING` count too.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out = set() if typing else _typing_only(tree)
    nodes = [node for node in ast.walk(tree) if node not in left_out]
    names = [(alias.name, "") for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return names + [(node.module, alias.name) for node in nodes if isinstance(node, ast.ImportFrom) and node.module for alias in node.names]


@cache
def exports(room: str) -> dict[str, tuple[str, str]]:
    """Return {name: (module, name in the module)} of all names that a room's or package's `__init__` imports from this project."""
    tree = ast.parse(files()[room].read_text(encoding="utf-8"))
    lines = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(room + ".")]
    return {alias.asname or alias.name: (str(node.module), alias.name) for node in lines for alias in node.names}


def home(module: str, name: str) -> str:
    """Return the file that defines the name of `from module import name`, through all `__init__` files that export the name."""
    while module in files() and files()[module].name == "__init__.py" and name in exports(module):
        module, name = exports(module)[name]
    return f"{module}.{name}" if f"{module}.{name}" in files() else module


@cache
def graph() -> dict[str, frozenset[str]]:
    """Return {file: files that it imports at run time}. `__init__` files only export names and are left out."""
    modules = {name: path for name, path in files().items() if path.name != "__init__.py"}
    edges = {name: {home(*pair) for pair in imports(path, typing=False)} for name, path in modules.items()}
    return {name: frozenset(targets & modules.keys() - {name}) for name, targets in edges.items()}


def circles(edges: dict[str, frozenset[str]]) -> set[frozenset[str]]:
    """Return the groups of files that import each other directly or indirectly (strongly connected components)."""
    reach: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        todo = list(edges[start])
        while todo:
            module = todo.pop()
            if module not in seen:
                seen.add(module)
                todo += edges[module]
        reach[start] = seen
    return {frozenset(b for b in reach[a] if a in reach[b]) for a in edges if a in reach[a]}
