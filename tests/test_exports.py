"""Rooms export their public names, and load modules only on demand."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = sorted(
    ".".join(path.parent.relative_to(ROOT).parts) for package in ("apet", "analyses") for path in ROOT.glob(f"{package}/*/__init__.py")
)


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_of_a_room_is_there(room):
    tree = ast.parse(Path(ROOT, *room.split("."), "__init__.py").read_text())
    names = [alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    for name in {*names} - {"TYPE_CHECKING", "on_demand"}:
        assert getattr(import_module(room), name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        import_module(room).nonsense  # noqa: B018


def test_rooms_load_nothing_by_themselves():
    script = f"import sys\nfor room in {ROOMS}:\n    __import__(room)\nassert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
