"""Lazy imports for packages: a name is imported at its first use, so that `--help` and listings do not import torch."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def on_demand(package: str, init: str) -> Callable[[str], Any]:
    """Return a `__getattr__` for `package` that imports each public name from its module at first use.

    The package's `__init__` file, `init`, lists the public names once: as imports under `if TYPE_CHECKING:`, which type checkers read too.
    """
    blocks = [node for node in ast.parse(Path(init).read_text()).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: str(node.module) for node in imports for alias in node.names}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(homes[name]), name)

    return get
