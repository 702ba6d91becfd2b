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

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "Drawn", "draw_all"]


def _draw(name: str, rows: pd.DataFrame) -> Figure:
    return import_module(f"figures.plots.{name}").draw(rows)


NAMES = (
    "performance",
    "spectra",
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
    "quadratics",
)
PAGES = ("relief",)  # figures that also have an interactive page
EVERY_TARGET = ("cells",)  # figures that show all targets of a store together
FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {name: partial(_draw, name) for name in NAMES}


@dataclass(frozen=True)
class Drawn:
    """The result of `draw_all`."""

    written: dict[str, list[Path]] = field(default_factory=dict)  # figure -> its PDF and PNG, and its page if it has one
    skipped: dict[str, str] = field(default_factory=dict)  # figure -> reason why it was not drawn


def draw_all(
    rows: pd.DataFrame, out: Path, only: list[str] | None = None, report: Callable[[str, int, int], None] = lambda name, done, of: None
) -> Drawn:
    """Draw the figures named in `only` (default: all), write `out`/NAME.pdf and NAME.png (200 dpi), and for some figures NAME.html.

    report(name, done, total) is called before each figure. A figure is skipped, with a reason, if its rows are absent or ambiguous. Raises
    ValueError for an unknown name.
    """
    from figures.rows import CannotDraw
    from figures.style import save, save_page

    drawn = Drawn()
    names = list(FIGURES) if only is None else [_known(name) for name in only]
    for number, name in enumerate(names):
        report(name, number, len(names))
        try:
            drawn.written[name] = save(FIGURES[name](rows), Path(out), name)
            if name in PAGES:
                drawn.written[name].append(save_page(import_module(f"figures.plots.{name}").page(rows), Path(out), name))
        except CannotDraw as reason:
            drawn.skipped[name] = str(reason)
    return drawn


def _known(name: str) -> str:
    if name in FIGURES:
        return name
    near = difflib.get_close_matches(name, FIGURES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(FIGURES)}"
    raise ValueError(f"unknown figure '{name}': {hint}")
