"""Predicted against measured thresholds of a study with several targets, one panel per subspace. Predictors are scored on these cells.

Predictions above 30 % of the rank ceiling are drawn hollow (`analyses.findings.Cell`).
"""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analyses.findings import Cell, cells
from figures import style
from figures.plots.predictions import band
from figures.rows import CannotDraw, models, tidy

HEIGHT = 4.2  # inches: the titles fit above panels of equal axes
MARKERS = ("o", "s", "^", "D", "v", "P")


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: predicted against measured k* on equal log axes, with the band of a factor of 2.

    Colours are models, markers tasks; a hollow marker is a prediction above 30 % of the rank ceiling. Horizontal bars are the measured
    intervals. Raises CannotDraw if no cell has both numbers.
    """
    rows = tidy(rows)
    known = [cell for cell in cells(rows) if math.isfinite(cell.error())]
    if not known:
        raise CannotDraw("no k* for a share of the improvement that also has a prediction in the rows")
    subspaces, tasks = sorted({cell.subspace for cell in known}), sorted({cell.task for cell in known})
    colours, numbers = style.model_colours(models(rows)), [n for cell in known for n in (cell.measured, cell.value())] + _near_ends(known)
    figure = style.new_figure(style.TEXT_WIDTH if len(subspaces) > 1 else style.TEXT_WIDTH * 0.62, HEIGHT)
    for index, (axes, subspace) in enumerate(zip(figure.subplots(1, len(subspaces), squeeze=False)[0], subspaces, strict=True)):
        band(axes, numbers)
        for cell in (cell for cell in known if cell.subspace == subspace):
            marker, fill = MARKERS[tasks.index(cell.task) % len(MARKERS)], "none" if cell.over_rank else "full"
            axes.plot(cell.measured, cell.value(), color=colours[cell.model], marker=marker, fillstyle=fill, ls="none", zorder=3)
            style.bar_along(axes, cell.value(), cell.low, cell.high, colours[cell.model])
        if len(subspaces) > 1:
            style.letter(axes, index, subspace)
        axes.set(xlabel="measured k*", ylabel="predicted k" if index == 0 else "", aspect="equal")
    style.outside_legend(figure, _legend(known, tasks, colours))
    return style.finish(figure)


def _near_ends(known: list[Cell]) -> list[float]:
    """Return the interval ends within a factor of 4 of their value. More distant ends are drawn as arrows at the edge."""
    return [end for cell in known for end in (cell.low, cell.high) if 0.25 <= end / cell.measured <= 4]


def _legend(known: list[Cell], tasks: list[str], colours: dict[str, style.Colour]) -> dict[str, style.Key]:
    drawn = {cell.model for cell in known}
    keys: dict[str, style.Key] = {
        style.short_name(model): Line2D([], [], marker="o", ls="none", color=colour) for model, colour in colours.items() if model in drawn
    }
    for number, task in enumerate(tasks):
        keys[task] = Line2D([], [], marker=MARKERS[number % len(MARKERS)], ls="none", color=style.INK)
    if any(cell.over_rank for cell in known):
        keys["prediction above 30 % of the rank ceiling"] = Line2D([], [], marker="o", ls="none", color=style.INK, fillstyle="none")
    return keys | {"within a factor of 2": Patch(color=style.GREY, alpha=0.18, linewidth=0)}
