"""Figures and a report from tidy rows. The package only reads rows; the analyses have computed all numbers. matplotlib is imported on first
use.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from figures.venues import DEFAULT, Columns, Page, Style, drawn_for, page_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "Columns", "Drawn", "Style", "draw_all", "page_of"]


def _draw(name: str, rows: pd.DataFrame) -> Figure:
    return import_module(f"figures.plots.{name}").draw(rows)


NAMES = (
    "claims",
    "performance",
    "methods",
    "positions",
    "spectra",
    "n_eff",
    "scale",
    "layers",
    "thresholds",
    "crossing",
    "predictions",
    "cells",
    "paths",
    "attribution",
    "slices",
    "contours",
    "ratios",
    "surfaces",
    "relief",
    "placements",
    "cost",
    "quadratics",
)
PAGES = ("relief",)  # figures that also have an interactive page
EVERY_TARGET = ("cells",)  # figures that show all targets of a store together
FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {name: partial(_draw, name) for name in NAMES}


@dataclass(frozen=True)
class Drawn:
    """The result of `draw_all`."""

    written: dict[str, list[Path]] = field(default_factory=dict)  # figure -> its PDF, SVG, PNG and CSV, and its page if it has one
    tables: dict[str, list[Path]] = field(default_factory=dict)  # table -> its CSV, LaTeX and Markdown
    skipped: dict[str, str] = field(default_factory=dict)  # figure -> reason why it was not drawn

    @property
    def summary(self) -> dict[str, dict]:
        """The JSON object of the command. Without `only`, it also lists the tables."""
        written, tables = ({name: list(map(str, paths)) for name, paths in found.items()} for found in (self.written, self.tables))
        return {"written": written, **({"tables": tables} if tables else {}), "skipped": self.skipped}


def draw_all(
    rows: pd.DataFrame,
    out: Path,
    only: list[str] | None = None,
    report: Callable[[str, int, int], None] = lambda name, done, of: None,
    page: Page = DEFAULT,
) -> Drawn:
    """Draw the figures named in `only` (default: all) for `page`, and write `out`/NAME.pdf, NAME.svg, NAME.png (200 dpi) and NAME.csv.

    NAME.csv holds the rows that the figure draws. Some figures also have an interactive page, NAME.html. Without `only`, the tables of
    thresholds, claims and methods are written to `out`/tables as CSV, LaTeX and Markdown. report(name, done, total) is called before each
    figure. A figure or table is skipped, with a reason, if its rows are absent or ambiguous. Raises ValueError for an unknown name.
    """
    from figures.files import save_data, save_page
    from figures.rows import CannotDraw, tidy
    from figures.style import save
    from figures.tables import write_tables

    drawn, out = Drawn(), Path(out)
    names = list(FIGURES) if only is None else [_known(name) for name in only]
    with drawn_for(page):
        for number, name in enumerate(names):
            report(name, number, len(names))
            module = import_module(f"figures.plots.{name}")
            try:
                figure = FIGURES[name](rows)
                drawn.written[name] = [*save(figure, out, name), save_data(module.data(tidy(rows)), out, name)]
                if name in PAGES:
                    drawn.written[name].append(save_page(module.page(rows), out, name))
            except CannotDraw as reason:
                drawn.skipped[name] = str(reason)
    if only is None:
        tables, skipped = write_tables(rows, out / "tables")
        drawn.tables.update(tables)
        drawn.skipped.update({f"table of {name}": reason for name, reason in skipped.items()})
    return drawn


def _known(name: str) -> str:
    if name in FIGURES:
        return name
    near = difflib.get_close_matches(name, FIGURES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(FIGURES)}"
    raise ValueError(f"unknown figure '{name}': {hint}")
