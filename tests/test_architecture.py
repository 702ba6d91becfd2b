"""Who may import whom, and what `--help` may not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "landscape": {"landscape"},
    "apet": {"apet"},
    "analyses": {"analyses", "apet", "landscape"},
    "figures": {"figures", "analyses"},
}
OURS = {*ALLOWED, "cli"}


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_lies_below_them(package):
    for path in (ROOT / package).rglob("*.py"):
        assert imported(path) & OURS <= ALLOWED[package], path


def test_landscape_needs_only_torch_scipy_and_numpy():
    allowed = {"landscape", "torch", "scipy", "numpy"} | set(sys.stdlib_module_names)
    for path in (ROOT / "landscape").rglob("*.py"):
        assert imported(path) <= allowed, path


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
