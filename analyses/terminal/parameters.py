"""Build a command's options from the fields of the kinds of run that it starts."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from types import NoneType
from typing import Annotated, Any

import typer

from analyses.specs import PANELS, Spec, defaults_of, options_of, types_of

COMMON = ("method", "k", "steps", "lr", "batch")  # these fields come first in their panel


def parameters(kinds: tuple[type[Spec], ...], without: Collection[str] = ()) -> list[inspect.Parameter]:
    """Return one typer parameter per field of `kinds`, except the fields in `without`, by panel. The default is None."""
    fields = {
        name: kind for kind in reversed(kinds) for name, about in options_of(kind).items() if about.flag != "" and name not in without
    }
    ordered = sorted(fields, key=lambda name: (PANELS.index(options_of(fields[name])[name].panel), _rank(name)))
    return [_parameter(name, fields[name]) for name in ordered]


def _rank(name: str) -> int:
    return COMMON.index(name) if name in COMMON else len(COMMON)


def _parameter(name: str, kind: type[Spec]) -> inspect.Parameter:
    about, default = options_of(kind)[name], defaults_of(kind)[name]
    (hint,) = (option_type for option_type in types_of(kind)[name] if option_type is not NoneType)
    shown = about.default or ("" if default in (None, "") or isinstance(default, bool) else str(default))
    choices = f"{', '.join(about.shown_choices)}. " if not all(choice in about.help for choice in about.shown_choices) else ""
    text = f"{choices}{about.help}" + (f" \\[default: {shown}]" if shown else "")
    option = typer.Option(
        flag(name, about.flag, default), help=text, rich_help_panel=about.panel, metavar=about.metavar, show_default=False
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[(list[str] if about.repeated else hint) | None, option]
    )


def flag(name: str, declared: str | None, default: Any) -> str:
    """Return the field's option: `declared` or --NAME. A field with the default True also has the opposite, --NAME/--no-NAME."""
    plain = declared or f"--{name.replace('_', '-')}"
    if "/" in plain:
        return plain
    return f"{plain}/--no-{plain[2:]}" if default is True else plain


def as_flag(name: str, value: Any, kinds: Collection[type[Spec]]) -> str:
    """Return the option that sets a field to `value`, for instance "--k K" for k = `...` (a value of the user's choice)."""
    about = next((options_of(kind)[name] for kind in kinds if name in options_of(kind)), None)
    plain = ((about and about.flag) or f"--{name.replace('_', '-')}").partition("/")[0]
    if isinstance(value, bool):
        return plain if value else f"--no-{plain[2:]}"
    return f"{plain} {(about and about.metavar) or name.upper() if value is ... else value}"
