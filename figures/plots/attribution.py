"""The causes of a change of k* between two models: the parts of the predicted change as bars, beside the measured change."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analyses.store import QUANTITIES
from figures import layout, style
from figures.rows import CannotDraw, of, pick, tidy, where

HEIGHT = 2.3  # inches per line of panels
COLOURS = {
    "measured_change": style.MEASURED, "explained_total": style.PREDICTED, "explained_spectrum": "#0072b2",
    "explained_alignment": "#009e73", "explained_gap": "#cc79a7", "explained_live": "#e69f00",
}  # fmt: skip
HATCH = "//////"


def data(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the figure draws."""
    return of(rows, *COLOURS, "explain_verdict")


@style.paper()
def draw(rows: pd.DataFrame) -> Figure:
    """Return the figure: one panel per task, subspace and pair of models, with log k*(small) - log k*(large) and 95 % intervals.

    Full bars show the split by eigenvalue rank, hatched bars the split by l / l_1. Raises CannotDraw if the rows hold no attribution.
    """
    rows = tidy(rows)
    changes = data(rows)
    if pick(changes, "explained_total").empty:
        raise CannotDraw("no explained_total in the rows: 'explain' writes them")
    pairs = [pair for _, pair in changes.groupby(["task", "subspace", "x", "parameters", "run_id"])]
    cells = [pair for pair in pairs if {"measured_change", "explained_total"} & set(pair["quantity"])]  # the others would be empty panels
    figure, grid = layout.small_multiples(len(cells), HEIGHT, wide_from=2)
    columns = layout.columns_of(grid)
    for index, (axes, pair) in enumerate(zip(grid, cells, strict=True)):
        _bars(axes, pair)
        verdict = pick(pair, "explain_verdict").iloc[0]
        names = f"{style.short_name(verdict['other_model'])} to\n{style.short_name(verdict['model'])}"
        setting = ", ".join(part for part in (str(pair[name].iloc[0]) for name in ("task", "subspace")) if part)
        layout.letter(axes, index, f"{setting}: {verdict['status']}\n{names}")
        if layout.is_first(axes):
            axes.set_ylabel("log k*(small) − log k*(large)")
    for axes in grid[max(0, len(cells) - columns) :]:  # the lowest panel of each column
        axes.set_xticks(range(len(COLOURS)), [QUANTITIES[quantity].label for quantity in COLOURS], rotation=90)
    keys: dict[str, layout.Key] = {
        "split by rank": Patch(color=style.GREY),
        "split by eigenvalue": Patch(facecolor="white", edgecolor=style.GREY, hatch=HATCH, lw=0.6),
    }
    layout.outside_legend(figure, keys)
    return layout.finish(figure)


def _bars(axes: Axes, rows: pd.DataFrame) -> None:
    axes.axhline(0, color=style.GREY, linewidth=0.6)
    for place, (quantity, colour) in enumerate(COLOURS.items()):
        for aside, by in ((-0.2, "rank"), (0.2, "eigenvalue")):
            bar_row = pick(rows, quantity)
            if quantity != "measured_change":
                bar_row = where(bar_row, bar_row["series"] == by)
            if bar_row.empty or (aside > 0 and quantity in ("measured_change", "explained_total")):
                continue
            value, low, high = (float(bar_row[name].iloc[0]) for name in ("value", "low", "high"))
            wide = quantity in ("measured_change", "explained_total")
            at = place if wide else place + aside
            look = {"facecolor": colour, "linewidth": 0} if aside < 0 else {"facecolor": "white", "hatch": HATCH, "linewidth": 0.6}
            axes.bar(at, value, width=0.7 if wide else 0.36, edgecolor=colour, **look)
            if math.isfinite(low) and math.isfinite(high):
                bar = np.array([[value - low], [high - value]])
                axes.errorbar(at, value, yerr=bar, color=style.INK, elinewidth=0.7, capsize=1.5, ls="none")
    axes.set_xticks([])
    axes.set_xlim(-0.6, len(COLOURS) - 0.4)  # the same limits if the first or last bar is missing
