"""Predicted against measured thresholds of a study with several targets, one panel per task and subspace.

Predictors are scored on these cells. Predictions above 30 % of the rank ceiling are drawn hollow (`analyses.findings.Cell`).
"""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from analyses.findings import PREDICTOR, Cell, cells
from analyses.store import quantities
from figures import layout, style
from figures.plots.predictions import band, band_key
from figures.rows import CannotDraw, models, of, tidy

HEIGHT = 2.1  # inches per line of panels


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    return of(rows, quantities.K_STAR, PREDICTOR, PREDICTOR + quantities.OVER_RANK, "target_share")


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: predicted against measured k* on equal log axes, with the band of a factor of 2.

    Each model has a colour and a marker; a hollow marker is a prediction above 30 % of the rank ceiling. Horizontal bars are the measured
    intervals. Raises CannotDraw if no cell has both numbers.
    """
    rows = tidy(rows)
    known = [cell for cell in cells(rows) if math.isfinite(cell.error())]
    if not known:
        raise CannotDraw("no k* for a share of the improvement that also has a prediction in the rows")
    panels = sorted({(cell.subspace, cell.task) for cell in known})
    looks, numbers = style.model_looks(models(rows)), [n for cell in known for n in (cell.measured, cell.value())] + _near_ends(known)
    figure, grid = layout.small_multiples(len(panels), HEIGHT, most=3)
    for index, (axes, (subspace, task)) in enumerate(zip(grid, panels, strict=True)):
        band(axes, numbers)
        for cell in (cell for cell in known if (cell.subspace, cell.task) == (subspace, task)):
            look = _look(looks[cell.model], cell.over_rank)
            axes.plot(cell.measured, cell.value(), **look.line(linestyle="none"), markersize=3.5, zorder=3)
            style.bar_along(axes, cell.value(), cell.low, cell.high, looks[cell.model].colour)
        layout.letter(axes, index, f"{task}, {subspace}" if len({name for _, name in panels}) > 1 else subspace)
        axes.set(xlabel="measured k*", ylabel="predicted k" if layout.is_first(axes) else "", aspect="equal")
    layout.outside_legend(figure, _legend(known, looks))
    return layout.finish(figure)


def _look(look: style.Look, over_rank: bool) -> style.Look:
    return replace(look, fill="none") if over_rank else look


def _near_ends(known: list[Cell]) -> list[float]:
    """Return the interval ends within a factor of 4 of their value. More distant ends are drawn as arrows at the edge."""
    return [end for cell in known for end in (cell.low, cell.high) if 0.25 <= end / cell.measured <= 4]


def _legend(known: list[Cell], looks: dict[str, style.Look]) -> dict[str, layout.Key]:
    drawn = {cell.model for cell in known}
    keys: dict[str, layout.Key] = {style.short_name(name): look.key(ls="none") for name, look in looks.items() if name in drawn}
    if any(cell.over_rank for cell in known):
        keys["hollow: above 30 % of the rank"] = style.Look(style.INK, "h", "none", "none").key()
    return keys | band_key()
