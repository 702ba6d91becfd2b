"""What commands print: JSON, lists and tables on stdout; progress and errors on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

log = Console(stderr=True, markup=False)  # names and texts of users are printed as they are


@contextmanager
def bar() -> Iterator[Callable[[str, float, float], None]]:
    """A progress bar on stderr: call it with what is done, how much, of how much."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=log, transient=True) as progress:
        bar = progress.add_task("loading", total=None)
        yield lambda what, done, total: progress.update(bar, description=what, completed=done, total=total)


def say(what: str, text: str) -> None:
    """A line on stderr, its first word in red; the text is no markup."""
    log.print(Text.assemble((what, "red"), f" {text}" if what else text), highlight=False, soft_wrap=True)


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """One JSON object, or a line for each name and value."""
    if as_json:
        print(json.dumps(_finite(result), allow_nan=False))
        return
    for name, value in result.items():
        print(f"{name}: {json.dumps(value) if isinstance(value, (dict, list)) else value}")


def _finite(value: Any) -> Any:
    """Return `value` with None in place of NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def listing(title: str, rows: list[dict[str, Any]], as_json: bool = False) -> None:
    """A table of the rows, or {title: rows} as JSON."""
    if as_json:
        return print_result({title: rows}, True)
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*(cell(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 120, markup=False).print(table)


def print_plan(found: dict[str, Any], as_json: bool) -> None:
    """A study's plan (`analyses.studies.plan`), its models as a table."""
    if as_json:
        return print_result(found, True)
    notes = {line["model"]: line.pop("note") for line in found["models"] if "note" in line}
    print_result({name: value for name, value in found.items() if name != "models"}, False)
    if found["models"]:
        listing("models", found["models"])
    for model, note in notes.items():
        log.print(f"{model}: {note}", highlight=False, soft_wrap=True)


def cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if isinstance(value, list):
        return " / ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)
