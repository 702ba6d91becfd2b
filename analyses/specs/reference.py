"""Reference page of all fields: `python -m analyses.specs.reference` prints docs/reference/options.md."""

from __future__ import annotations

from types import NoneType
from typing import Any

from analyses.specs.kinds import KINDS
from analyses.specs.option import PANELS, defaults_of, options_of, types_of

HEAD = """# Options and study fields

This page lists every field of every kind of run, by topic. A study file and `--set` use the field's name. A command has an option of the
same name, with dashes in place of underscores. Setting a field that a run does not have or does not use is an error.
"""


def reference() -> str:
    """Return the page in Markdown, with one table per panel."""
    kinds: dict[str, list[str]] = {}
    for kind, spec in KINDS.items():
        for name in options_of(spec):
            kinds.setdefault(name, []).append(kind)
    parts = [HEAD]
    for panel in PANELS:
        names = [name for name, owners in kinds.items() if options_of(KINDS[owners[0]])[name].panel == panel]
        lines = ["| field | kinds of run | type | default | meaning |", "| --- | --- | --- | --- | --- |"]
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


if __name__ == "__main__":
    print(reference(), end="")
