"""Make the reference page of all fields, docs/reference/options.md."""

from __future__ import annotations

from types import NoneType
from typing import Any

from analyses.specs.kinds import KINDS
from analyses.specs.option import PANELS, defaults_of, options_of, types_of

HEAD = """# Options and study fields

Every field of a run, by what it describes. A study file and `--set` use the field's name; a command has it as an option of the same name, with
dashes. A field that a kind of run does not have, or that a run does not use, is an error.
"""


def reference() -> str:
    """Return the page in Markdown, with a table for each panel."""
    kinds: dict[str, list[str]] = {}
    for kind, spec in KINDS.items():
        for name in options_of(spec):
            kinds.setdefault(name, []).append(kind)
    parts = [HEAD]
    for panel in PANELS:
        names = [name for name, owners in kinds.items() if options_of(KINDS[owners[0]])[name].panel == panel]
        lines = ["| field | of | type | default | meaning |", "| --- | --- | --- | --- | --- |"]
        parts.append("\n".join([f"## {panel}\n", *lines, *(_line(name, kinds[name]) for name in names)]) + "\n")
    return "\n".join(parts)


def _line(name: str, owners: list[str]) -> str:
    spec = KINDS[owners[0]]
    about, types = options_of(spec)[name], [kind.__name__ for kind in types_of(spec)[name] if kind is not NoneType]
    choices = f" One of {', '.join(about.choices)}." if about.choices else ""
    cells = (f"`{name}`", ", ".join(owners), " or ".join(types), about.default or _shown(defaults_of(spec)[name]), about.help + choices)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
