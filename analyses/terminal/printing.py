"""Print JSON, lists and tables to stdout, and progress and errors to stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

STDERR, NOTHING = "_stderr", "none"
WIDTH = 120  # columns of a table that is not printed to a terminal
log = Console(stderr=True, markup=False)  # users' names and texts may contain brackets, which must not count as markup


@contextmanager
def bar() -> Iterator[Callable[[str, float, float], None]]:
    """Show a progress bar on stderr and yield its update function (task, amount done, total amount)."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=log, transient=True) as progress:
        bar = progress.add_task("loading", total=None)
        yield lambda task, done, total: progress.update(bar, description=task, completed=done, total=total)


def say(label: str, text: str) -> None:
    """Print a line to stderr: `label` in red, then `text` without markup."""
    log.print(Text.assemble((label, "red"), f" {text}" if label else text), highlight=False, soft_wrap=True)


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """Print one JSON object with every digit, or one line per name and rounded value, with its standard error if there is one."""
    if as_json:
        print(json.dumps(_finite(result), allow_nan=False))
        return
    for name, value in result.items():
        if name.endswith(STDERR) and name.removesuffix(STDERR) in result:
            continue  # printed with its value
        stderr = result.get(name + STDERR)
        print(f"{name}: {_shown(value)}" + ("" if stderr is None else f" ± {stderr:.2g}"))


def _shown(value: Any) -> str:
    """Return a value of a result for people: four digits, thousands separated."""
    if isinstance(value, dict):
        parts = {name: f"({_shown(item)})" if isinstance(item, dict | list) else _shown(item) for name, item in value.items()}
        return ", ".join(f"{name} {part}" for name, part in parts.items()) or NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    return NOTHING if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _finite(value: Any) -> Any:
    """Return `value` with None in place of NaN and infinity, which JSON cannot represent."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def listing(title: str, rows: list[dict[str, Any]], as_json: bool = False, group: str | None = None) -> None:
    """Print the rows as a table, or {title: rows} as JSON.

    The column `group` is not printed: an empty line separates rows with different values of it.
    """
    if as_json:
        return print_result({title: rows}, True)
    table = Table(*(Column(name, overflow="fold") for name in rows[0] if name != group), box=None)
    for before, row in zip([rows[0], *rows], rows, strict=False):
        if group is not None and before[group] != row[group]:
            table.add_row()
        table.add_row(*(cell(value) for name, value in row.items() if name != group))
    Console(width=None if sys.stdout.isatty() else WIDTH, markup=False).print(table)


def print_plan(plan: dict[str, Any], as_json: bool) -> None:
    """Print a study's plan (`analyses.studies.plan`), with its models as a table."""
    if as_json:
        return print_result(plan, True)
    notes = {line["model"]: line.pop("note") for line in plan["models"] if "note" in line}
    print_result({name: value for name, value in plan.items() if name != "models"}, False)
    if plan["models"]:
        listing("models", plan["models"])
    for model, note in notes.items():
        log.print(f"{model}: {note}", highlight=False, soft_wrap=True)


def cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if isinstance(value, list):
        return " / ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)
